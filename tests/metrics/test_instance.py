"""Scores of objects: equal to pycocotools', and the same on any number of processes."""

import contextlib
import io
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightning_seg import IGNORE_INDEX
from lightning_seg.metrics.instance import ObjectScores, view_of_found, view_of_truth
from lightning_seg.metrics.objects import panoptic_counts
from tests.processes import run_ranks

CLASSES = 4  # the background and three kinds of objects


def random_objects(rng, count, size, scores=False):
    """Rectangles with rounded corners, of sizes from a few pixels to most of the image."""
    height, width = size
    masks = np.zeros((count, *size), bool)
    boxes = np.zeros((count, 4), np.float32)
    for i in range(count):
        h, w = (np.exp(rng.uniform(np.log(3), np.log(side - 1))) for side in size)
        y, x = rng.uniform(0, height - h), rng.uniform(0, width - w)
        boxes[i] = x, y, x + w, y + h
        rows, columns = np.ogrid[:height, :width]
        masks[i] = ((rows - y - h / 2) / h) ** 4 + ((columns - x - w / 2) / w) ** 4 < 0.07
    objects = {"boxes": boxes, "masks": masks, "labels": rng.integers(1, CLASSES, count)}
    return objects | ({"scores": rng.integers(1, 10, count) / 10} if scores else {})


def random_set(seed):
    """Pairs of what was found and what is true: some of it shifted, missed, doubled, of the wrong class, in crowds."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(rng.choice([0, 1, 2, 3, 4], p=[0.1, 0.15, 0.25, 0.25, 0.25])):
        size = tuple(rng.integers(40, 160, 2).tolist())
        truth = random_objects(rng, rng.integers(0, 6) * rng.integers(0, 2), size)
        truth["iscrowd"] = rng.random(len(truth["labels"])) < 0.15
        found = random_objects(rng, rng.choice([0, 0, 3, 130], p=[0.3, 0.2, 0.45, 0.05]), size, scores=True)
        again = np.flatnonzero(rng.random(len(truth["labels"])) < 0.8).repeat(rng.integers(1, 3))
        shift = rng.integers(-3, 4, 2)
        near = {
            "boxes": truth["boxes"][again] + np.tile(shift[::-1], 2),
            "masks": np.roll(truth["masks"][again], shift, (1, 2)),
            "labels": np.where(rng.random(len(again)) < 0.8, truth["labels"][again], 1),
            "scores": rng.integers(1, 10, len(again)) / 10,  # many ties
        }
        found = {key: np.concatenate([found[key], near[key]]) for key in found}
        pairs.append((found, truth))
    return pairs


def our_scores(pairs, places=None):
    scores = ObjectScores(CLASSES)
    for place in range(len(pairs)) if places is None else places:
        found, truth = pairs[place]
        scores.update(place, found, truth, view_of_found(found, 0.5), view_of_truth(truth))
    return scores.compute()


def official_scores(pairs, kind):
    """pycocotools, fed as from files."""

    def runs(mask):
        return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))

    def xywh(box):
        x1, y1, x2, y2 = (float(v) for v in box)
        return [x1, y1, x2 - x1, y2 - y1]

    truths, results = [], []
    for image, (found, truth) in enumerate(pairs):
        for i, label in enumerate(truth["labels"].tolist()):
            mask = runs(truth["masks"][i])
            truths.append({
                "id": len(truths) + 1, "image_id": image, "category_id": label, "segmentation": mask,
                "bbox": xywh(truth["boxes"][i]), "area": float(coco_mask.area(mask)),
                "iscrowd": int(truth["iscrowd"][i]),
            })  # fmt: skip
        for i, label in enumerate(found["labels"].tolist()):
            what = (
                {"bbox": xywh(found["boxes"][i])}
                if kind == "bbox"
                else {"segmentation": runs(found["masks"][i])}
            )
            results.append(
                {"image_id": image, "category_id": label, "score": float(found["scores"][i]), **what}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [
                {"id": i, "height": t["masks"].shape[1], "width": t["masks"].shape[2]}
                for i, (_, t) in enumerate(pairs)
            ],
            "categories": [{"id": label} for label in range(1, CLASSES)],
            "annotations": truths,
        }
        coco.createIndex()
        if results:
            detections = coco.loadRes(results)
        else:  # loadRes cannot
            detections = COCO()
            detections.dataset = coco.dataset | {"annotations": []}
            detections.createIndex()
        evaluation = COCOeval(coco, detections, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    classes = [
        part[part > -1].mean() if (part > -1).any() else np.nan
        for part in (evaluation.eval["precision"][:, :, k, 0, 2] for k in range(CLASSES - 1))
    ]
    return [value if value > -1 else np.nan for value in evaluation.stats[:6]], [np.nan, *classes]


def test_average_precision_is_that_of_pycocotools():
    """On 100 random sets, with images and sets in which nothing is true or nothing was found."""
    empty = scored = 0
    for seed in range(100):
        pairs = random_set(seed)
        ours = our_scores(pairs)
        empty += not pairs or not any(len(found["labels"]) for found, _ in pairs)
        for name, kind in (("mask_ap", "segm"), ("box_ap", "bbox")):
            found = [ours[name + s] for s in ("", "50", "75", "_small", "_medium", "_large")]
            if not pairs:
                assert np.isnan(found).all()
                continue
            means, classes = official_scores(pairs, kind)
            np.testing.assert_allclose(found, means, rtol=0, atol=1e-12)
            np.testing.assert_allclose(ours[f"{name}_per_class"], classes, rtol=0, atol=1e-12)
            scored += 0 < means[0] < 1
    assert empty >= 10 and scored >= 90


def score_in_processes(folder):
    """Score some images as one of three, then as one of two processes."""
    rank, pairs = int(os.environ["RANK"]), some_images()
    everything = range(len(pairs))
    for world in (3, 2):
        if rank == world:
            break
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world
        )
        for name, places in (
            ("in turn", everything[rank::world]),
            ("one has all", everything if rank == 1 else []),
            ("backwards", everything[::-1][rank::world]),
        ):
            quality = our_scores(pairs, places)
            found = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in quality.items()}
            torch.save(found, f"{folder}/{name} {rank} of {world}.pt")
        dist.destroy_process_group()


def some_images():
    return [pair for seed in range(8) for pair in random_set(seed)]


def test_one_two_and_three_processes_give_the_same_scores(tmp_path):
    """To the last bit, where they saw unevenly many images or none, in any order."""
    run_ranks(3, score_in_processes, tmp_path)
    alone = our_scores(some_images())
    assert 0 < alone["mask_ap"] < 1 and 0 < alone["pq"] < 1
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == 3 * (3 + 2)
    for file in files:
        values = torch.load(file, weights_only=True)
        np.testing.assert_equal({key: value.numpy() for key, value in values.items()}, alone)


def square(top, left, side, label=1, size=(20, 20), **more):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return {"boxes": (left, top, left + side, top + side), "labels": label, "masks": mask, **more}


def together(*objects, size=(20, 20)):
    """Objects of one image as arrays."""
    keys = objects[0].keys() if objects else ("boxes", "labels", "masks", "scores")
    out = {key: np.array([one[key] for one in objects]) for key in keys}
    out["boxes"] = out["boxes"].reshape(-1, 4).astype(np.float32)
    out["masks"] = out["masks"].reshape(-1, *size).astype(bool)
    out["labels"] = out["labels"].astype(np.int64)
    return out


def test_panoptic_quality_by_hand():
    """Class 1: one pair of IoU 0.8, one false; class 2: one missed; class 3: a false one of low score, not counted."""
    truth = together(square(0, 0, 10), square(12, 12, 5, label=2))
    found = together(
        square(0, 0, 10, scores=0.9), square(12, 0, 4, scores=0.6), square(12, 12, 5, label=3, scores=0.4)
    )
    found["masks"][0, 8:] = False
    quality = our_scores([(found, truth)])
    np.testing.assert_allclose(quality["pq_per_class"], [np.nan, 0.8 / 1.5, 0, np.nan])
    assert quality["pq"] == pytest.approx(0.8 / 1.5 / 2)
    assert quality["sq"] == pytest.approx(0.8 / 2) and quality["rq"] == pytest.approx(1 / 1.5 / 2)


def test_perfect_and_empty_images():
    truth = together(square(0, 0, 10), square(12, 12, 5, label=2))
    nothing = {**together(), "scores": np.zeros(0)}
    perfect = our_scores([({**truth, "scores": np.ones(2)}, truth), (nothing, nothing)])
    assert {perfect[name] for name in ("mask_ap", "box_ap", "pq", "sq", "rq")} == {1.0}
    assert np.isnan(perfect["mask_ap_large"])
    assert np.isnan(our_scores([(nothing, nothing)])["mask_ap"])
    missed = our_scores([(nothing, truth)])
    assert missed["mask_ap"] == missed["pq"] == missed["sq"] == 0


def test_the_surest_object_is_on_top_and_a_covered_one_left_out():
    found = together(
        square(0, 0, 10, scores=0.6),
        square(0, 0, 9, label=2, scores=0.8),  # leaves 19 of the first's 100 pixels
        square(5, 5, 10, label=3, scores=0.7),
        square(15, 0, 4, scores=0.4),
    )
    parts, labels = view_of_found(found, 0.5)
    assert set(np.unique(parts)) == {0, 2, 3} and parts[8, 8] == 2 and parts[9, 9] == 3
    assert labels[8, 8] == 2 and labels[16, 1] == 0 and labels[9, 0] == 0


def test_of_overlapping_truth_the_smaller_is_on_top_and_a_crowd_forgives_its_own_class():
    truth = together(
        square(0, 0, 4, iscrowd=False),
        square(0, 0, 10, label=2, iscrowd=False),
        square(8, 8, 10, 3, iscrowd=True),
    )
    parts, labels = view_of_truth(truth)
    assert labels[2, 2] == 1 and labels[6, 6] == 2 and labels[9, 9] == 2 and labels[12, 12] == IGNORE_INDEX
    assert parts[2, 2] == 1 and parts[12, 12] == 3
    found, on_its_crowd = square(0, 0, 4, scores=0.9), square(10, 10, 6, label=3, scores=0.9)
    assert our_scores([(together(on_its_crowd), truth)])["pq_per_class"][1] == 0  # not found
    quality = our_scores([(together(found, on_its_crowd), truth)])["pq_per_class"]
    assert quality[1] == 1 and np.isnan(quality[3])  # no false positive, and a crowd need not be found
    on_another = square(10, 10, 6, label=1, scores=0.9)
    assert our_scores([(together(found, on_another), truth)])["pq_per_class"][1] == pytest.approx(1 / 1.5)


def official_panoptic(found_view, true_view, truth):
    """panopticapi's pq_compute_single_core for one image, written out: {class: [iou, tp, fp, fn]}."""
    stat = {c: [0.0, 0, 0, 0] for c in range(1, CLASSES)}
    true_segments = {
        i + 1: (int(label), int(crowd))
        for i, (label, crowd) in enumerate(zip(truth["labels"], truth["iscrowd"], strict=True))
        if (true_view.parts == i + 1).any()
    }
    predicted = {
        int(p): int(found_view.labels[found_view.parts == p][0]) for p in np.unique(found_view.parts) if p
    }
    matched_true, matched_predicted = set(), set()

    def intersection(t, p):
        return int(((true_view.parts == t) & (found_view.parts == p)).sum())

    for t, (true_class, crowd) in true_segments.items():
        for p, predicted_class in predicted.items():
            if crowd or true_class != predicted_class:
                continue
            both = intersection(t, p)
            union = (
                (true_view.parts == t).sum() + (found_view.parts == p).sum() - both
            )  # nothing is void here
            if both / union > 0.5:
                stat[true_class][0] += both / union
                stat[true_class][1] += 1
                matched_true.add(t)
                matched_predicted.add(p)
    crowds = {}
    for t, (true_class, crowd) in true_segments.items():
        if t not in matched_true and crowd:
            crowds[true_class] = t
        elif t not in matched_true:
            stat[true_class][3] += 1
    for p, predicted_class in predicted.items():
        if p in matched_predicted:
            continue
        forgiven = intersection(crowds[predicted_class], p) if predicted_class in crowds else 0
        if forgiven / (found_view.parts == p).sum() <= 0.5:
            stat[predicted_class][2] += 1
    return stat


def test_panoptic_quality_with_crowds_is_that_of_panopticapi():
    forgiven = in_union = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pairs = random_set(seed)
        sums = np.zeros((CLASSES, 4))
        for found, truth in pairs:
            truth["iscrowd"] = rng.random(len(truth["labels"])) < 0.4
            views = view_of_found(found, 0.3), view_of_truth(truth)
            for c, values in official_panoptic(*views, truth).items():
                sums[c] += values
            on_crowd = views[1].labels == IGNORE_INDEX
            in_union += on_crowd.any()
            forgiven += any(
                2 * (on_crowd & (views[0].parts == p)).sum() > (views[0].parts == p).sum()
                for p in np.unique(views[0].parts)
                if p
            )
        scores = ObjectScores(CLASSES)
        for i, (found, truth) in enumerate(pairs):
            scores.update(i, found, truth, view_of_found(found, 0.3), view_of_truth(truth))
        iou, tp, fp, fn = sums.T
        with np.errstate(invalid="ignore"):
            expected = iou / (tp + (fp + fn) / 2)
        np.testing.assert_allclose(scores.compute()["pq_per_class"], expected, atol=1e-12)
    assert in_union > 20 and forgiven > 20


def test_void_leaves_the_union_and_a_crowd_of_another_class_does_not():
    truth, true_objects = np.zeros((10, 30), np.uint8), np.zeros((10, 30), int)
    truth[:, :10], true_objects[:, :10] = 1, 1
    truth[:, 10:22] = IGNORE_INDEX
    objects = np.where(np.arange(30) < 22, 1, 0) + np.zeros((10, 1), int)
    labels = objects.astype(np.uint8)
    assert panoptic_counts(labels, objects, truth, true_objects, 3)[1].tolist() == [1, 1, 0, 0]
    true_objects[:, 10:22] = 2
    for crowds, false_positives in (
        ({2: 2}, 1),
        ({2: 1}, 0),
        (None, 1),
    ):  # 120 of 220 pixels lie on the crowd
        counts = panoptic_counts(labels, objects, truth, true_objects, 3, crowds)
        assert counts[1].tolist() == [0, 0, false_positives, 1]


def test_average_precision_without_each_block_is_that_of_the_other_images():
    pairs = [pair for seed in range(12) for pair in random_set(seed)]
    scores = ObjectScores(CLASSES)
    for i in reversed(range(len(pairs))):
        found, truth = pairs[i]
        scores.update(i, found, truth, view_of_found(found, 0.5), view_of_truth(truth))
    expected = []
    for k in range(4):
        kept = [i for i in range(len(pairs)) if i * 4 // len(pairs) != k]
        expected.append(our_scores(pairs, kept)["mask_ap"])
    np.testing.assert_allclose(scores.left_out(4), expected)
    assert len(scores.left_out(1000)) == len(pairs)
    patients = np.arange(len(pairs)) % 3
    without = [[i for i in range(len(pairs)) if i % 3 != k] for k in range(3)]
    expected = [our_scores(pairs, kept)["mask_ap"] for kept in without]
    np.testing.assert_allclose(scores.left_out(groups=patients), expected)
    assert scores.compute()["mask_ap"] == our_scores(pairs)["mask_ap"]  # as before
