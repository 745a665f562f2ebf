"""The report of a comparison: one HTML file that needs neither network nor server."""

import base64
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.runs.compare import Comparison, Section
from lightning_seg.runs.directory import PICTURES
from lightning_seg.runs.groups import short, show_setting, varied
from lightning_seg.runs.records import Record
from lightning_seg.runs.statistics import score
from lightning_seg.runs.tables import EXPLANATION

_POINTS = 100  # of each curve
_SETTINGS = 12  # columns of the table of runs
_SHOWN = 8  # groups of a section whose pictures go in
_PICTURE_BYTES = 6_000_000  # of all pictures together
_GAP = 8  # pixels between the pictures that `lightning_seg.pictures.comparison` lays out


def write_report(comparison: Comparison, file: Path) -> None:
    """Write a comparison with curves, classes and pictures as an HTML file.

    Args:
        comparison: What `lightning_seg.runs.compare.compare` found.
        file: Where to write; its folder is made.
    """
    here = Path(__file__).parent
    data = json.dumps(
        _plain(_content(comparison)), separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    # Within a script element only "<" could end it: names of runs, classes and tags are anyone's.
    parts = {"STYLE": (here / "report.css").read_text(), "SCRIPT": (here / "report.js").read_text()}
    page = (here / "report.html").read_text()
    for name, text in (*parts.items(), ("DATA", data.replace("<", "\\u003c"))):
        before, after = page.split(f"{{{{{name}}}}}", 1)
        page = before + text + after
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")


def cut_picture(picture: np.ndarray) -> tuple[list[list[np.ndarray]], np.ndarray]:
    """Cut a picture of `lightning_seg.pictures.comparison` into images, truths, predictions, errors and legend.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        For each image its four pictures (h, w, 3), none if it is laid out in another way; the legend (h, w, 3).
    """
    width = (picture.shape[1] - _GAP) // 4 - _GAP
    if width < 1:
        return [], picture
    lefts = [_GAP + i * (width + _GAP) for i in range(4)]
    # The map of errors has no white pixel; all around it is white.
    error = picture[:, lefts[3] : lefts[3] + width]
    inside = np.concatenate([[False], (error != 255).any(2).all(1), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    if not len(edges) or edges[-1] == len(picture):  # there is a legend below the last one
        return [], picture
    rows = [
        [picture[top:bottom, left : left + width] for left in lefts]
        for top, bottom in zip(edges[::2], edges[1::2], strict=True)
    ]
    return rows, picture[edges[-1] :]


def _content(comparison: Comparison) -> dict[str, Any]:
    places: dict[Path, tuple[int, int]] = {}
    for s, section in enumerate(comparison.sections):
        for g, group in enumerate(section.groups):
            places |= {record.path: (s, g) for record in group.records}
    budget = [_PICTURE_BYTES]
    sections = [_section(section, budget) for section in comparison.sections]
    keys = varied([record for record in comparison.records if not record.problem])[:_SETTINGS]
    data_names = [section.protocol.get("data") for section in comparison.sections]
    return {
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "explanation": EXPLANATION,
        "remarks": comparison.remarks,
        "sections": sections,
        "settings": short(keys),
        "runs": [_run(record, places.get(record.path), keys, data_names) for record in comparison.records],
    }


def _section(section: Section, budget: list[int]) -> dict[str, Any]:
    own = section.sample.group(np.arange(len(section.groups)))
    half = own.half_width()
    groups = []
    for i, row in enumerate(section.rows()):
        counts = sum(record.counts.sum(0) for record in section.groups[i].records)
        hit, predicted, true = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
        union = np.where(predicted + true > hit, predicted + true - hit, np.nan)
        difference = section.differences[i][0] if i in section.differences else None
        row["classes"] = {
            "iou": own.value[i, 1:],
            "half": half[i, 1:],
            "difference": difference.value[1:] if difference else None,
            "difference_half": difference.half_width()[1:] if difference else None,
            "missed": (true - hit) / union,
            "added": (predicted - hit) / union,
        }
        del row["iou"], row["iou_difference"]
        row["name"] = row.pop("experiment")
        groups.append(row)
    return {
        "title": section.title,
        "protocol": {k: v for k, v in section.protocol.items() if k != "classes"},
        "classes": section.protocol.get("classes", []),
        "reference": section.reference,
        "sentences": [f"{section.sentence(i)}. {section.class_sentence(i)}" for i in section.differences],
        "remark": section.remark,
        "groups": groups,
        "pictures": _pictures(section, budget),
    }


def _run(
    record: Record, place: tuple[int, int] | None, keys: Sequence[str], data: Sequence[Any]
) -> dict[str, Any]:
    curves = record.curves()
    speed = curves.get("train/images_per_second")
    if place is None:  # not tested: it belongs to the runs on the same data
        name = str((record.config.get("data") or {}).get("class_path", "")).rsplit(".", 1)[-1]
        place = (data.index(name) if name in data else -1, -1)
    return {
        "section": place[0],
        "group": place[1],
        "experiment": record.experiment,
        "id": record.id,
        "path": str(record.path),
        "status": record.status,
        "problem": record.problem,
        "seed": record.seed,
        "time": record.time,
        "tags": record.tags,
        "commit": str(record.environment.get("commit") or "")[:7],
        "scores": {name: 100 * record.score(name) for name in ("miou", "dice", "pixel_accuracy")},
        "speed": float(np.median(speed[:, 2])) if speed is not None else None,
        "settings": [show_setting(record, key) for key in keys],
        "curves": {
            k: _thinned(v) for k, v in curves.items() if k not in ("val/classes_present", "val/recall")
        },
    }


def _pictures(section: Section, budget: list[int]) -> dict[str, Any] | None:
    """Embed the pictures of the same test images by the first groups; of several seeds that of the median score."""
    content: dict[str, Any] | None = None
    for g in dict.fromkeys([section.reference, *range(len(section.groups))][: _SHOWN + 1]):
        records = sorted(section.groups[g].records, key=lambda r: r.score("miou"))
        record = records[len(records) // 2]
        rows, legend = _read_pictures(record)
        if not rows or len(rows) > len(record.image_names):
            continue
        if content is None:
            # The images that were drawn are spread over the split: see `lightning_seg.callbacks.pictures.Pictures`.
            shown = [int(i) for i in np.linspace(0, len(record.image_names) - 1, len(rows))]
            reference = [row[2] for row in rows]
            content = {
                "names": [record.image_names[i] for i in shown],
                "images": [_jpeg(row[0]) for row in rows],
                "truths": [_jpeg(row[1]) for row in rows],
                "legend": _jpeg(legend),
                "reference": g,
                "columns": {},
            }
        if len(rows) != len(reference):  # drawn with another number of pictures
            continue
        tiles = [
            {
                "prediction": _jpeg(prediction),
                "error": _jpeg(error),
                "other": _mask(prediction, other) if prediction.shape == other.shape else None,
                "score": 100 * float(score(record.counts[i])[0]),
            }
            for (_, _, prediction, error), other, i in zip(rows, reference, shown, strict=True)
        ]
        budget[0] -= len(json.dumps(tiles))
        if budget[0] < 0:
            break
        content["columns"][g] = tiles
    return content


def _read_pictures(record: Record) -> tuple[list[list[np.ndarray]], np.ndarray]:
    from PIL import Image

    try:
        with Image.open(record.path / PICTURES / "test.png") as picture:
            return cut_picture(np.asarray(picture.convert("RGB")))
    except (OSError, ValueError, SyntaxError):  # none, or not whole
        return [], np.empty((0, 0, 3), np.uint8)


def _jpeg(pixels: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _mask(a: np.ndarray, b: np.ndarray) -> str:
    """Draw where two pictures differ, the rest transparent."""
    from PIL import Image

    picture = Image.fromarray((a != b).any(2).astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 0, 200])
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=0, optimize=True, bits=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _thinned(points: np.ndarray) -> list[list[float]]:
    """Average neighbouring points (P, 3) so that about a hundred are left; return steps, epochs and values."""
    starts = np.unique(np.linspace(0, len(points), min(_POINTS, len(points)), endpoint=False).astype(int))
    ends = np.append(starts[1:], len(points))
    values = np.add.reduceat(points[:, 2], starts) / (ends - starts)
    return [*points[ends - 1, :2].T.tolist(), values.tolist()]


def _plain(value: Any) -> Any:
    """Turn arrays into lists, round to five digits, NaN to null."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    return value
