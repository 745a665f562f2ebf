"""Annotation files of tools: every reader gives what was written, in every form of masks, or one error."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.datasets.coco_json import COCOFormat
from lightning_seg.data.datasets.cvat import CVAT
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.label_studio import LabelStudio, decode_brush
from lightning_seg.data.datasets.labelme import LabelMe
from lightning_seg.data.datasets.mask_files import MaskFiles
from lightning_seg.data.datasets.yolo import YOLOPolygons
from lightning_seg.errors import UserError
from tests.data.datasets import annotation_files as write
from tests.data.datasets.annotation_files import CLASSES, SIZE

NAMES = ["a", "site 1/b", "site 2/b", "cam1.1"]
GIVEN = {
    "batch_size": 1,
    "crop_size": (8, 8),
    "split_ratios": {"train": 0.5, "val": 0.5},
    "test_split": "val",
}


def make_labelme(root, listed, rng):
    for name, one in listed.items():
        path = root / "images" / name
        write.labelme(path.parent, path.name, one, as_mask=bool(rng.integers(2)))
    return LabelMe(str(root), CLASSES, **GIVEN)


def make_yolo(root, listed, rng):
    for name, one in listed.items():
        if one:
            write.yolo(root / "labels" / f"{name}.txt", one)
    (root / "data.yaml").write_text(yaml.safe_dump({"names": CLASSES[1:], "nc": 2, "train": "images"}))
    return YOLOPolygons(str(root), CLASSES, **GIVEN)


def make_cvat(root, listed, rng):
    write.cvat(root / "annotations.xml", {f"{name}.png": one for name, one in listed.items()})
    return CVAT(str(root), CLASSES, **GIVEN)


def make_label_studio(root, listed, rng):
    paths = {
        name: [f"/data/local-files/?d=project/{name}.png", f"s3://bucket/{name}.png"][int(rng.integers(2))]
        for name in listed
    }
    paths["a"] = "/data/upload/3/0a1b2c3d-a.png"
    write.label_studio(root / "annotations.json", {paths[name]: one for name, one in listed.items()})
    return LabelStudio(str(root), CLASSES, **GIVEN)


def make_coco(root, listed, rng):
    write.coco(root / "coco.json", {f"{name}.png": one for name, one in listed.items()})
    return COCOFormat(str(root), CLASSES, file="coco.json", **GIVEN)


def make_masks(root, listed, rng):
    for name, one in listed.items():
        for k, label in enumerate(CLASSES[1:]):
            path = root / "masks" / label / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(write.truth(one)[..., k] * np.uint8(rng.choice([1, 255]))).save(path)
    return MaskFiles(str(root), CLASSES, **GIVEN)


MAKER_OF = {
    LabelMe: make_labelme,
    YOLOPolygons: make_yolo,
    CVAT: make_cvat,
    LabelStudio: make_label_studio,
    COCOFormat: make_coco,
    MaskFiles: make_masks,
}
MAKERS = [*MAKER_OF.values()]


def made(maker, root, seed, count=3):
    rng = np.random.default_rng(seed)
    listed = {
        name: write.regions(rng, int(rng.integers(0 if i else 1, count + 1))) for i, name in enumerate(NAMES)
    }
    for name in listed:
        write.image(root / "images" / f"{name}.png", rng)
    return maker(root, listed, rng), listed


def samples(data: SegmentationData):
    return {data.name_of(sample): sample for split in ("train", "val") for sample in data.samples(split)}


@pytest.mark.parametrize("maker", MAKERS)
def test_what_was_written_is_read_as_overlapping_classes_objects_and_one_class(maker, tmp_path):
    for seed in range(4):
        data, listed = made(maker, tmp_path / str(seed), seed)
        found = samples(data)
        assert found.keys() == listed.keys()
        for name, one in listed.items():
            expected = write.truth(one)
            masks = data.read_overlapping(found[name])[1]
            assert np.array_equal(masks, expected), (maker.__name__, seed, name)
            objects = data.read_instances(found[name])
            if maker is not make_masks:
                assert len(objects["labels"]) == len(one)
                assert sorted(objects["masks"].flatten(1).sum(1).tolist()) == sorted(
                    m.sum() for _, _, m in one
                )
            if (expected.sum(2) > 1).any():
                continue  # which class is on top is told below
            mask = data.read(found[name])[1]
            assert np.array_equal(mask, expected[..., 0] + 2 * expected[..., 1])


def test_smaller_regions_lie_over_larger_ones_and_in_cvat_the_higher_z_order(tmp_path):
    rng = np.random.default_rng(0)
    large, small = write.rectangle(5, 5, 30, 40), write.rectangle(10, 10, 20, 20)
    for maker, order in ((make_labelme, "size"), (make_coco, "size"), (make_cvat, "level")):
        for name, listed in (
            ("first", [("dog", *small), ("cat", *large)]),
            ("last", [("cat", *large), ("dog", *small)]),
        ):
            root = tmp_path / maker.__name__ / name
            for other in ("a", "b"):
                write.image(root / "images" / f"{other}.png", rng)
            data = maker(root, {"a": listed, "b": listed}, rng)
            mask = data.read(samples(data)["a"])[1]
            on_top = 2 if order == "size" or name == "last" else 1
            assert mask[15, 15] == on_top and mask[25, 35] == 1


def test_brushes_equal_those_of_an_independent_encoder():
    rng = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1):
        mask = rng.random((17, 23)) < share
        assert np.array_equal(decode_brush(write.brush(mask), mask.shape), mask)


def test_roboflows_layout_has_a_file_in_the_folder_of_each_split(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        listed = {f"{split}{i}_jpg.rf.0a1b": write.regions(rng) for i in range(2)}
        for name in listed:
            write.image(tmp_path / split / f"{name}.jpg", rng)
        write.coco(
            tmp_path / split / "_annotations.coco.json", {f"{n}.jpg": one for n, one in listed.items()}
        )
        data = COCOFormat(
            str(tmp_path), CLASSES, images="{split}", val_split="valid", batch_size=1, crop_size=(8, 8)
        )
        for sample in data.samples(split):
            expected = listed[sample[0].stem]
            assert np.array_equal(data.read_overlapping(sample)[1], write.truth(expected))


def test_folders_of_splits_may_stand_above_images_and_labels(tmp_path):
    rng = np.random.default_rng(0)
    listed = {split: write.regions(rng) for split in ("train", "val")}
    for split, one in listed.items():
        write.image(tmp_path / split / "images" / "x.png", rng)
        write.yolo(tmp_path / split / "labels" / "x.txt", one)
        (tmp_path / split / "masks").mkdir()
        Image.fromarray(write.truth(one)[..., 0]).save(tmp_path / split / "masks" / "x.png")
    given = {"batch_size": 1, "crop_size": (8, 8), "images": "{split}/images"}
    polygons = YOLOPolygons(str(tmp_path), CLASSES, **given)
    masks = Folder(str(tmp_path), ["background", "cat"], masks="{split}/masks", **given)
    for split, one in listed.items():
        assert np.array_equal(polygons.read_overlapping(polygons.samples(split)[0])[1], write.truth(one))
        (sample,) = masks.samples(split)
        assert np.array_equal(masks.read(sample)[1], write.truth(one)[..., 0])
        assert masks.name_of(sample) == f"{split}/images/x"
    with pytest.raises(UserError, match="no split 'test'.*'train', 'val'"):
        masks.samples("test")


@pytest.mark.parametrize(("image", "mask"), [("", "_mask"), ("_img", "_mask"), ("_img", "")])
def test_images_and_masks_in_one_folder_are_told_apart_by_suffixes(tmp_path, image, mask):
    rng = np.random.default_rng(0)
    truth = {name: rng.integers(0, 2, SIZE).astype(np.uint8) for name in ("a", "b")}
    for name, labels in truth.items():
        write.image(tmp_path / f"{name}{image}.png", rng)
        Image.fromarray(labels).save(tmp_path / f"{name}{mask}.png" if mask else tmp_path / f"{name}.png")
    data = Folder(
        str(tmp_path), ["a", "b"], images=".", masks=".", image_suffix=image, mask_suffix=mask, **GIVEN
    )
    if not mask:  # every image is a mask by its name, too
        with pytest.raises(UserError, match="partner"):
            samples(data)
        return
    found = [sample for split in ("train", "val") for sample in data.samples(split)]
    assert len(found) == 2
    for sample in found:
        assert np.array_equal(data.read(sample)[1], truth[sample[0].stem.removesuffix(image)])


def test_one_mask_for_each_object(tmp_path):
    rng = np.random.default_rng(0)
    listed = {name: write.regions(rng, 4) for name in ("a", "b[1]")}
    for name, one in listed.items():
        write.image(tmp_path / "images" / f"{name}.png", rng)
        for i, (_, _, mask) in enumerate(one):
            path = tmp_path / "masks" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    data = MaskFiles(str(tmp_path), ["background", "cell"], files="masks/{name}/*", **GIVEN)
    for name, sample in samples(data).items():
        objects = data.read_instances(sample)
        assert [m.sum() for m in objects["masks"].numpy()] == [m.sum() for _, _, m in listed[name]]


def test_what_a_missing_or_uncertain_mask_means_is_said_by_settings(tmp_path):
    data, listed = made(make_masks, tmp_path, 0)
    file = tmp_path / "masks" / "dog" / "a.png"
    file.unlink()
    with pytest.raises(UserError, match="missing=absent"):
        samples(data)
    for missing, value in (("absent", 0), ("void", 255)):
        lenient = MaskFiles(str(tmp_path), CLASSES, missing=missing, **GIVEN)
        masks = lenient.read_overlapping(samples(lenient)["a"])[1]
        assert (masks[..., 1] == value).all() and np.array_equal(
            masks[..., 0], write.truth(listed["a"])[..., 0]
        )
    three = np.zeros(SIZE, np.uint8)
    three[3], three[5] = 1, 128
    Image.fromarray(three).save(file)
    with pytest.raises(UserError, match="void=128"):
        data.read_overlapping(samples(data)["a"])
    known = MaskFiles(str(tmp_path), CLASSES, void=128, **GIVEN)
    assert known.read_overlapping(samples(known)["a"])[1][[3, 5, 7], 0, 1].tolist() == [1, 255, 0]
    Image.fromarray(three[:-9] * 0).save(file)  # nothing in it, but it is of another image
    with pytest.raises(UserError, match="a.png is for"):
        known.read_overlapping(samples(known)["a"])


def test_classes_that_claim_one_pixel_are_an_error_where_it_can_have_one_class(tmp_path):
    rng = np.random.default_rng(0)
    both = [("cat", *write.rectangle(5, 5, 10, 10)), ("dog", *write.rectangle(5, 5, 8, 8))]
    for name in ("a", "b"):
        write.image(tmp_path / "images" / f"{name}.png", rng)
    data = make_masks(tmp_path, {"a": both, "b": both}, rng)
    with pytest.raises(UserError, match="9 pixels that several classes claim.*MultiLabelSegmentation"):
        data.read(samples(data)["a"])


@pytest.mark.parametrize("maker", [make_labelme, make_cvat, make_label_studio, make_coco])
def test_labels_that_are_no_class_are_an_error_unless_they_are_void_or_left_out(maker, tmp_path):
    data, listed = made(maker, tmp_path, 2)
    name = next(n for n, one in listed.items() if {label for label, _, _ in one} == {"cat", "dog"})
    narrow = {**GIVEN, **({"file": "coco.json"} if maker is make_coco else {})}
    alone = type(data)(str(tmp_path), ["background", "cat"], **narrow)
    with pytest.raises(UserError, match=r"'dog', which is no class \(cat\).*void_labels"):
        alone.read(samples(alone)[name])
    dogs = write.truth(listed[name])[..., 1] == 1
    for setting, value in (("void_labels", 255), ("skip_labels", None)):
        kept = type(data)(str(tmp_path), ["background", "cat"], **narrow, **{setting: ["dog"]})
        masks = kept.read_overlapping(samples(kept)[name])[1][..., 0]
        expected = write.truth(listed[name])[..., 0]
        assert np.array_equal(masks, expected if value is None else np.where(dogs, 255, expected))


def test_faults_of_files_are_one_error_each(tmp_path):
    def fails(data, match):
        with pytest.raises(UserError, match=match):
            for sample in samples(data).values():
                data.read(sample)

    data, _ = made(make_labelme, tmp_path / "labelme", 0)
    file = tmp_path / "labelme/images/a.json"
    contents = json.loads(file.read_text())
    file.write_text(json.dumps(contents | {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}))
    fails(data, "is for 56x40 pixels.*EXIF")
    line = {"label": "cat", "points": [[1, 1], [2, 2]], "shape_type": "line"}
    file.write_text(json.dumps(contents | {"shapes": [line]}))
    fails(data, "shape 1 is of the kind 'line', which has no area.*tool.$")
    file.write_text(json.dumps(contents | {"shapes": [line | {"label": "head"}]}))
    fails(data, r"skip_labels=\['head'\]")
    file.unlink()
    with pytest.raises(
        UserError, match=r"photos does not exist.\nThe images should be in photos/ \(data.*images\).\n"
    ):
        LabelMe(str(tmp_path / "labelme"), CLASSES, images="photos", **GIVEN).samples("train")
    fails(LabelMe(str(tmp_path / "labelme"), CLASSES, **GIVEN), "1 of 4 images have no annotation of LabelMe")

    data, _ = made(make_yolo, tmp_path / "yolo", 0)
    file = tmp_path / "yolo/labels/a.txt"
    for text, match in (
        ("7 0 0 1 0 1 1", "begins with '7'"),
        ("0 0.5 0.5 0.2 0.2", "is a box"),
        ("0 0 0 12 0 12 9", "outside 0 to 1"),
        ("0 0 0 1 0 1", "5 coordinates"),
    ):
        file.write_text(text)
        fails(data, match)
    fails(YOLOPolygons(str(tmp_path / "yolo"), ["background", "dog", "cat"], **GIVEN), "has the names")
    (tmp_path / "yolo/data.yaml").write_text("names: 2")
    fails(YOLOPolygons(str(tmp_path / "yolo"), CLASSES, **GIVEN), "data.yaml cannot be read")

    data, _ = made(make_label_studio, tmp_path / "studio", 0)
    file = tmp_path / "studio/annotations.json"
    tasks = json.loads(file.read_text())
    value = tasks[0]["annotations"][0]["result"][0]["value"]
    points = value.pop("points")
    file.write_text(json.dumps(tasks))
    fails(LabelStudio(str(tmp_path / "studio"), CLASSES, **GIVEN), "points or brush cannot be read")
    value["points"] = points
    tasks[0]["annotations"] *= 2
    file.write_text(json.dumps(tasks))
    fails(data, "2 annotations that were not skipped")
    file.write_text(json.dumps({"images": []}))
    fails(LabelStudio(str(tmp_path / "studio"), CLASSES, **GIVEN), "no list of tasks")

    data, _ = made(make_cvat, tmp_path / "cvat", 0)
    file = tmp_path / "cvat/annotations.xml"
    text = file.read_text()
    file.write_text(text.replace("<polygon", "<polyline", 1).replace("</polygon>", "</polyline>", 1))
    fails(data, "of the kind 'polyline'")
    file.write_text(text[:-5])
    fails(CVAT(str(tmp_path / "cvat"), CLASSES, **GIVEN), "no XML, or cut off")


def test_a_list_may_not_name_an_image_twice(tmp_path):
    data, _ = made(make_labelme, tmp_path, 0)
    for lines, match in (("a\ncam1.1\na\n", "the line 'a' 2 times"), ("a\na.png\n", "names a twice")):
        (tmp_path / "train.txt").write_text(lines)
        with pytest.raises(UserError, match=match):
            LabelMe(str(tmp_path), CLASSES, **GIVEN).samples("train")


def test_masks_may_be_compressed_nifti(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for name in NAMES:
        write.image(tmp_path / "images" / f"{name}.png", np.random.default_rng(0))
        file = tmp_path / "masks/cell" / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ones(SIZE[::-1], np.uint8), np.eye(4)), file)
    data = MaskFiles(str(tmp_path), ["background", "cell"], **GIVEN)
    assert all((data.read(sample)[1] == 1).all() for sample in samples(data).values())


def test_settings_of_masks_are_refused_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match="colors is of masks"):
        LabelMe(str(tmp_path), CLASSES, colors=[(0, 0, 0)] * 3, **GIVEN)


def test_groups_may_be_a_column_of_a_table(tmp_path):
    data, _ = made(make_labelme, tmp_path, 0)
    (tmp_path / "images.csv").write_text(
        "image,age,patient\na.png,3,p1\nsite 1/b,4,p2\nsite 2/b.png,5,p1\ncam1.1,6,p2\n"
    )
    grouped = LabelMe(str(tmp_path), CLASSES, groups="images.csv:patient", **GIVEN)
    splits = [{grouped.name_of(s) for s in grouped.samples(split)} for split in ("train", "val")]
    assert sorted(map(sorted, splits)) == [["a", "site 2/b"], ["cam1.1", "site 1/b"]]
    for groups, match in (("images.csv:doctor", "no column 'doctor'"), ("other.csv:x", "does not exist")):
        with pytest.raises(UserError, match=match):
            samples(LabelMe(str(tmp_path), CLASSES, groups=groups, **GIVEN))


@pytest.mark.parametrize("maker", [make_labelme, make_yolo, make_cvat, make_label_studio, make_coco])
def test_folder_names_the_format_of_the_files_that_it_finds(maker, tmp_path):
    data, _ = made(maker, tmp_path, 0)
    with pytest.raises(UserError, match=rf"data\.class_path: {type(data).__name__}\)"):
        Folder(str(tmp_path), CLASSES, **GIVEN).samples("train")


def test_a_group_in_two_splits_is_an_error_of_check(tmp_path):
    from lightning_seg.data.examination import examine

    data, _ = made(make_labelme, tmp_path, 0)
    (tmp_path / "train.txt").write_text("a\nsite 1/b\n")
    (tmp_path / "val.txt").write_text("site 2/b\ncam1.1\n")
    table = "image,patient\na,p1\nsite 1/b,p2\nsite 2/b,p1\ncam1.1,p3\n"
    (tmp_path / "images.csv").write_text(table)
    found = examine(LabelMe(str(tmp_path), CLASSES, groups="images.csv:patient", **GIVEN)).findings
    assert [(f.kind, f.split, f.file, f.detail) for f in found if f.kind == "groups"] == [
        ("groups", "val", "p1", "is also in train")
    ]
    assert not [f for f in examine(data).findings if f.kind == "groups"]


def examples():
    text = (Path(__file__).parents[3] / "docs" / "own_data.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("settings", examples(), ids=lambda settings: settings["data"]["class_path"])
def test_the_examples_of_the_documentation_are_data_sets(settings, tmp_path):
    from lightning_seg.experiment.experiment import ExperimentSettings

    file = tmp_path / "example.yaml"
    model = {"network": {"class_path": "UNet", "init_args": {"backbone": "test_resnet", "weights": False}}}
    if settings.get("task") == "InstanceSegmentation":
        model["network"] = {
            "class_path": "MaskRCNN",
            "init_args": {"backbone": "test_resnet", "weights": False},
        }
    file.write_text(yaml.safe_dump(settings | {"model": model | {"optimizer": {"class_path": "SGD"}}}))
    data = ExperimentSettings(["-c", str(file), f"--data.init_args.root={tmp_path}"]).build_data()
    maker = MAKER_OF.get(type(data))
    name = data.files if isinstance(data, MaskFiles) else ""
    if maker is None or "*" in name or data.divided or not data.split_ratios:
        return
    made(maker, tmp_path, 0)
    for file in tmp_path.glob("coco.json"):
        file.rename(tmp_path / "annotations.json")
    assert len(samples(data)) == len(NAMES)
