"""COCO files of many tools: the pixels that pycocotools paints, or one error that names entry and image."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.checks.check import check
from lightning_seg.data.coco_masks import decompress, turn, turn_box
from lightning_seg.data.datasets.coco import COCO, THING_IDS, THINGS
from lightning_seg.data.examination import refuse_faulty
from lightning_seg.errors import UserError

H, W = 40, 48
SQUARE = [5, 5, 25, 5, 25, 20, 5, 20]


def write(root, entries, images=None, categories=None, split="train", size=(H, W), orientation=None):
    """Write a data set of one split; what is not given is right."""
    images = [{"id": 1, "file_name": "1.png", "height": H, "width": W}] if images is None else images
    categories = [{"id": 3, "name": "crack"}, {"id": 7, "name": "rust"}] if categories is None else categories
    (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for image in images:
        if isinstance(image, dict) and isinstance(image.get("file_name"), str):
            exif = Image.Exif()
            if orientation is not None:
                exif[0x0112] = orientation
            Image.fromarray(pixels).save(root / f"{split}2017" / image["file_name"], exif=exif)
    listing = {"images": images, "annotations": entries, "categories": categories}
    file = root / f"annotations/instances_{split}2017.json"
    file.write_text(json.dumps(listing))
    return file


def entry(**changes):
    whole = {"id": 11, "image_id": 1, "category_id": 3, "segmentation": [SQUARE], "area": 300, "bbox": [5, 5, 20, 15], "iscrowd": 0}  # fmt: skip
    return {key: value for key, value in {**whole, **changes}.items() if value != "leave out"}


def data_set(root, **options):
    return COCO(str(root), batch_size=1, crop_size=(32, 32), num_workers=0, **options)


def read(root, split="train"):
    data = data_set(root)
    return data.read(data.samples(split)[0])[1]


def reference(segmentation, size=(H, W)):
    runs = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(coco_mask.merge(runs) if isinstance(runs, list) else runs).astype(bool)


EXPECTED = reference([SQUARE])
RUNS = coco_mask.encode(np.asfortranarray(EXPECTED.astype(np.uint8)))["counts"].decode()
COUNTS = decompress(RUNS)


def test_classes_are_the_files_own_in_the_order_of_their_ids(tmp_path):
    categories = [{"id": 7, "name": "rust", "supercategory": "metal"}, {"id": 3, "name": "crack", "supercategory": "metal"}]  # fmt: skip
    write(tmp_path, [entry(), entry(id=12, category_id=7, segmentation=[[30, 5, 40, 5, 40, 20]])], categories=categories)  # fmt: skip
    data = data_set(tmp_path)
    assert data.class_names == ("background", "crack", "rust") and data.num_classes == 3
    mask = data.read(data.samples("train")[0])[1]
    np.testing.assert_array_equal(mask == 1, EXPECTED)
    assert set(np.unique(mask)) == {0, 1, 2}


def test_classes_of_coco_itself_keep_their_places(tmp_path):
    categories = [{"id": n, "name": name} for n, name in zip(THING_IDS, THINGS, strict=True)]
    write(tmp_path, [entry(category_id=90)], categories=categories[::-1])
    data = data_set(tmp_path)
    assert data.class_names == ("background", *THINGS)
    assert set(np.unique(data.read(data.samples("train")[0])[1])) == {0, 80}


def test_without_annotations_the_classes_are_cocos(tmp_path):
    assert data_set(tmp_path).class_names == ("background", *THINGS)


def test_two_splits_may_number_their_images_alike(tmp_path):
    write(tmp_path, [entry()])
    write(tmp_path, [entry(segmentation=[[1, 1, 9, 1, 9, 9]])], split="val")
    data = data_set(tmp_path)
    for split, polygons in (("train", [SQUARE]), ("val", [[1, 1, 9, 1, 9, 9]]), ("train", [SQUARE])):
        np.testing.assert_array_equal(data.read(data.samples(split)[0])[1] == 1, reference(polygons))


def test_splits_of_different_categories_are_refused(tmp_path):
    write(tmp_path, [entry()])
    write(
        tmp_path, [entry()], categories=[{"id": 3, "name": "rust"}, {"id": 7, "name": "crack"}], split="val"
    )
    data = data_set(tmp_path)
    with pytest.raises(UserError, match="other categories than the other split: .*crack"):
        [data.samples(split) for split in ("train", "val")]


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": "leave out"}, {"iscrowd": None}, {"iscrowd": False}, {"area": "leave out"}, {"area": None}, {"area": 0},
        {"bbox": "leave out"}, {"bbox": None}, {"id": "leave out"}, {"id": "a3f"}, {"image_id": "1"}, {"image_id": 1.0},
        {"category_id": "3"}, {"segmentation": SQUARE}, {"segmentation": [[5, 5], [25, 5], [25, 20], [5, 20]]},
        {"segmentation": [[[5, 5], [25, 5], [25, 20], [5, 20]]]}, {"segmentation": {"size": [H, W], "counts": COUNTS}},
        {"segmentation": {"counts": COUNTS}}, {"segmentation": {"size": [H, W], "counts": RUNS}},
    ],
)  # fmt: skip
def test_what_is_certain_is_read(tmp_path, changes):
    write(tmp_path, [entry(**changes)])
    np.testing.assert_array_equal(read(tmp_path) == 1, EXPECTED)
    data = data_set(tmp_path)
    objects = data.read_instances(data.samples("train")[0])
    assert objects["labels"].tolist() == [1] and objects["iscrowd"].tolist() == [False]
    assert objects["boxes"].tolist() == [[5, 5, 25, 20]]
    assert objects["area"].tolist() == [300]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"segmentation": "leave out"}, "a box but no segmentation"),
        ({"segmentation": []}, "a box but no segmentation"),
        ({"segmentation": None, "bbox": "leave out"}, "has no segmentation"),
        ({"segmentation": [[5, 5, 25, 5]]}, "has 4 coordinates"),  # pycocotools takes this for a box
        ({"segmentation": [[5, 5, 25, 5, 25, 20, 5]]}, "has 7 coordinates"),
        ({"segmentation": [[5, 5, 25, 5, 25, None]]}, "no number"),
        ({"segmentation": [[5, 5, 25, 5, 25, float("nan")]]}, "no number"),
        ({"segmentation": "5 5 25 5 25 20"}, "is no list"),
        ({"segmentation": [SQUARE, 5]}, "no list of coordinates"),
        ({"segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]]}, "fractions of the image"),
        ({"segmentation": [[105, 5, 125, 5, 125, 20]]}, "outside of the image's 40x48"),
        ({"segmentation": {"size": [20, 24], "counts": [100, 50, 330]}}, "run lengths are for 20x24 .* the image has 40x48"),
        ({"segmentation": {"size": [W, H], "counts": [100, 50, 1770]}}, "run lengths are for 48x40"),
        ({"segmentation": {"size": [H, W], "counts": [100, 50, 330]}}, "cover 480 pixels"),
        ({"segmentation": {"size": [H, W], "counts": [100, -50, 1870]}}, "no list of numbers"),
        ({"segmentation": {"size": [H, W], "counts": RUNS[:-1]}}, "cut off|cover"),
        ({"segmentation": {"size": [H, W], "counts": "~~"}}, "damaged"),
        ({"segmentation": {"size": [H, W]}}, "no list of numbers"),
        ({"iscrowd": 2}, "iscrowd is 2"),
        ({"area": -3}, "area is -3"),
        ({"area": "large"}, 'area is "large"'),
        ({"bbox": [5, 5, 20]}, "bbox is"),
        ({"bbox": [5, 5, -20, 15]}, "bbox is"),
        ({"category_id": 4}, "category 4, which is not listed"),
        ({"category_id": None}, "category null, which is not listed"),
    ],
)  # fmt: skip
def test_what_is_not_certain_names_file_entry_and_image(tmp_path, changes, says):
    file = write(tmp_path, [entry(**changes)])
    with pytest.raises(UserError, match=says) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{file}: annotation 11 of image 1.png")


ROW = {"id": 1, "file_name": "1.png", "height": H, "width": W}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entries": [entry(image_id=99)]}, "annotation 11 is of image 99, which is not listed"),
        ({"entries": [entry(image_id=None)]}, "annotation 11 is of image null"),
        ({"entries": [entry(), entry()]}, "two annotations have the id 11"),
        ({"entries": [entry(id="11"), entry()]}, "two annotations have the id 11"),
        ({"entries": [entry(id=[1])]}, r"annotation 1 has the id \[1\]"),
        ({"entries": [5]}, "annotation 1 is no mapping"),
        ({"entries": None}, "no list of annotations"),
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1}]}, "needs an id and a file_name"),
        ({"images": [{**ROW, "id": None}]}, "needs an id and a file_name"),
        ({"images": [ROW, {**ROW, "file_name": "2.png"}]}, "1.png and 2.png have the same id 1"),
        ({"images": [ROW, {**ROW, "id": 2}]}, "1.png is listed twice, with the ids 1 and 2"),
        ({"images": [{**ROW, "height": 0}]}, "1.png has a height of 0"),
        ({"images": [{**ROW, "width": None}]}, "a width of null"),
        ({"categories": [{"id": 3}]}, "a category needs an id and a name"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "'a' and 'b' have the same id 3"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}, "category 4 is called 'a', and so is 3"),
        ({"categories": [{"id": 3, "name": "background"}]}, "and so is 'the background'"),
        ({"categories": []}, "has 0 categories"),
        ({"categories": [{"id": i, "name": f"c{i}"} for i in range(1, 256)]}, "has 255 categories"),
        ({"categories": [{"id": 0, "name": "crack"}], "entries": [entry(category_id=0)]}, "category 0, 'crack', has annotations"),
    ],
)  # fmt: skip
def test_lists_that_contradict_themselves_are_refused(tmp_path, changes, says):
    changes = dict(changes)
    file = write(tmp_path, changes.pop("entries", [entry()]), **changes)
    with pytest.raises(UserError, match=says) as caught:
        read(tmp_path)
    assert str(file) in str(caught.value)


def test_a_category_0_that_nothing_uses_is_left_out(tmp_path):
    """Roboflow writes the name of the project there."""
    write(tmp_path, [entry(category_id=1)], categories=[{"id": 0, "name": "all"}, {"id": 1, "name": "crack"}])
    assert data_set(tmp_path).class_names == ("background", "crack")
    np.testing.assert_array_equal(read(tmp_path) == 1, EXPECTED)


def test_an_image_without_annotations_is_background(tmp_path):
    write(tmp_path, [])
    assert not read(tmp_path).any()
    data = data_set(tmp_path)
    assert data.read_instances(data.samples("train")[0])["masks"].shape == (0, H, W)


@pytest.mark.parametrize("content", ['{"images": [{"id": 1, ', "", "[]", "null", "\x00\x01", "[" * 100_000])
def test_a_file_that_is_cut_off_or_something_else_is_named(tmp_path, content):
    file = write(tmp_path, [])
    file.write_text(content)
    with pytest.raises(UserError, match="instances_train2017.json"):
        data_set(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    file = write(tmp_path, [entry()])
    file.write_text(file.read_text(), encoding="utf-8-sig")
    np.testing.assert_array_equal(read(tmp_path) == 1, EXPECTED)


def test_an_image_of_another_size_is_refused(tmp_path):
    write(tmp_path, [entry()], size=(H // 2, W // 2))
    with pytest.raises(UserError, match="image 1.png: the JSON says 40x48 .*the file has 20x24"):
        read(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turned", [False, True])
def test_exif_is_followed_where_the_json_says_which_way_is_up(tmp_path, orientation, turned):
    """What the sizes cannot tell is refused: a photograph upside down, or one without sizes in the JSON."""
    upright = (W, H) if orientation >= 5 else (H, W)
    size = upright if turned else (H, W)
    write(
        tmp_path, [entry()], images=[{"id": 1, "file_name": "1.jpg", "height": size[0], "width": size[1]}],
        orientation=orientation,
    )  # fmt: skip
    if orientation in (2, 3, 4):
        with pytest.raises(UserError, match=f"EXIF orientation {orientation}"):
            read(tmp_path)
        return
    data = data_set(tmp_path)
    image, mask = data.read(data.samples("train")[0])
    assert image.shape[:2] == mask.shape == upright
    if turned or orientation == 1:
        np.testing.assert_array_equal(mask == 1, reference([SQUARE], size))
    else:  # the mask of the stored pixels, turned by Pillow
        stored = Image.fromarray(EXPECTED)
        exif = stored.getexif()
        exif[0x0112] = orientation
        from PIL import ImageOps

        np.testing.assert_array_equal(mask == 1, np.asarray(ImageOps.exif_transpose(stored)))
    objects = data.read_instances(data.samples("train")[0])
    left, top, right, bottom = map(int, objects["boxes"][0])
    there = np.zeros(upright, bool)
    there[top:bottom, left:right] = True
    np.testing.assert_array_equal(there, mask == 1)  # a rectangle is its own box


def test_exif_without_sizes_in_the_json_is_refused(tmp_path):
    write(tmp_path, [entry()], images=[{"id": 1, "file_name": "1.jpg"}], orientation=6)
    with pytest.raises(UserError, match="EXIF orientation 6"):
        read(tmp_path)


def test_a_box_of_corners_is_refused_where_boxes_are_used(tmp_path):
    write(tmp_path, [entry(bbox=[5, 5, 25, 20])])
    data = data_set(tmp_path)
    with pytest.raises(
        UserError, match="annotation 11 of image 1.png: bbox is .*left, top, right and bottom"
    ):
        data.read_instances(data.samples("train")[0])


def test_boxes_turn_as_masks_do():
    mask = np.zeros((H, W), bool)
    mask[4:10, 7:30] = True
    for orientation in (1, 5, 6, 7, 8):
        x, y, width, height = map(int, turn_box((7, 4, 23, 6), orientation, (H, W)))
        turned = turn(mask, orientation)
        assert turned[y : y + height, x : x + width].all() and turned.sum() == width * height


def test_check_says_it_once_and_names_the_file(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, [entry()], split=split, size=(H, W + 1))
    report = check(data_set(tmp_path))
    assert not report.ok and "the JSON says 40x48" in report.text(files=None)


# A property: random files, of parts that are right, odd or wrong.

RIGHT = [
    lambda rng, e: e,
    lambda rng, e: {**e, "image_id": str(e["image_id"])},
    lambda rng, e: {**e, "category_id": str(e["category_id"])},
    lambda rng, e: {k: v for k, v in e.items() if k not in rng.choice(["area", "bbox", "iscrowd", "id"], 2)},
    lambda rng, e: {**e, rng.choice(["area", "bbox", "iscrowd", "id"]): None},
    lambda rng, e: {**e, "segmentation": e["segmentation"][0]} if len(e["segmentation"]) == 1 else e,
    lambda rng, e: {**e, "segmentation": [np.reshape(p, (-1, 2)).tolist() for p in e["segmentation"]]},
    lambda rng, e: {**e, "segmentation": runs(e["segmentation"], compressed=True)},
    lambda rng, e: {**e, "segmentation": runs(e["segmentation"], compressed=False)},
    lambda rng, e: {**e, "segmentation": {"counts": runs(e["segmentation"], compressed=False)["counts"]}},
    lambda rng, e: {**e, "segmentation": runs(e["segmentation"], False), "iscrowd": 1},
]
WRONG = [
    lambda rng, e: {**e, "image_id": 1000},
    lambda rng, e: {**e, "category_id": rng.choice([0, 99]).item()},
    lambda rng, e: {**e, "segmentation": [[*e["segmentation"][0], 3]]},
    lambda rng, e: {**e, "segmentation": [e["segmentation"][0][:4]]},
    lambda rng, e: {**e, "segmentation": [[str(v) for v in e["segmentation"][0]]]},
    lambda rng, e: {**e, "segmentation": [[v / 100 for v in e["segmentation"][0]]]},
    lambda rng, e: {**e, "segmentation": [[v + 300 for v in e["segmentation"][0]]]},
    lambda rng, e: {**e, "segmentation": runs(e["segmentation"], True) | {"size": [W + 1, H]}},
    lambda rng, e: {**e, "segmentation": {"size": [H, W], "counts": [1, 2, 3]}},
    lambda rng, e: {**e, "segmentation": []},
    lambda rng, e: {**e, "iscrowd": "yes"},
    lambda rng, e: {**e, "bbox": ["a"] * 4},
    lambda rng, e: {**e, "area": float("inf")},
]


def runs(polygons, compressed):
    encoded = coco_mask.encode(np.asfortranarray(reference(polygons).astype(np.uint8)))
    if compressed:
        return {"size": [H, W], "counts": encoded["counts"].decode()}
    flat = reference(polygons).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, H * W]).tolist()
    return {"size": [H, W], "counts": counts if not flat[0] else [0, *counts]}


@pytest.mark.parametrize("seed", range(240))
def test_any_file_gives_exactly_its_pixels_or_one_error(tmp_path, seed):
    rng = np.random.default_rng(seed)
    categories = [
        {"id": int(n), "name": f"class {n}"} for n in rng.choice(np.arange(1, 90), 4, replace=False)
    ]
    labels = {number: label for label, number in enumerate(sorted(c["id"] for c in categories), 1)}
    images = [
        {"id": int(n), "file_name": f"{n}.png", "height": H, "width": W} for n in rng.permutation(30)[:3]
    ]
    entries, expected = [], {image["id"]: np.zeros((H, W), int) for image in images}
    objects = []
    for place in range(int(rng.integers(0, 7))):
        centers = rng.uniform(12, 30, (int(rng.integers(1, 3)), 1, 2))
        polygons = [
            (c + rng.uniform(3, 11, (5, 1)) * np.stack([np.cos(a), np.sin(a)], 1)).round(2).ravel().tolist()
            for c, a in zip(centers, np.sort(rng.uniform(0, 6.28, (len(centers), 5))), strict=True)
        ]
        area = int(reference(polygons).sum())
        if area < 3:
            continue
        whole = {
            "id": place + 1, "image_id": int(rng.choice([i["id"] for i in images])), "segmentation": polygons,
            "category_id": int(rng.choice([*labels])), "area": area, "iscrowd": 0, "bbox": [1, 1, 5, 5],
        }  # fmt: skip
        made = RIGHT[rng.integers(len(RIGHT))](rng, whole)
        entries.append(made)
        objects.append((not made.get("iscrowd"), -area, place, whole, polygons))
    for counted, _, _, whole, polygons in sorted(objects, key=lambda found: found[:3]):
        there = reference(polygons)
        expected[whole["image_id"]][there] = labels[whole["category_id"]] if counted else IGNORE_INDEX
    wrong = bool(entries) and seed % 3 == 0
    if wrong:
        at = int(rng.integers(len(objects)))
        entries[at] = WRONG[rng.integers(len(WRONG))](rng, objects[at][3])
    if rng.random() < 0.3:
        for image in images:
            del image["height"], image["width"]
    file = write(tmp_path, entries, images=images, categories=[categories[i] for i in rng.permutation(4)])
    if wrong:
        with pytest.raises(UserError, match=str(file)):
            data = data_set(tmp_path)
            [data.read(sample) for sample in data.samples("train")]
        return
    data = data_set(tmp_path)
    assert data.class_names == ("background", *(f"class {n}" for n in sorted(labels)))
    for sample in data.samples("train"):
        np.testing.assert_array_equal(data.read(sample)[1], expected[sample[-1]])


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = write(tmp_path, [entry()])
    file.write_text(file.read_text().replace('"area": 300', '"area": 300, "area": 3'))
    with pytest.raises(UserError, match="instances_train2017.json: the key 'area' stands twice"):
        read(tmp_path)


def test_one_file_under_two_spellings_is_listed_twice(tmp_path):
    images = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "./1.png"}]
    write(tmp_path, [entry()], images=images)
    with pytest.raises(UserError, match="image 1.png is listed twice"):
        read(tmp_path)


def test_a_box_beside_its_mask_is_refused_except_of_a_crowd(tmp_path):
    for is_crowd in (0, 1):
        write(tmp_path, [entry(bbox=[30, 25, 10, 10], iscrowd=is_crowd)])
        data = data_set(tmp_path, instances=True)
        if is_crowd:
            data.read_instances(data.samples("train")[0])
            continue
        with pytest.raises(UserError, match="annotation 11 of image 1.png: bbox .* lies beside its mask"):
            data.read_instances(data.samples("train")[0])


def test_nothing_but_crowds_is_told_with_a_remedy_of_coco(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, [entry(iscrowd=1, segmentation={"size": [H, W], "counts": COUNTS})], split=split)
    with pytest.raises(UserError, match="(?s)nothing but crowds.*set iscrowd to 0") as error:
        refuse_faulty(data_set(tmp_path))
    assert "init_args.labels" not in str(error.value)
