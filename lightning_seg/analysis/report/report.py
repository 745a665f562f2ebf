"""The report of a comparison: one HTML file that needs neither network nor server."""

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.analysis.blocks import Block
from lightning_seg.analysis.groups import names_of_runs, short, show_setting, varied
from lightning_seg.analysis.metrics import MIOU
from lightning_seg.analysis.section import Section
from lightning_seg.analysis.settings import short_names
from lightning_seg.analysis.tables import EXPLANATION, Comparison
from lightning_seg.metrics.scores import class_errors, class_iou, merge_classes, miou_and_iou
from lightning_seg.runs.directory import CONFIG, METRICS, PICTURES, JsonObject
from lightning_seg.runs.records import Record

_POINTS = 100  # of each curve
_CLASS_POINTS = 30  # of the curve of a class
_RUNNING = 600  # seconds without a new row after which a run without a test is taken for stopped
_SETTINGS = 12  # columns of the table of runs
_SHOWN = 8  # groups of a section whose pictures go in
_PICTURE_BYTES = 6_000_000  # of all pictures together
_MATRIX = 40  # classes in a confusion matrix
_IMAGES = 2000  # test images in a list of them


@dataclass(frozen=True)
class Heading:
    """What a page is about, said before its tables.

    Args:
        question: The question that the runs answer, in a sentence.
        settings: For each variant the settings in which it differs from the base experiment.
        blocks: What else there is to say, such as how settings were chosen.
    """

    question: str = ""
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blocks: Sequence[Block] = ()


def write_report(comparison: Comparison, file: Path, heading: Heading | None = None) -> None:
    """Write a comparison with curves, classes and pictures as an HTML file.

    Args:
        comparison: What `lightning_seg.analysis.compare.compare` found.
        file: Where to write; its folder is made.
        heading: The question and the variants of an ablation.

    Examples:
        >>> write_report(compare(["runs/demo"]), Path("report.html"))
        >>> Path("report.html").exists()
        True
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(comparison, heading or Heading()), encoding="utf-8")


def page(comparison: Comparison, heading: Heading, live: bool = False) -> str:
    """Render the HTML page.

    Args:
        comparison: What was found.
        heading: The question and the variants of an ablation.
        live: Whether a server on this machine answers the page's requests for pictures of any test image.
    """
    here = Path(__file__).parent
    content = _content(comparison) | {
        "live": live,
        "question": heading.question,
        "variants": heading.settings,
    }
    data = json.dumps(_plain(content), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Within a script element only "<" could end it: names of runs, classes and tags are anyone's.
    script = "".join((here / f"report.{name}").read_text() for name in ("curves.js", "pictures.js", "js"))
    parts = {"STYLE": (here / "report.css").read_text(), "SCRIPT": script}
    html = (here / "report.html").read_text()
    html = html.replace("{{BLOCKS}}", "".join(block.html() for block in heading.blocks))
    if live:
        html = html.replace("img-src data:", "img-src data: 'self'")
    for name, text in (*parts.items(), ("DATA", data.replace("<", "\\u003c"))):
        before, after = html.split(f"{{{{{name}}}}}", 1)
        html = before + text + after
    return html


def _content(comparison: Comparison) -> JsonObject:
    places: dict[Path, tuple[int, int]] = {}
    for s, section in enumerate(comparison.sections):
        for g, group in enumerate(section.groups):
            places |= {record.path: (s, g) for record in group.records}
    budget = [_PICTURE_BYTES]
    sections = [_section(section, budget) for section in comparison.sections]
    keys = varied([record for record in comparison.records if not record.problem])[:_SETTINGS]
    data_names = [section.protocol.get("data") for section in comparison.sections]
    names = names_of_runs(comparison.records)
    return {
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "explanation": EXPLANATION,
        "remarks": comparison.remarks,
        "sections": sections,
        "settings": short(keys),
        "runs": [
            _run(record, places.get(record.path), keys, data_names) | {"name": names[record.path]}
            for record in comparison.records
        ],
    }


def _section(section: Section, budget: list[int]) -> JsonObject:
    by_class = section.sample.value.shape[1] > 1
    own = section.sample.group(np.arange(len(section.groups)))
    half = own.half_width()
    groups = []
    for i, row in enumerate(section.rows()):
        counts = np.sum([record.counts.sum(0) for record in section.groups[i].records], axis=0)
        missed, added = class_errors(counts)
        difference = section.class_difference(i) if by_class and i in section.differences else None
        row["classes"] = {
            "score": own.value[i, 1:] if by_class else miou_and_iou(counts)[1:],
            "half": half[i, 1:] if by_class else None,
            "difference": difference[0].value if difference else None,
            "difference_half": difference[1] if difference else None,
            "iou": class_iou(counts),
            "missed": missed,
            "added": added,
        }
        del row["class_difference"]
        row["name"], row["miou"] = row.pop("experiment"), row.pop("score")
        row["settings"] = list(row["settings"].values())
        row["confusion"] = _confusion(section, i) if i in _shown(section) else None
        groups.append(row)
    return {
        "title": section.title,
        "protocol": {k: v for k, v in section.protocol.items() if k != "classes"},
        "classes": section.protocol.get("classes", []),
        "reference": section.reference,
        "metric": section.measure.title,
        "of_classes": "IoU" if not by_class or section.measure == MIOU else section.measure.label,
        "settings": short_names(section.settings),
        "summary": section.summary,
        "sentences": [
            f"{section.sentence(i)}. {section.class_sentence(i)}".rstrip() for i in section.differences
        ],
        "remark": section.remark,
        "groups": groups,
        "pictures": _pictures(section, budget),
        "images": _images(section),
    }


def _run(
    record: Record, place: tuple[int, int] | None, keys: Sequence[str], data: Sequence[str | None]
) -> JsonObject:
    curves = record.curves(classes=place is None or place[1] < _SHOWN)
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
        "status": _status(record),
        "problem": record.reason,
        "seed": record.seed,
        "time": record.time,
        "tags": record.tags,
        "commit": str(record.environment.get("commit") or "")[:7],
        "scores": {name: 100 * record.score(name) for name in ("miou", "dice", "pixel_accuracy")},
        "speed": float(np.median(speed[:, 2])) if speed is not None else None,
        "batch": record.environment.get("effective_batch_size"),
        "settings": [show_setting(record, key) for key in keys],
        "curves": {
            k: _thinned(v, _CLASS_POINTS if k.count("/") > 1 else _POINTS)
            for k, v in curves.items()
            if k not in ("val/classes_present", "val/recall")
        },
    }


def _shown(section: Section) -> list[int]:
    """List the groups whose pictures and matrices go in: the reference and the first ones."""
    return list(dict.fromkeys([section.reference, *range(len(section.groups))]))[: _SHOWN + 1]


def _confusion(section: Section, g: int) -> JsonObject | None:
    """Add up the confusion matrices of a group's runs; percent of the true pixels."""
    matrices = [record.confusion for record in section.groups[g].records]
    known = [matrix for matrix in matrices if matrix is not None]
    if not known:
        return None
    counts, names = merge_classes(np.sum(known, axis=0), section.protocol.get("classes", []), _MATRIX)
    true = counts.sum(1, keepdims=True)
    return {"names": names, "percent": np.where(true > 0, 100 * counts / np.maximum(true, 1), np.nan)}


def _images(section: Section) -> JsonObject:
    """Score every test image; of very many the worst and the best."""
    shown = _shown(section)
    scores = [
        miou_and_iou(np.sum([r.counts for r in section.groups[g].records], axis=0))[:, 0] for g in shown
    ]
    order = np.argsort(np.nan_to_num(np.mean(scores, axis=0), nan=np.inf), kind="stable")
    if len(order) > _IMAGES:
        order = np.concatenate([order[: _IMAGES // 2], order[-_IMAGES // 2 :]])
    names = section.groups[0].records[0].image_names
    return {
        "names": [names[i] for i in order],
        "indices": order,
        "scores": {g: np.round(100 * s[order], 1) for g, s in zip(shown, scores, strict=True)},
    }


def _pictures(section: Section, budget: list[int]) -> JsonObject | None:
    """Embed the labels of the same test images by the first groups; of several seeds that of the median score."""
    content: JsonObject | None = None
    for g in _shown(section):
        records = sorted(section.groups[g].records, key=lambda r: r.score("miou"))
        record = records[len(records) // 2]
        folder = record.path / PICTURES / "test"
        if content is None:
            content = _truths(folder, record)
            if content is None:
                continue
            content["reference"] = g
        tiles = [
            None
            if labels is None or list(labels.shape[::-1]) != size
            else {"labels": _png(labels), "score": 100 * float(miou_and_iou(record.counts[i])[0])}
            for i, size in zip(content["indices"], content["sizes"], strict=True)
            for labels in [_labels(folder / f"{i:05d}_prediction.png")]
        ]
        budget[0] -= len(json.dumps(tiles))
        if budget[0] < 0:
            break
        content["columns"][g] = tiles
    return content


def _truths(folder: Path, record: Record) -> JsonObject | None:
    """Read the images and truths that a run left; None if it left none."""
    from PIL import Image

    content: JsonObject = {key: [] for key in ("names", "indices", "sizes", "images", "truths")}
    palette = None
    for file in sorted(folder.glob("*_image.jpg")):
        index = int(file.name.partition("_")[0])
        truth = _labels(folder / f"{index:05d}_truth.png")
        if truth is None or index >= len(record.image_names):
            continue
        with Image.open(folder / f"{index:05d}_truth.png") as picture:
            palette = picture.getpalette()
        content["names"].append(record.image_names[index])
        content["indices"].append(index)
        content["sizes"].append([truth.shape[1], truth.shape[0]])
        content["images"].append("data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode())
        content["truths"].append(_png(truth))
    if palette is None:
        return None
    labels = record.test.get("labels", record.test["protocol"].get("classes", ()))
    colors = np.array(palette).reshape(-1, 3)[: len(labels)]
    return content | {"palette": colors, "labels": labels, "columns": {}}


def _labels(file: Path) -> np.ndarray | None:
    """Read the labels (H, W) of a mask that a run left; None if there is none, or not whole."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError):
        return None


def _png(labels: np.ndarray) -> str:
    """Embed labels (H, W) as gray values, which a browser gives back exactly."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _status(record: Record) -> str:
    """Tell runs without a test apart: those that log (running), and those that were stopped or killed."""
    if record.status != "not tested":
        return record.status
    # Before the first row a run may prepare its data for long: then its beginning counts.
    written = [path.stat().st_mtime for name in (METRICS, CONFIG) if (path := record.path / name).exists()]
    return "running" if written and time.time() - max(written) < _RUNNING else "stopped"


def _thinned(points: np.ndarray, most: int) -> list[list[float]]:
    """Average neighboring points (P, 3) so that at most so many are left; return steps, epochs and values."""
    starts = np.unique(np.linspace(0, len(points), min(most, len(points)), endpoint=False).astype(int))
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
