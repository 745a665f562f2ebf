"""Mask classification: one run whose scores, pictures, record and export are those of other networks' runs."""

import json
import os
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.overrides import TorchFunctionMode

from lightning_seg import Experiment, MaskClassification, load, load_run
from lightning_seg.callbacks.segment_writer import distinct_ids
from lightning_seg.cli.main import main
from lightning_seg.data.segments import batch_columns
from lightning_seg.errors import UserError
from lightning_seg.metrics.objects import PanopticQuality
from lightning_seg.networks.linear import Linear
from lightning_seg.networks.mask_network import Queries
from lightning_seg.training.mask_loss import MaskLoss, Targets, targets_of
from tests.processes import run_ranks

NETWORK = {
    "class_path": "EoMT",
    "init_args": {
        "backbone": {
            "class_path": "TimmBackbone",
            "init_args": {
                "name": "vit_tiny_patch16_224",
                "weights": False,
                "out_indices": 1,
                "norm": True,
                "backbone_args": {
                    "depth": 3,
                    "embed_dim": 32,
                    "num_heads": 2,
                    "patch_size": 8,
                    "img_size": 32,
                },
            },
        },
        "queries": 6,
        "blocks": 2,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, trained and tested."""
    folder = tmp_path_factory.mktemp("runs")
    return Experiment.from_settings(
        "tiny",
        task="MaskClassification",
        runs=str(folder),
        tracking=[],
        model={
            "network": NETWORK,
            "loss": {"class_path": "MaskLoss", "init_args": {"points": 64}},
            "rules": {
                "class_path": "SegmentRules",
                "init_args": {"score_threshold": 0.1, "overlap_threshold": 0.1},
            },
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 3e-3}},
        },
        data={
            "class_path": "Shapes",
            "init_args": {
                "image_size": [32, 40],
                "train_images": 8,
                "val_images": 3,
                "test_images": 4,
                "batch_size": 4,
                "crop_size": [32, 32],
                "num_workers": 0,
            },
        },
        trainer={"max_epochs": 2, "accelerator": "cpu", "precision": "32-true", "log_every_n_steps": 1},
    ).train()


def test_scores_of_classes_objects_and_segments_are_recorded(run):
    test = json.loads((run / "test.json").read_text())
    assert {"miou", "pq", "sq", "rq", "pq_things", "pq_stuff", "mask_ap", "mask_ap50"} <= test[
        "scores"
    ].keys()
    assert set(test["per_class"]["pq"]) == {"background", "circle", "square", "triangle", "star", "cross"}
    assert test["protocol"]["segments"].startswith("SegmentRules(score_threshold=0.1")
    assert test["protocol"]["things"] == ["circle", "square", "triangle", "star", "cross"]
    with np.load(run / "test_images.npz") as file:
        assert file["panoptic"].shape == (4, 6, 4) and file["counts"].shape == (4, 6, 3)
        assert file["mask_ap_left_out"].shape == (4,)
        pq = PanopticQuality().scores(file["panoptic"])["pq"]
    assert test["scores"]["pq"] == pytest.approx(pq)
    assert sorted(path.name for path in (run / "pictures").glob("*.png"))[-2:] == ["test.png", "val.png"]
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val/pq", "val/pq/star", "val/loss", "train/loss", "train/loss_of_layers"} <= set(header)


def test_the_finished_network_needs_no_masks_and_predicts_as_any_other(run):
    task = load_run(run).task
    assert isinstance(task, MaskClassification) and task.things == (1, 2, 3, 4, 5)
    labels = load(run, settings=["--model.output=classes"])(np.zeros((20, 30, 3), np.uint8))
    assert labels.shape == (20, 30) and labels.max() < 6
    again = MaskClassification.load_from_checkpoint(run / "checkpoints" / "best.ckpt")
    assert again.things == task.things
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), task.eval()(images))


def test_one_network_gives_segments_objects_and_classes_by_a_setting(run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, seed in (("000000000139", 0), ("street", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.png")
    rules = (
        "--model.rules={class_path: SegmentRules, init_args: {score_threshold: 0.01, overlap_threshold: 0}}"
    )
    assert main(["predict", str(run), str(images), "--output", str(tmp_path / "p"), rules]) == 0
    listed = json.loads((tmp_path / "p/segments.json").read_text())
    assert [one["image_id"] for one in listed["annotations"]] == [139, "street"]
    assert [one["isthing"] for one in listed["categories"]] == [0, 1, 1, 1, 1, 1]
    found = load(run, settings=[rules])(images / "street.png")
    # As panopticapi reads a prediction: ids are red + 256 green + 256² blue, each listed once, void is 0.
    ids = np.array(Image.open(tmp_path / "p/segments/street.png"), np.int64) @ [1, 256, 65536]
    segments = listed["annotations"][1]["segments_info"]
    assert len(segments) == len(found["labels"]) > 0
    assert {one["id"] for one in segments} == set(np.unique(ids)) - {0}
    masks = np.array(Image.open(tmp_path / "p/masks/street.png"))
    for number, one in enumerate(segments, start=1):
        where = ids == one["id"]
        assert (where == (found["segments"] == number)).all() and (masks[where] == one["category_id"]).all()
        left, top, width, height = one["bbox"]
        assert where[top : top + height, left : left + width].sum() == one["area"] == where.sum()
    assert (masks[ids == 0] == 255).all()
    objects = load(run, settings=[rules, "--model.output=objects"])(images / "street.png")
    assert (
        objects["masks"].shape == (len(objects["boxes"]), 24, 40) and (np.diff(objects["scores"]) <= 0).all()
    )
    assert (
        main(["predict", str(run), str(images), "--output", str(tmp_path / "o"), "--model.output=objects"])
        == 0
    )
    assert len(json.loads((tmp_path / "o/objects/street.json").read_text())) >= len(objects["labels"])


def test_ids_of_segments_are_distinct_and_never_that_of_void():
    assert distinct_ids([(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 0, 0), (255, 255, 255), (255, 255, 255)]) == [
        *(1, 2, 256, 3, 256**3 - 1, 4)
    ]


def test_other_networks_are_refused():
    with pytest.raises(UserError, match="needs a network of queries"):
        MaskClassification(Linear(3, "resnet18", False), torch.optim.AdamW, ("a", "b", "c"))


def test_targets_are_the_segments_that_are_there_without_crowds_and_void():
    numbers = torch.tensor([[[0, 1], [2, 255]], [[255, 255], [255, 255]]], dtype=torch.uint8)
    columns = [batch_columns(one, [3, 5, 4, 1], [2]) for one in numbers]
    classes = torch.stack([found["segment_class"] for found in columns])
    one, none = targets_of(numbers, classes, [found["segment_list"] for found in columns])
    assert one.classes.tolist() == [3, 5] and one.masks.tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]
    assert none.masks.shape == (0, 2, 2)
    queries = Queries(torch.zeros(2, 3, 2, 2, requires_grad=True), torch.zeros(2, 3, 7, requires_grad=True))
    MaskLoss(points=4)([queries], [none, none])[0].total.backward()  # nothing to find is fine
    assert torch.isfinite(queries.classes.grad).all()


class Waits(TorchFunctionMode):
    """Notes what makes a program wait for a GPU."""

    WAITING = frozenset(
        {"cpu", "item", "tolist", "nonzero", "argwhere", "unique", "masked_select", "__bool__"}
    )
    WAITING |= {"__float__", "__int__", "__index__", "equal", "allclose"}

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = function.__name__
        keys = arguments[1] if name in ("__getitem__", "__setitem__") else ()
        keys = keys if isinstance(keys, tuple) else (keys,)
        by_mask = any(isinstance(key, torch.Tensor) and key.dtype == torch.bool for key in keys)
        if name in self.WAITING or by_mask or (name == "where" and len(arguments) == 1):
            self.found.append(name)
        return function(*arguments, **(options or {}))


def test_a_training_step_waits_for_the_device_once(run):
    task, data = load_run(run).task.train(), load_run(run).data
    task.log = task.log_dict = lambda *args, **kwargs: None
    batch = next(iter(data.train_dataloader()))
    with Waits() as waits:
        task.network.anneal(0.4)
        task.training_step(data.on_after_batch_transfer(batch, 0), 0).backward()
    assert waits.found == ["cpu"]  # the costs of all images and layers, for the Hungarian method


def test_a_perfect_answer_costs_next_to_nothing_in_whatever_order():
    masks = torch.zeros(3, 8, 8)
    masks[0, :4], masks[1, 4:, :4], masks[2, 4:, 4:] = 1, 1, 1
    target = Targets(masks, torch.tensor([2, 0, 1]))
    order = [2, 0, 1]
    logits = torch.full((1, 4, 8, 8), -40.0)
    logits[0, :3] = (masks[order] - 0.5) * 80
    classes = torch.zeros(1, 4, 4)
    for query, label in enumerate([*target.classes[order].tolist(), 3]):
        classes[0, query, label] = 40
    loss = MaskLoss(points=200, importance_ratio=0).eval()
    wrong = Queries(-logits, classes)
    found = loss.match([Queries(logits, classes)], [target])[0][0]
    assert found[0].tolist() == [0, 1, 2] and found[1].tolist() == order
    assert loss([Queries(logits, classes)], [target])[0].classes < 1e-6
    assert loss([Queries(logits, classes)], [target])[0].dice < 1 < loss([wrong], [target])[0].dice


def test_evaluation_draws_no_random_numbers_of_the_training():
    before = torch.get_rng_state()
    queries = Queries(
        torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3, 4)
    )
    target = [Targets(torch.ones(1, 8, 8), torch.tensor([1]))]
    loss = MaskLoss(points=20).eval()
    assert loss([queries], target)[0].total == loss([queries], target)[0].total
    assert torch.equal(before, torch.get_rng_state())


def evaluate_unevenly(folder):
    """Rank 0 evaluates three images and rank 1 none; then both train on batches of other numbers of segments."""
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    loss = MaskLoss(points=20)
    queries = Queries(
        torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 3)
    )  # every mask and class costs the same, wherever its points are
    targets = [Targets(torch.ones(n, 8, 8), torch.zeros(n, dtype=torch.int64)) for n in (1, 3)]
    loss.eval()
    for _ in range(0 if rank else 3):
        loss([queries], [targets[0]])
    loss.train()
    found = loss([queries], [targets[rank]])[0].masks
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_share_the_number_of_segments_and_wait_for_none_in_evaluation(tmp_path):
    run_ranks(2, evaluate_unevenly, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    each = 5 * np.log(2)  # weight and cross-entropy of one mask; two segments a process on average
    np.testing.assert_allclose(found, [each / 2, each * 3 / 2], rtol=1e-5)


@pytest.mark.slow
def test_an_exported_network_gives_the_classes(run, tmp_path):
    """Slow because torch traces the network for any size of image."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    main(["export", str(run), "--output", str(tmp_path / "m.onnx")])
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 40, 48), np.uint8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        expected = load_run(run).task.eval()(torch.from_numpy(images))
    np.testing.assert_allclose(logits, expected, atol=1e-3)
