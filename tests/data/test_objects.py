"""Batches of objects: what the instance task is given."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.coco import COCO, THING_IDS, THINGS
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.pennfudan import PennFudan
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.instances import CopyPaste, boxes_from_masks
from lightning_seg.data.loading import collate
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.data.transforms.mixing import MixUp
from lightning_seg.errors import UserError
from lightning_seg.metrics.instance import ObjectScores, annotations, arrays, view_of_found, view_of_truth

SCENES = {
    "batch_size": 4,
    "crop_size": (48, 40),
    "image_size": (64, 72),
    "train_images": 12,
    "num_workers": 0,
}


def shapes(**options):
    return Shapes(**{**SCENES, "instances": True, "seed": 0, **options})


def batches(data):
    data.setup("fit")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_range": (0.1, 2.0), "large_scale_jitter": True, "color": ColorJitter(0.2, 0.2, 0.2)},
        {"transforms": [v2.RandomRotation(30)]},
    ],
)
def test_a_training_batch_holds_objects_whose_boxes_fit_their_masks(options):
    seen = 0
    for batch in batches(shapes(**options)):
        assert batch["image"].shape == (4, 3, 48, 40) and set(batch) == {"image", "targets", "index"}
        for target in batch["targets"]:
            assert all(type(value) is torch.Tensor for value in target.values())
            count = len(target["labels"])
            assert target["masks"].shape == (count, 48, 40) and target["boxes"].shape == (count, 4)
            assert torch.equal(target["boxes"], boxes_from_masks(target["masks"]))
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all() and (target["labels"] > 0).all()
            seen += count
    assert seen > 12


def test_samples_do_not_depend_on_workers():
    options = {"transforms": [v2.RandomRotation(30)], "scale_range": (0.1, 2.0)}
    alone, two = (batches(shapes(num_workers=workers, **options)) for workers in (0, 2))
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a["image"], b["image"])
        for one, other in zip(a["targets"], b["targets"], strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_evaluation_sees_images_as_they_are_and_the_truth_of_the_semantic_task():
    data = shapes()
    for sample, item in zip(data.samples("val")[:20], Split(data, "val"), strict=False):
        image, mask = data.read(sample)
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0), image)
        truth = {key: value.numpy() for key, value in item["targets"].items()}
        np.testing.assert_array_equal(view_of_truth(truth | {"masks": truth["masks"] > 0}).labels, mask)


def test_images_of_different_size_are_padded_but_not_their_masks():
    items = [Split(shapes(image_size=size), "val")[0] for size in ((30, 40), (36, 32))]
    batch = collate(items)
    assert batch["image"].shape == (2, 3, 36, 40) and batch["size"].tolist() == [[30, 40], [36, 32]]
    assert [tuple(t["masks"].shape[1:]) for t in batch["targets"]] == [(30, 40), (36, 32)]


def test_copy_paste_mixes_a_batch():
    data = shapes(mix=CopyPaste(1.0, min_pixels=1))
    data.setup("fit")
    data.trainer = type("Trainer", (), {"training": True, "global_step": 3, "global_rank": 0})()
    before = collate([Split(data, "train", train=True)[0, i] for i in range(4)])
    after = data.on_after_batch_transfer(dict(before), 0)
    again = data.on_after_batch_transfer(dict(before), 0)
    assert torch.equal(after["image"], again["image"]) and not torch.equal(after["image"], before["image"])
    for i, (old, new) in enumerate(zip(before["targets"], after["targets"], strict=True)):
        changed = (before["image"][i] != after["image"][i]).any(0)
        partner = before["image"][(i + 1) % 4]
        assert torch.equal(after["image"][i][:, changed], partner[:, changed])
        assert torch.equal(new["boxes"], boxes_from_masks(new["masks"]))
        assert len(new["labels"]) >= 1 and new["masks"].sum() >= changed.sum()
        assert set(new) == set(old)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def folder(root, **options):
    arguments = {"batch_size": 1, "crop_size": (8, 8), "split_ratios": {"train": 1.0}, "instances": True}
    return Folder(str(root), **{"class_names": ["background", "cell"], **arguments, **options})


def test_a_folder_of_numbered_objects(tmp_path):
    numbers = np.zeros((8, 10), np.uint16)
    numbers[1:3, 1:3], numbers[5:, 4:9] = 7, 300  # more than a byte holds
    write(tmp_path / "images/a.png", np.zeros((8, 10, 3), np.uint8))
    write(tmp_path / "masks/a.png", numbers)
    data = folder(tmp_path, objects="masks")
    sample = data.read_instances(data.samples("train")[0])
    assert sample["labels"].tolist() == [1, 1] and sample["boxes"].tolist() == [[1, 1, 3, 3], [4, 5, 9, 8]]
    np.testing.assert_array_equal(data.read(data.samples("train")[0])[1], numbers > 0)
    with pytest.raises(UserError, match="one class besides the background"):
        folder(tmp_path, objects="masks", class_names=["background", "cell", "nucleus"])
    plain = folder(tmp_path)
    with pytest.raises(UserError, match="data.init_args.objects"):
        plain.read_instances(plain.samples("train")[0])


def test_a_folder_of_objects_and_classes(tmp_path):
    numbers, classes = np.zeros((2, 8, 10), np.uint8)
    numbers[:4, :5], numbers[4:, 5:], numbers[6:, :2] = 1, 2, 3
    classes[:4, :4], classes[4:, 5:], classes[6:, :2] = 2, 1, IGNORE_INDEX
    write(tmp_path / "images/a.png", np.zeros((8, 10, 3), np.uint8))
    write(tmp_path / "masks/a.png", classes)
    write(tmp_path / "objects/a.png", numbers)
    data = folder(tmp_path, objects="objects", class_names=["background", "cell", "nucleus"])
    sample = data.read_instances(data.samples("train")[0])
    assert sample["labels"].tolist() == [2, 1]  # the third is not counted
    np.testing.assert_array_equal(sample["masks"], [numbers == 1, numbers == 2])
    write(tmp_path / "objects/a.png", np.zeros((8, 10, 3), np.uint8))
    with pytest.raises(UserError, match="its pixels are RGB"):
        data.read_instances(data.samples("train")[0])
    (tmp_path / "objects/a.png").unlink()
    with pytest.raises(UserError, match=r"objects.a\.png"):
        data.read_instances(data.samples("train")[0])


def test_what_does_not_go_with_objects_is_refused(tmp_path):
    with pytest.raises(UserError, match="CamVid knows classes, not single objects"):
        CamVid(str(tmp_path), batch_size=1, crop_size=(8, 8), instances=True)
    with pytest.raises(UserError, match="MixUp mixes masks of classes"):
        shapes(mix=MixUp())
    with pytest.raises(UserError, match="ClassMix"):
        shapes(mix=CopyPaste(), instances=False)
    with pytest.raises(UserError, match="cache"):
        shapes(cache="ram")
    with pytest.raises(UserError, match="crop_size"):
        Split(shapes(transforms=[v2.Resize((20, 20))]), "train", train=True)[0]


def test_coco_files_are_scored_as_pycocotools_scores_them(tmp_path):
    """Polygons, crowds as run lengths, boxes in fractions of pixels, areas of the polygons; from the JSON on."""
    import contextlib
    import io
    import json

    coco_tools = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    images, entries = [], []
    for image in (7, 3, 12):
        Image.new("RGB", (140, 120)).save(tmp_path / f"val2017/{image}.jpg")
        images.append({"id": image, "file_name": f"{image}.jpg", "width": 140, "height": 120})
        for _ in range(rng.integers(1, 6)):
            angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
            points = rng.uniform(30, 90, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(
                3, 60
            )
            points = points.clip(0, 119).round(2)
            size = np.ptp(points, axis=0)
            shift = np.roll(points, -1, 0)
            area = abs((points[:, 0] * shift[:, 1] - points[:, 1] * shift[:, 0]).sum()) / 2
            entries.append({
                "image_id": image, "category_id": int(rng.choice([1, 18, 90])), "iscrowd": 0, "area": float(area),
                "bbox": [*points.min(0).tolist(), *size.tolist()], "segmentation": [points.ravel().tolist()],
            })  # fmt: skip
    crowd = {"size": [120, 140], "counts": [1000, 3000, 120 * 140 - 4000]}
    entries.append({
        "image_id": 7, "category_id": 1, "iscrowd": 1, "area": 3000, "bbox": [8, 0, 26, 120], "segmentation": crowd
    })  # fmt: skip
    listing = {
        "info": {},
        "images": images,
        "annotations": [{"id": i, **entry} for i, entry in enumerate(entries, start=1)],
        "categories": [{"id": n, "name": name} for n, name in zip(THING_IDS, THINGS, strict=True)],
    }
    file = tmp_path / "annotations/instances_val2017.json"
    file.write_text(json.dumps(listing))
    data = COCO(str(tmp_path), instances=True, batch_size=1, crop_size=(8, 8))
    scores, results = ObjectScores(81), {"segm": [], "bbox": []}
    for place, sample in enumerate(data.samples("val")):
        truth, number = arrays(data.read_instances(sample)), sample[-1]
        count = len(truth["labels"])
        found = {
            "boxes": truth["boxes"] + rng.normal(0, 1, (count, 4)).astype(np.float32),
            "masks": np.roll(truth["masks"], rng.integers(0, 3), 2),
            "labels": truth["labels"],
            "scores": rng.random(count),
        }
        scores.update(place, found, truth, view_of_found(found, 0.5), view_of_truth(truth))
        for one in annotations(found):
            named = {
                "image_id": number,
                "category_id": THING_IDS[one["category_id"] - 1],
                "score": one["score"],
            }
            results["segm"].append(named | {"segmentation": one["segmentation"]})
            results["bbox"].append(named | {"bbox": one["bbox"]})
    ours = scores.compute()
    for name, kind in (("mask_ap", "segm"), ("box_ap", "bbox")):
        with contextlib.redirect_stdout(io.StringIO()):
            official = coco_tools.COCO(str(file))
            evaluation = COCOeval(official, official.loadRes(results[kind]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        found = [ours[name + suffix] for suffix in ("", "50", "75", "_small", "_medium", "_large")]
        expected = [value if value >= 0 else np.nan for value in evaluation.stats[:6]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # boxes are of 32 bits here
        assert 0.1 < found[0] < 0.95 and np.isfinite(found[3:]).sum() >= 2


def test_real_pedestrians(real_data):
    data = PennFudan(str(real_data / "PennFudanPed"), batch_size=1, crop_size=(8, 8), instances=True)
    for sample, item in zip(data.samples("val")[:5], Split(data, "val"), strict=False):
        truth = arrays(item["targets"])
        np.testing.assert_array_equal(view_of_truth(truth).labels, data.read(sample)[1])
        height, width = (truth["boxes"][:, 2:] - truth["boxes"][:, :2]).T[::-1]
        assert len(truth["labels"]) and (height > width).all()  # they walk upright
