"""Every data set reads a small copy written in its real layout."""

import json
import sys
import types
import warnings
import zipfile

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_seg.data.checks.check import check
from lightning_seg.data.coco_masks import paint
from lightning_seg.data.datasets.ade20k import ADE20K
from lightning_seg.data.datasets.camvid import GROUPS, CamVid, CamVidOriginal
from lightning_seg.data.datasets.cityscapes import Cityscapes
from lightning_seg.data.datasets.coco import (
    COCO,
    PANOPTIC_STUFF,
    PANOPTIC_STUFF_IDS,
    STUFF,
    THING_IDS,
    THINGS,
)
from lightning_seg.data.datasets.hugging_face import HuggingFace
from lightning_seg.data.datasets.isbi import ISBI
from lightning_seg.data.datasets.oxford_pet import OxfordPet
from lightning_seg.data.datasets.pennfudan import PennFudan
from lightning_seg.errors import UserError

ARGUMENTS = {"batch_size": 2, "crop_size": (32, 32)}
RNG = np.random.default_rng(0)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def photo(size=(40, 48)):
    return RNG.integers(0, 256, (*size, 3), np.uint8)


def labels(*values, size=(40, 48)):
    """A mask of stripes with these values."""
    return np.resize(np.repeat(np.array(values), 5), size)


def camvid_original(root):
    colors = np.array([color for group in GROUPS.values() for color in group.values()] + [(0, 0, 0)])
    merged = np.array([i for i, group in enumerate(GROUPS.values()) for _ in group] + [255])
    names = [
        "0001TP_006690",
        "0001TP_008520",
        "0006R0_f00930",
        "0016E5_00390",
        "0016E5_07959",
        "0016E5_08159",
    ]
    for name in [*names, "0001TP_008550", "Seq05VD_f00000"]:
        write(root / "701_StillsRaw_full" / f"{name}.png", photo())
        write(root / "LabeledApproved_full" / f"{name}_L.png", colors[labels(*range(32))])
    return (
        CamVidOriginal(str(root), **ARGUMENTS),
        merged[labels(*range(32))],
        {"train": 4, "val": 2, "test": 2},
    )


def camvid_original_unmerged(root):
    _, _, counts = camvid_original(root)
    expected = labels(*range(32))
    return (
        CamVidOriginal(str(root), merge=False, **ARGUMENTS),
        np.where(expected == 31, 255, expected),
        counts,
    )


def cityscapes(root):
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",))):
        for city in cities:
            frame = f"{city}_000000_000019"
            write(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", photo())
            write(root / "gtFine" / split / city / f"{frame}_gtFine_labelIds.png", labels(*range(34)))
            write(root / "gtFine" / split / city / f"{frame}_gtFine_color.png", photo())
            objects = labels(7, 24, 26000, 26001, 5, 29000).astype(np.uint16)
            cv2.imwrite(str(root / "gtFine" / split / city / f"{frame}_gtFine_instanceIds.png"), objects)
    evaluated = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    evaluated |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    expected = np.vectorize(lambda number: evaluated.get(number, 255))(labels(*range(34)))
    return Cityscapes(str(root), **ARGUMENTS), expected, {"train": 2, "val": 1}


def ade20k(root):
    for split, names in (("training", "ADE_train_0000000{}"), ("validation", "ADE_val_0000000{}")):
        for number in (1, 2):
            name = names.format(number)
            write(root / "ADEChallengeData2016" / "images" / split / f"{name}.jpg", photo())
            write(
                root / "ADEChallengeData2016" / "annotations" / split / f"{name}.png", labels(0, 1, 13, 150)
            )
    return ADE20K(str(root), **ARGUMENTS), labels(255, 0, 12, 149), {"train": 2, "val": 2}


def oxford_pet(root):
    listed = {"trainval": [f"Abyssinian_{i}" for i in range(20)], "test": ["beagle_1", "beagle_2", "pug_7"]}
    for split, names in listed.items():
        for name in names:
            write(root / "images" / f"{name}.jpg", photo())
            write(root / "annotations" / "trimaps" / f"{name}.png", labels(1, 2, 3))
        (root / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
    return OxfordPet(str(root), **ARGUMENTS), labels(1, 0, 255), {"train": 18, "val": 2, "test": 3}


def isbi(root):
    for number in range(11):
        write(root / "image" / f"{number}.png", photo()[..., 0])
        write(root / "label" / f"{number}.png", labels(0, 255))
    return ISBI(str(root), **ARGUMENTS), labels(0, 1), {"train": 9, "val": 2, "all": 11}


def pennfudan(root):
    for number in range(1, 21):
        write(root / "PNGImages" / f"FudanPed{number:05d}.png", photo())
        write(root / "PedMasks" / f"FudanPed{number:05d}_mask.png", labels(0, 1, 2, 3))
    return (
        PennFudan(str(root), **ARGUMENTS),
        labels(0, 1, 1, 1),
        {"train": 14, "val": 3, "test": 3, "all": 20},
    )


def coco_instances(root):
    for split in ("train2017", "val2017"):
        for number in (1, 2):
            write(root / split / f"{number:012d}.jpg", photo())
        large, far = [[0, 0, 20, 0, 20, 10, 0, 10]], [[0, 30, 20, 30, 20, 40, 0, 40]]
        annotations = [
            {"image_id": 1, "category_id": 90, "iscrowd": 0, "area": 24, "segmentation": [[2, 3, 8, 3, 8, 7, 2, 7]]},
            {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 200, "segmentation": large},
            {"image_id": 1, "category_id": 13, "iscrowd": 0, "area": 200, "segmentation": far},
            {
                "image_id": 1, "category_id": 1, "iscrowd": 1, "area": 400,
                "segmentation": {"size": [40, 48], "counts": [0, 400, 1520]},
            },
        ]  # fmt: skip
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 40, "width": 48} for n in (1, 2)]
        categories = [{"id": n, "name": name} for n, name in zip(THING_IDS, THINGS, strict=True)]
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    expected = np.zeros((40, 48), int)
    expected[:, :10] = 255  # the crowd: the first ten columns
    expected[30:40, :20] = 1 + THINGS.index("stop sign")
    expected[:10, :20] = 1 + THINGS.index("person")
    expected[3:7, 2:8] = 1 + THINGS.index("toothbrush")  # small over large
    return COCO(str(root), **ARGUMENTS), expected, {"train": 2, "val": 2}


def coco_panoptic(root):
    numbers = labels(0, 5, 300, 70000)
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1)
    for split in ("train2017", "val2017"):
        write(root / split / "000000000001.jpg", photo())
        write(root / split / "000000000002.jpg", photo())
        write(root / "annotations" / f"panoptic_{split}" / "000000000001.png", colors)
        write(root / "annotations" / f"panoptic_{split}" / "000000000002.png", colors)
        segments = [
            {"id": 5, "category_id": 1},
            {"id": 300, "category_id": 92},
            {"id": 70000, "category_id": 200},
        ]
        contents = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (1, 2)],
            "annotations": [
                {"image_id": i, "file_name": f"{i:012d}.png", "segments_info": segments} for i in (1, 2)
            ],
        }
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(contents))
    return COCO(str(root), labels="panoptic", **ARGUMENTS), labels(255, 0, 80, 132), {"train": 2, "val": 2}


def coco_stuff(root):
    for split in ("train2017", "val2017"):
        for number in (1, 2):
            write(root / split / f"{number:012d}.jpg", photo())
            write(
                root / "annotations" / "stuffthingmaps" / split / f"{number:012d}.png",
                labels(0, 89, 91, 181, 255),
            )
    return COCO(str(root), labels="stuff", **ARGUMENTS), labels(0, 79, 80, 170, 255), {"train": 2, "val": 2}


WRITERS = [
    ade20k, camvid_original, camvid_original_unmerged, cityscapes, coco_instances, coco_panoptic, coco_stuff, isbi,
    oxford_pet, pennfudan,
]  # fmt: skip


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_a_small_copy_in_the_real_layout(writer, tmp_path):
    data, expected, counts = writer(tmp_path)
    assert {split: len(data.samples(split)) for split in counts} == counts
    image, mask = data.read(data.samples("train")[0])
    np.testing.assert_array_equal(mask, expected)
    assert image.shape == (*expected.shape, 3) and image.dtype == mask.dtype == np.uint8
    assert len(data.palette) == data.num_classes == len(set(data.class_names))
    assert len({data.name_of(sample) for sample in data.samples("train")}) == counts["train"]
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(torch.unique(batch["mask"]).tolist()) <= {*range(data.num_classes), 255}
    data.setup("test")
    assert len(data.test_dataloader()) == counts.get("test", counts["val"])
    assert check(data).ok
    assert data.fingerprint == type(data)(str(tmp_path), **ARGUMENTS, **different(data)).fingerprint


def different(data):
    return {"labels": data.labels} if isinstance(data, COCO) else {}


@pytest.mark.parametrize("writer", [ade20k, cityscapes, isbi, pennfudan], ids=lambda writer: writer.__name__)
def test_a_mask_without_an_image_is_told(writer, tmp_path):
    data, _, _ = writer(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, mask = data.list_samples("train")[0]
    image.unlink()
    with pytest.warns(UserWarning, match=f"1 masks in .* have no image and are left out: {mask.name}"):
        data.list_samples("train")


@pytest.mark.parametrize(
    "cls",
    [ADE20K, CamVid, CamVidOriginal, Cityscapes, COCO, ISBI, OxfordPet, PennFudan],
    ids=lambda cls: cls.__name__,
)
def test_what_is_missing_is_said_with_a_way_to_get_it(cls, tmp_path):
    data = cls(str(tmp_path), **ARGUMENTS)
    with pytest.raises(UserError, match=r"(?s)does not exist.*http.*--data.init_args.root="):
        data.setup("fit")


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_a_split_that_does_not_exist_is_refused(writer, tmp_path):
    data, _, _ = writer(tmp_path)
    with pytest.raises(UserError, match="no split 'nonsense'|nonsense.* does not exist"):
        data.samples("nonsense")


def test_cityscapes_unpacks_the_files_that_its_owner_gives_after_a_login(tmp_path):
    cityscapes(tmp_path / "source")
    for folder, name in (
        ("leftImg8bit", "leftImg8bit_trainvaltest.zip"),
        ("gtFine", "gtFine_trainvaltest.zip"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in (tmp_path / "source" / folder).rglob("*.png"):
                archive.write(path, path.relative_to(tmp_path / "source"))
    data = Cityscapes(str(tmp_path), **ARGUMENTS)
    data.prepare_data()
    data.setup("fit")
    assert len(data.samples("train")) == 2
    assert not list(tmp_path.glob("*.unpacking"))


def test_isbi_keeps_the_order_of_the_slices_and_neighbours_together(tmp_path):
    data, _, _ = isbi(tmp_path)
    assert [data.name_of(sample) for sample in data.samples("all")] == [str(i) for i in range(11)]
    assert [data.name_of(sample) for sample in data.samples("val")] == ["9", "10"]
    folds = [ISBI(str(tmp_path), **ARGUMENTS, fold=fold) for fold in range(5)]
    held_out = [[int(data.name_of(sample)) for sample in fold.samples(fold.val_split)] for fold in folds]
    assert held_out == [[0, 1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def test_pennfudan_splits_do_not_overlap_and_persons_are_numbered(tmp_path):
    data, _, _ = pennfudan(tmp_path)
    parts = [set(data.samples(split)) for split in ("train", "val", "test")]
    assert set.union(*parts) == set(data.samples("all")) and sum(map(len, parts)) == 20
    sample = data.read_instances(data.samples("all")[0])
    stripes = labels(0, 1, 2, 3)
    assert sample["labels"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(sample["masks"], [stripes == number for number in (1, 2, 3)])
    np.testing.assert_array_equal(sample["image"].permute(1, 2, 0), data.read(data.samples("all")[0])[0])


def test_coco_tables():
    assert (len(THINGS), len(THING_IDS), len(STUFF), len(PANOPTIC_STUFF)) == (80, 80, 91, 53)
    assert len(PANOPTIC_STUFF_IDS) == 53 and THING_IDS[-1] == 90
    known = dict(zip([*THING_IDS, *PANOPTIC_STUFF_IDS], [*THINGS, *PANOPTIC_STUFF], strict=True))
    assert (known[13], known[62], known[90]) == ("stop sign", "chair", "toothbrush")
    assert (known[149], known[187], known[200]) == ("road", "sky-other-merged", "rug-merged")
    stuff = dict(zip(range(92, 183), STUFF, strict=True))
    assert all(stuff[i] == known[i] for i in PANOPTIC_STUFF_IDS if i <= 182)


def test_masks_are_those_of_pycocotools():
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(50):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        points = 50 + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(5, 45, (12, 1))
        polygons = [points.ravel().tolist(), (points * 0.3 + 2).ravel().tolist()]
        runs = coco_mask.merge(coco_mask.frPyObjects(polygons, 100, 110))
        reference = coco_mask.decode(runs).astype(bool)
        np.testing.assert_array_equal(paint(polygons, (100, 110)), reference)
        compressed = {"size": [100, 110], "counts": runs["counts"].decode()}
        np.testing.assert_array_equal(paint(compressed, (100, 110)), reference)
    columns = paint({"counts": [5, 2, 17]}, (4, 6))
    assert np.flatnonzero(columns.ravel(order="F")).tolist() == [5, 6]
    assert not paint([], (4, 6)).any()


def test_hugging_face(monkeypatch):
    rows = [
        {"image": Image.fromarray(photo()), "annotation": Image.fromarray(labels(0, 1, 2).astype(np.uint8))}
        for _ in range(3)
    ]

    def load_dataset(name, config, split):
        if split not in ("train", "validation"):
            raise ValueError(f'Unknown split "{split}"')
        assert (name, config) == ("someone/scenes", "small")
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    data = HuggingFace(
        "someone/scenes", ["wall", "floor"], mask="annotation", labels={0: 255, 1: 0, 2: 1}, config="small",
        val_split="validation", test_split="validation", **ARGUMENTS,
    )  # fmt: skip
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 32, 32)
    image, mask = data.read(data.samples("train")[0])
    np.testing.assert_array_equal(mask, labels(255, 0, 1))
    np.testing.assert_array_equal(image, np.asarray(rows[0]["image"]))
    assert data.name_of(data.samples("train")[2]) == "train_000002"
    with pytest.raises(UserError, match="'test' of someone/scenes cannot be loaded: ValueError"):
        data.samples("test")


def test_hugging_face_files_on_disk(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    photos = [photo((8, 9)) for _ in range(3)]
    columns = {
        "image": [Image.fromarray(pixels) for pixels in photos],
        "label": [Image.fromarray(np.full((8, 9), number, np.uint8)) for number in range(3)],
    }
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    (tmp_path / "set").mkdir()
    table = datasets.Dataset.from_dict(columns, features=kinds)
    table.to_parquet(str(tmp_path / "set" / "train-00000-of-00001.parquet"))
    data = HuggingFace(str(tmp_path / "set"), ["a", "b", "c"], **ARGUMENTS)
    for number, sample in enumerate(data.samples("train")):
        pixels, mask = data.read(sample)
        np.testing.assert_array_equal(pixels, photos[number])
        assert mask.shape == (8, 9) and (mask == number).all()
    with pytest.raises(UserError, match="'validation' of .* cannot be loaded"):
        data.samples("validation")


def test_hugging_face_keeps_all_of_sixteen_bits(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    wide = np.random.default_rng(0).integers(0, 4096, (8, 9, 3), np.uint16)
    files = [
        cv2.imencode(".png", array)[1].tobytes() for array in (wide[..., ::-1], np.ones((8, 9), np.uint8))
    ]
    columns = {
        name: [{"bytes": file, "path": None}] for name, file in zip(("image", "label"), files, strict=True)
    }
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(columns, features=kinds).to_parquet(
        str(tmp_path / "set" / "train-0-of-1.parquet")
    )
    with pytest.raises(UserError, match="row 0 of .*, column 'image' has more than 8 bits .* from 0 to 4"):
        data = HuggingFace(str(tmp_path / "set"), ["a", "b"], **ARGUMENTS)
        data.read(data.samples("train")[0])
    data = HuggingFace(str(tmp_path / "set"), ["a", "b"], value_range=(0, 4095), **ARGUMENTS)
    np.testing.assert_array_equal(data.read(data.samples("train")[0])[0], wide)
    data = HuggingFace(str(tmp_path / "set"), ["a", "b"], mask="mask", **ARGUMENTS)
    with pytest.raises(UserError, match="has no column 'mask'; it has: image, label"):
        data.read(data.samples("train")[0])


def test_hugging_face_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        HuggingFace("a/b", ["x", "y"], **ARGUMENTS).setup("fit")


@pytest.mark.parametrize(
    ("cls", "folder", "count", "shares"),
    [(ISBI, "ISBI2012", 24, (0.7, 0.85)), (PennFudan, "PennFudanPed", 130, (0.1, 0.3))],
)
def test_real_small_sets(real_data, cls, folder, count, shares):
    data = cls(str(real_data / folder), **ARGUMENTS)
    assert len(data.samples("all")) == count
    report = check(data)
    assert report.ok
    share = report.pixels["train"][1] / report.pixels["train"].sum()
    assert shares[0] < share < shares[1]


def test_cityscapes_has_cars_one_by_one_and_persons_that_are_not_separated_as_a_crowd(tmp_path):
    data, _, _ = cityscapes(tmp_path)
    found = data.read_segments(data.samples("val")[0])
    assert found.classes == [0, 11, 13, 13] and found.crowds == [1]  # road, person, car, car
    np.testing.assert_array_equal(found.numbers, labels(0, 1, 2, 3, 255, 255))
    assert [data.class_names[c] for c in data.things] == [
        "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ]  # fmt: skip


def ade20k_panoptic(root):
    """As Mask2Former's preparation writes it: ids and colors by panopticapi's IdGenerator, images called by name."""
    ids = labels(0, 7895160, 7895161, 329878)  # void; two chairs; floor
    base = root / "ADEChallengeData2016"
    for split, folder in (("train", "training"), ("val", "validation")):
        name = f"ADE_{split}_00000001"
        write(base / "images" / folder / f"{name}.jpg", photo())
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1)
        write(base / f"ade20k_panoptic_{split}" / f"{name}.png", colors)
        kinds = {7895160: 19, 7895161: 19, 329878: 3}
        segments = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": 4, "bbox": [0, 0, 2, 2]}
            for i, c in kinds.items()
        ]
        categories = [{"name": "floor", "id": 3, "isthing": 0}, {"name": "chair", "id": 19, "isthing": 1}]
        contents = {
            "images": [{"id": name, "file_name": f"{name}.jpg", "width": 8, "height": 8}],
            "annotations": [{"image_id": name, "file_name": f"{name}.png", "segments_info": segments}],
            "categories": categories,
        }
        (base / f"ade20k_panoptic_{split}.json").write_text(json.dumps(contents))
    return ADE20K(str(root), labels="panoptic", **ARGUMENTS), labels(255, 19, 19, 3), {"train": 1, "val": 1}


def test_ade20k_has_chairs_one_by_one_and_floor_as_a_whole(tmp_path):
    data, mask, _ = ade20k_panoptic(tmp_path)
    found = data.read_segments(data.samples("val")[0])
    assert found.classes == [3, 19, 19] and not found.crowds
    assert [data.class_names[c] for c in (3, 19)] == ["floor", "chair"]
    np.testing.assert_array_equal(found.numbers, labels(255, 1, 2, 0))
    np.testing.assert_array_equal(data.read(data.samples("val")[0])[1], mask)
    assert (
        len(data.things) == 100 and 19 in data.things and 3 not in data.things and data.category_id(19) == 19
    )
    (tmp_path / "ADEChallengeData2016" / "ade20k_panoptic_val.json").unlink()
    with pytest.raises(UserError, match=r"ade20k_panoptic_val.json does not exist\.\nMake it of"):
        ADE20K(str(tmp_path), labels="panoptic", **ARGUMENTS).samples("val")


def test_coco_panoptic_has_segments_with_their_crowds(tmp_path):
    data, mask, _ = coco_panoptic(tmp_path)
    listing = tmp_path / "annotations" / "panoptic_val2017.json"
    contents = json.loads(listing.read_text())
    for entry in contents["annotations"]:
        entry["segments_info"][0]["iscrowd"] = 1
    listing.write_text(json.dumps(contents))
    found = data.read_segments(data.samples("val")[0])
    assert found.classes == [0, 80, 132] and found.crowds == [0] and data.things == tuple(range(80))
    np.testing.assert_array_equal(found.numbers, labels(255, 0, 1, 2))
    with_void = np.array([*found.classes] + [255] * 253)
    np.testing.assert_array_equal(with_void[found.numbers], mask)
