"""Which tool's annotation files lie in a folder: for the error of a data set that was told something else."""

import re
from itertools import islice
from pathlib import Path

from lightning_seg.data.files import is_hidden

_FILES = 400  # looked at
_HEAD = 1 << 16  # bytes


def recognized(root: Path, own: str = "") -> str:
    """Name the format of annotation files below a folder, and the data set that reads it; nothing if none is known.

    Args:
        root: The folder.
        own: Name of the data set that found nothing.
    """
    files = (
        path
        for pattern in ("*", "*/*", "*/*/*")
        for path in sorted(root.glob(pattern))
        if path.suffix.lower() in (".json", ".xml", ".txt")
        and path.is_file()
        and not any(map(is_hidden, path.relative_to(root).parts))
    )
    for path in islice(files, _FILES):
        if (kind := _kind(path)) is not None and kind[0] != own:
            name, tool = kind
            advice = (
                f"the data set {name} reads it (data.class_path: {name})"
                if name
                else "it says nothing of pixels"
            )
            return f"{path} looks like a file of {tool}: {advice}."
    return ""


def _kind(path: Path) -> tuple[str, str] | None:
    """Return the data set and the tool of an annotation file."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _HEAD))
            text = (head + file.read()).decode("utf-8", errors="replace").lstrip("\ufeff \n\r\t")
    except OSError:
        return None
    if path.suffix.lower() == ".xml":
        if "<annotations" in text:
            return "CVAT", "CVAT"
        return ("", "Pascal VOC's boxes") if "<bndbox>" in text else None
    if path.suffix.lower() == ".txt":
        first = text.splitlines()[0].split() if text else []
        numbers = first and all(re.fullmatch(r"\d+|[01]?\.\d+(e-?\d+)?", part) for part in first)
        if (
            not numbers
            or not first[0].isdecimal()
            or len(first) < 5
            or path.name.startswith(("train", "val", "test"))
        ):
            return None
        return ("YOLOPolygons", "YOLO's polygons") if len(first) > 6 else ("", "YOLO's boxes")
    if '"shapes"' in text and '"imagePath"' in text:
        return "LabelMe", "LabelMe"
    if text.startswith("[") and '"annotations"' in text and '"data"' in text:
        return "LabelStudio", "Label Studio"
    if '"annotations"' in text and ('"categories"' in text or '"image_id"' in text):
        return "COCOFormat", "COCO's format"
    return None
