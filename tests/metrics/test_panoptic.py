"""Panoptic scores against panopticapi's rules, written out pixel by pixel, and by several processes."""

import os

import numpy as np
import torch
import torch.distributed as dist

from lightning_seg.metrics.instance import View
from lightning_seg.metrics.panoptic import PanopticScores, view_of_segments
from tests.processes import run_ranks

CLASSES, THINGS = 5, (2, 3, 4)


def random_image(seed):
    """True and predicted segments in strips, with void, crowds, and classes that are right more often than not."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.repeat(rng.integers(0, 9, (4, 5)), 5, 0), 5, 1).astype(np.uint8)
    truth[truth == 8] = 255
    classes = np.full(256, 255, np.uint8)
    classes[:8] = rng.integers(0, CLASSES, 8)
    crowd = np.zeros(256, bool)
    crowd[:8] = (rng.random(8) < 0.3) & np.isin(classes[:8], THINGS)
    parts = np.where(truth == 255, 8, truth).astype(np.int32) + 1
    parts = np.roll(parts, rng.integers(0, 3, 2), (0, 1))
    of_part = np.append(255, classes[:8].tolist() + [1]).astype(np.uint8)
    wrong = rng.random(10) < 0.3
    of_part = np.where(wrong, rng.integers(0, CLASSES, 10), of_part).astype(np.uint8)
    parts[parts == 4] = 0
    of_part[0] = 255
    return View(parts, of_part[parts]), (truth, classes, crowd)


def panopticapi(images):
    """`pq_compute_single_core` and `PQStat.pq_average`, in sets of pixels instead of histograms."""
    stat = {c: {"iou": 0.0, "tp": 0, "fp": 0, "fn": 0} for c in range(CLASSES)}
    for found, (numbers, classes, crowd) in images:
        true = {n: {*map(tuple, np.argwhere(numbers == n))} for n in np.unique(numbers).tolist() if n != 255}
        ours = {p: {*map(tuple, np.argwhere(found.parts == p))} for p in np.unique(found.parts).tolist() if p}
        category = {p: int(found.labels[found.parts == p][0]) for p in ours}
        void = {*map(tuple, np.argwhere(numbers == 255))}
        matched, crowds = set(), {}
        for n, pixels in true.items():
            c = int(classes[n])
            if crowd[n]:
                crowds[c] = n
                continue
            hit = False
            for p, mine in ours.items():
                both = len(pixels & mine)
                iou = both / (len(pixels) + len(mine) - both - len(void & mine))
                if category[p] == c and both and iou > 0.5:
                    stat[c]["tp"] += 1
                    stat[c]["iou"] += iou
                    matched.add(p)
                    hit = True
            stat[c]["fn"] += not hit
        for p, mine in ours.items():
            if p in matched:
                continue
            forgiven = len(void & mine)
            if category[p] in crowds:
                forgiven += len(true[crowds[category[p]]] & mine)
            stat[category[p]]["fp"] += forgiven / len(mine) <= 0.5
    values = {}
    for suffix, chosen in (
        ("", range(CLASSES)),
        ("_things", THINGS),
        ("_stuff", [c for c in range(CLASSES) if c not in THINGS]),
    ):
        pq = sq = rq = n = 0
        for s in (stat[c] for c in chosen):
            if s["tp"] + s["fp"] + s["fn"] == 0:
                continue
            n += 1
            pq += s["iou"] / (s["tp"] + s["fp"] / 2 + s["fn"] / 2)
            sq += s["iou"] / s["tp"] if s["tp"] else 0
            rq += s["tp"] / (s["tp"] + s["fp"] / 2 + s["fn"] / 2)
        values |= {f"{k}{suffix}": v / n for k, v in (("pq", pq), ("sq", sq), ("rq", rq))} if n else {}
    return values


def scored(images, places=None):
    scores = PanopticScores(CLASSES, THINGS)
    for i in range(len(images)) if places is None else places:
        found, truth = images[i]
        objects = []
        for parts, classes in ((found.parts, found.labels), (truth[0].astype(int) + 1, truth[1][truth[0]])):
            kept = [n for n in np.unique(parts).tolist() if n and classes[parts == n][0] in THINGS]
            masks = np.array([parts == n for n in kept]).reshape(-1, *parts.shape)
            side = {"labels": np.array([classes[m][0] for m in masks], int), "masks": masks}
            side["boxes"] = np.tile(np.float32([0, 0, 5, 5]), (len(kept), 1))
            objects.append(side)
        objects[0]["scores"] = np.linspace(0.9, 0.5, len(objects[0]["labels"]))
        scores.update(i, found, *view_of_segments(*truth), (objects[0], objects[1]))
    return scores


def test_scores_with_void_and_crowds_are_those_of_panopticapi():
    crowds = missed = 0
    for seed in range(40):
        images = [random_image(10 * seed + i) for i in range(2)]
        values, expected = scored(images).compute(), panopticapi(images)
        assert len(expected) >= 6
        for name, value in expected.items():
            np.testing.assert_allclose(values[name], value, atol=1e-12, err_msg=name)
        crowds += any(truth[2][np.unique(truth[0])].any() for _, truth in images)
        missed += 0 in np.asarray(values["sq_per_class"])
    assert crowds > 20 and missed > 5


def test_what_each_image_adds_sums_to_the_score():
    images = [random_image(seed) for seed in range(6)]
    counts = scored(images, [5, 3, 1, 0, 2, 4]).counts()
    alone = [scored([image]).counts()[0] for image in images]
    np.testing.assert_array_equal(counts, alone)


def score_in_processes(folder):
    rank, images = int(os.environ["RANK"]), [random_image(seed) for seed in range(7)]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, places in (
        ("in turn", range(7)[rank::2]),
        ("one has all", range(7) if rank else []),
        ("backwards", range(6, -1, -1)[rank::2]),
    ):
        found = {
            k: torch.as_tensor(v, dtype=torch.float64) for k, v in scored(images, places).compute().items()
        }
        torch.save(found, f"{folder}/{name} {rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_scores_of_one_to_the_last_bit(tmp_path):
    run_ranks(2, score_in_processes, tmp_path)
    alone = scored([random_image(seed) for seed in range(7)]).compute()
    assert 0 < alone["pq"] < 1 and 0 < alone["mask_ap"] < 1
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == 6
    for file in files:
        values = torch.load(file, weights_only=True)
        np.testing.assert_equal({key: value.numpy() for key, value in values.items()}, alone)
