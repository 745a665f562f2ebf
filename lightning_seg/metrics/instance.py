"""Scores of objects: COCO's average precision of boxes and masks, and panoptic quality."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import numpy as np
import torch.distributed as dist
from torch import Tensor

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.images import Values
from lightning_seg.metrics.objects import PanopticQuality, panoptic_counts
from lightning_seg.metrics.scores import class_mean

ObjectArrays = Mapping[str, np.ndarray]
"""The objects of an image: "boxes" (N, 4) as x1, y1, x2, y2 in pixels, "labels" (N,) from 1, "masks" (N, H, W) bool;
predicted ones have "scores" (N,), true ones may have "iscrowd" (N,), several objects as one, and "area" (N,): what COCO
calls their size, if it is not the number of pixels."""
CocoEntry = dict[str, Any]  # an object as COCO's tools take it, who add to it what they compute
T = TypeVar("T")


class ImageRecord(TypedDict, total=False):
    """What is kept of an image: height and width, `panoptic_counts`, and what was found there and is there."""

    size: tuple[int, int]
    matches: np.ndarray
    found: list[CocoEntry]
    truth: list[CocoEntry]


# What COCO calls them; of its ten thresholds and four ranges of area (in pixels) those that have a name.
KINDS: dict[str, Literal["segm", "bbox"]] = {"mask_ap": "segm", "box_ap": "bbox"}
THRESHOLDS = {"50": 0, "75": 5}
AREAS = {"small": 1, "medium": 2, "large": 3}


class View(NamedTuple):
    """One answer for each pixel, of objects that may overlap.

    Attributes:
        parts: Place of the object plus 1, or 0 where there is none, (H, W) int32.
        labels: Its class, `IGNORE_INDEX` for a crowd, or 0, (H, W) uint8.
    """

    parts: np.ndarray
    labels: np.ndarray


class ObjectScores:
    """Collects predicted and true objects, one record an image, and scores all images at the end.

    Masks are kept as run lengths. Records are exchanged as they are and sorted by image, so that the scores do not
    depend on the number of processes, to the last digit. (The states of torchmetrics' MeanAveragePrecision are gathered
    element by element, which loses images where processes have seen unevenly many.)

    Args:
        num_classes: C, the background included.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._records: dict[int, ImageRecord] = {}

    def update(
        self, index: int, found: ObjectArrays, truth: ObjectArrays, found_view: View, true_view: View
    ) -> None:
        """Add an image.

        Args:
            index: Its place in the split.
            found: The predicted objects.
            truth: The true objects.
            found_view: What `view_of_found` makes of the first.
            true_view: What `view_of_truth` makes of the second.
        """
        crowds = {i + 1: int(truth["labels"][i]) for i in np.flatnonzero(_crowd(truth)).tolist()}
        matches = panoptic_counts(
            found_view.labels, found_view.parts, true_view.labels, true_view.parts, self.num_classes, crowds
        )
        matches[0] = 0  # the background is no object
        self._records[index] = {
            "size": (true_view.parts.shape[0], true_view.parts.shape[1]),
            "found": annotations(found),
            "truth": annotations(truth),
            "matches": matches,
        }

    def compute(self) -> Values:
        """Score the images of all processes; the same on each of them.

        Returns:
            ``mask_ap`` (over IoU thresholds .50 to .95), ``mask_ap50``, ``mask_ap75``, ``mask_ap_small`` (below 32²
            pixels), ``mask_ap_medium``, ``mask_ap_large`` (from 96²), the same for ``box_ap``, and panoptic,
            segmentation and recognition quality ``pq``, ``sq`` and ``rq``; each a mean over classes. Those of each
            class (C,) as ``mask_ap_per_class`` and so on. NaN where there is nothing to score, as for the background.
        """
        records = gather(self._records)
        records = {index: records[index] for index in sorted(records)}
        matches = [np.zeros((self.num_classes, 4)), *(record["matches"] for record in records.values())]
        values = PanopticQuality().scores(np.stack(matches))
        for name, kind in KINDS.items():
            means, per_class = average_precision(records, self.num_classes, kind)
            values |= {name + suffix: value for suffix, value in means.items()}
            values[f"{name}_per_class"] = per_class
        return values

    def left_out(self, blocks: int = 20, groups: np.ndarray | None = None) -> np.ndarray:
        """Score the images of all processes once more without each block of neighbors, for intervals.

        Args:
            blocks: How many; as many as there are images, or groups, if these are fewer.
            groups: The number of each image's group (N,), such as a patient, which no block divides.

        Returns:
            (J,): ``mask_ap`` of the other images.
        """
        return ap_left_out(gather(self._records), self.num_classes, blocks, groups)

    def counts(self) -> np.ndarray:
        """Return what each image of all processes adds to panoptic quality, (N, C, 4), in the order of the split."""
        records = gather(self._records)
        rows = [records[index]["matches"] for index in sorted(records)]
        return np.stack(rows) if rows else np.zeros((0, self.num_classes, 4))

    def reset(self) -> None:
        """Forget everything."""
        self._records = {}


def arrays(objects: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Bring the objects of an image to the CPU as numpy arrays, masks (N, H, W) as bool."""
    masks = objects["masks"]
    masks = masks > 0.5 if masks.is_floating_point() else masks != 0
    return {key: value.cpu().numpy() for key, value in {**objects, "masks": masks}.items()}


def gather(mine: dict[int, T]) -> dict[int, T]:
    """Merge what the processes hold, which may be nothing, on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    parts: list[dict[int, T]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {index: record for part in parts for index, record in part.items()}


def annotations(objects: ObjectArrays) -> list[CocoEntry]:
    """Write the objects of an image as COCO does, masks as run lengths, scores as ``score``."""
    from faster_coco_eval.core import mask as coco_mask

    count = len(objects["labels"])
    stacked = np.asfortranarray(
        objects["masks"].transpose(1, 2, 0).astype(np.uint8)
    )  # (H, W, N), down the columns
    runs = coco_mask.encode(stacked) if count else []
    boxes = objects["boxes"].astype(np.float64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    crowd = _crowd(objects)
    written: list[CocoEntry] = [
        {
            "category_id": int(objects["labels"][i]),
            "bbox": [*boxes[i, :2].tolist(), *sizes[i].tolist()],
            "segmentation": runs[i],
            "iscrowd": int(crowd[i]),
        }
        for i in range(count)
    ]
    for ours, theirs in (("scores", "score"), ("area", "area")):
        for one, value in zip(written, objects[ours].tolist() if ours in objects else [], strict=False):
            one[theirs] = value
    return written


def average_precision(
    records: Mapping[int, ImageRecord], num_classes: int, kind: Literal["segm", "bbox"]
) -> tuple[dict[str, float], np.ndarray]:
    """Compute COCO's average precision, with at most 100 objects of a class in an image.

    Args:
        records: For each image its "size" and the `annotations` of what was "found" (predicted) and of the "truth".
        num_classes: C, the background included.
        kind: Overlap of masks, or of boxes.

    Returns:
        The means by suffix ("", "50", "75", "_small", "_medium", "_large"), and the value of each class (C,).
    """
    from faster_coco_eval import COCOeval_faster

    if not records:
        suffixes = ["", *THRESHOLDS, *(f"_{area}" for area in AREAS)]
        return dict.fromkeys(suffixes, float("nan")), np.full(num_classes, np.nan)
    evaluation = COCOeval_faster(
        _coco(records, "truth", num_classes, "segm"), _coco(records, "found", num_classes, kind), kind
    )
    evaluation.evaluate()
    evaluation.accumulate()
    # (thresholds, recalls, classes, areas) of at most 100 objects; -1 where there is nothing to find
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    precision = np.where(precision < 0, np.nan, precision)
    values = {"": class_mean(precision[..., 0])}
    values |= {name: class_mean(precision[at, ..., 0]) for name, at in THRESHOLDS.items()}
    values |= {f"_{name}": class_mean(precision[..., at]) for name, at in AREAS.items()}
    classes = [class_mean(precision[:, :, k, 0]) for k in range(num_classes - 1)]
    return values, np.array([np.nan, *classes])


def ap_left_out(
    records: Mapping[int, ImageRecord],
    num_classes: int,
    blocks: int = 20,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the average precision of masks once more without each block of neighboring images, for intervals.

    Args:
        records: As for `average_precision`, by the place of each image.
        num_classes: C, the background included.
        blocks: How many; as many as there are images, or groups, if these are fewer.
        groups: The number of each image's group (N,), such as a patient, which no block divides.

    Returns:
        (J,).
    """
    order = sorted(records)
    units = np.unique(order if groups is None else groups[order], return_inverse=True)[1].tolist()
    number = max(units, default=-1) + 1
    count = min(blocks, number)
    block = {index: unit * count // number for index, unit in zip(order, units, strict=True)}
    parts = ({i: records[i] for i in order if block[i] != k} for k in range(count))
    return np.array([average_precision(part, num_classes, "segm")[0][""] for part in parts])


def view_of_found(objects: ObjectArrays, threshold: float) -> View:
    """Give every pixel to one predicted object of at least the threshold's score, the most confident first.

    An object of which others have taken half or more is left out (Kirillov et al., CVPR 2019).
    """
    parts = np.zeros(objects["masks"].shape[1:], np.int32)
    for i in np.argsort(-objects["scores"], kind="stable"):
        mask = objects["masks"][i]
        free = mask & (parts == 0)
        if objects["scores"][i] >= threshold and 2 * free.sum() > mask.sum():
            parts[free] = i + 1
    return View(parts, _classes(objects)[parts])


def view_of_truth(objects: ObjectArrays) -> View:
    """Give every pixel to one true object, to the smallest where several overlap, to a crowd only if to no other."""
    masks = objects["masks"]
    parts = np.zeros(masks.shape[1:], np.int32)
    for i in np.lexsort([-masks.sum((1, 2)), ~_crowd(objects)]):  # crowds first, then from large to small
        parts[masks[i]] = i + 1
    return View(parts, _classes(objects)[parts])


def _classes(objects: ObjectArrays) -> np.ndarray:
    """Label of each part, (N + 1,)."""
    labels = np.where(_crowd(objects), IGNORE_INDEX, objects["labels"])
    return np.concatenate([[0], labels]).astype(np.uint8)


def _crowd(objects: ObjectArrays) -> np.ndarray:
    return objects.get("iscrowd", np.zeros(len(objects["labels"]), bool))


def _coco(
    records: Mapping[int, ImageRecord], which: Literal["found", "truth"], num_classes: int, area: str
) -> Any:
    """Index annotations as COCO's tools want them; the area is that of the mask, or of the box, if not given."""
    from faster_coco_eval import COCO
    from faster_coco_eval.core import mask as coco_mask

    listed: list[CocoEntry] = []
    for index, record in records.items():
        for one in record[which]:
            width, height = one["bbox"][2:]
            pixels = coco_mask.area(one["segmentation"]) if area == "segm" else width * height
            listed.append({"area": float(pixels), **one, "id": len(listed) + 1, "image_id": index})
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": index, "height": record["size"][0], "width": record["size"][1]}
            for index, record in records.items()
        ],
        "categories": [{"id": label} for label in range(1, num_classes)],
        "annotations": listed,
    }
    coco.createIndex()
    return coco
