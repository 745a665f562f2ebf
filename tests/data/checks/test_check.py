import shutil

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.checks.check import check
from lightning_seg.data.checks.examples import CELL, GAP, TEXT, draw_examples
from lightning_seg.data.checks.preview import preview
from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.examination import refuse_faulty
from lightning_seg.errors import UserError


@pytest.fixture
def data(camvid):
    """A sound data set: textured images, so that no two look alike, and all classes in the first mask."""
    rng = np.random.default_rng(1)
    for folder in ("train", "val"):
        for path in (camvid / folder).iterdir():
            texture = np.repeat(np.repeat(rng.integers(0, 256, (12, 16, 3), np.uint8), 4, 0), 4, 1)
            Image.fromarray(texture).save(path)
    first = np.arange(48 * 64).reshape(48, 64) % 12
    Image.fromarray(first.astype(np.uint8)).save(camvid / "trainannot" / "0001TP_000000.png")
    return CamVid(str(camvid), batch_size=2, crop_size=(32, 32), test_split="val")


def image(data, number, split="train"):
    return data.samples(split)[number][0]


def mask(data, number, split="train"):
    return data.samples(split)[number][1]


def save(path, array):
    Image.fromarray(array).save(path)


def found(data):
    return {(finding.kind, finding.split, finding.file) for finding in check(data).findings}


def test_a_sound_data_set_has_no_findings(data):
    report = check(data, progress=True)
    assert report.findings == [] and report.ok
    assert report.lengths == {"train": 10, "val": 5}
    total = sum(np.bincount(data.read(sample)[1].ravel(), minlength=256) for sample in data.samples("train"))
    np.testing.assert_array_equal(report.pixels["train"], total)
    assert f"{total[0] / total.sum():.2%}" in report.text() and "0 errors, 0 warnings" in report.text()
    refuse_faulty(data)


ZEROS = np.zeros((48, 64), np.uint8)
COLORS = np.dstack([ZEROS, ZEROS + 9, ZEROS])

FAULTS = {
    "image missing": (lambda d: image(d, 3).unlink(), "unreadable", image),
    "image damaged": (lambda d: image(d, 3).write_bytes(image(d, 3).read_bytes()[:300]), "unreadable", image),
    "mask missing": (lambda d: mask(d, 3).unlink(), "unreadable", mask),
    "mask damaged": (lambda d: mask(d, 3).write_bytes(b"GIF89a"), "unreadable", mask),
    "mask of colors": (lambda d: save(mask(d, 3), COLORS), "unreadable", mask),
    "mask of another size": (lambda d: save(mask(d, 3), ZEROS[:, :50]), "size", mask),
    "label out of range": (lambda d: save(mask(d, 3), ZEROS + 12), "labels", mask),
    "mask saved as 0/255 beside others": (lambda d: save(mask(d, 3), ZEROS + 254), "labels", mask),
    "nothing annotated": (lambda d: save(mask(d, 3), ZEROS + 11), "void", mask),
    "black image": (lambda d: save(image(d, 3), np.dstack([ZEROS] * 3)), "plain", image),
    "image twice in the split": (lambda d: shutil.copy(image(d, 7), image(d, 3)), "double", image),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_its_file_named(data, fault):
    plant, kind, culprit = FAULTS[fault]
    plant(data)
    assert found(data) == {(kind, "train", str(culprit(data, 3)))}
    assert str(culprit(data, 3)) in check(data).text()


def test_a_leak_is_found_although_the_copy_was_compressed_and_brightened(data):
    copy = np.asarray(Image.open(image(data, 6))).astype(int)
    jpeg = image(data, 2, "val").with_suffix(".jpg")
    save(jpeg, np.clip(copy + 1, 0, 255).astype(np.uint8))
    shutil.move(jpeg, image(data, 2, "val"))
    (finding,) = check(data).findings
    assert (finding.kind, finding.split, finding.file) == ("leak", "train", str(image(data, 6)))
    assert str(image(data, 2, "val")) in finding.detail and not check(data).ok


def test_masks_of_0_and_255_are_recognised(data):
    data.class_names, data.palette = ("ground", "thing"), ((0, 0, 0), (255, 0, 0))
    for split in ("train", "val"):
        for number, _ in enumerate(data.samples(split)):
            save(
                mask(data, number, split), np.where(np.arange(64) < 20 + number, 255, ZEROS).astype(np.uint8)
            )
    assert ("binary", "train", "train") in found(data)
    with pytest.raises(UserError, match="Map 255 to class 1"):
        refuse_faulty(data)


def test_labels_that_begin_at_one_are_recognised(data):
    data.class_names = data.class_names[:4]
    for number, _ in enumerate(data.samples("train")):
        save(mask(data, number), (1 + np.arange(48 * 64).reshape(48, 64) % 4).astype(np.uint8))
    report = check(data)
    assert {finding.kind for finding in report.findings if finding.split == "train"} == {
        "labels",
        "shifted",
        "absent",
    }


def test_a_class_that_never_occurs_is_named(data):
    for sample in data.samples("train"):
        labels = np.array(Image.open(sample[1]))
        save(sample[1], np.where(labels == 9, 0, labels))
    assert found(data) == {("absent", "train", "pedestrian")}


def test_files_in_no_list_are_named(data, camvid):
    last = data.samples("train")[-1]
    lines = (camvid / "train.txt").read_text().splitlines()
    (camvid / "train.txt").write_text("\n".join(lines[:-1]))
    fresh = CamVid(str(camvid), batch_size=2, crop_size=(32, 32), test_split="val")
    assert {(kind, file) for kind, _, file in found(fresh)} == {
        ("unused", str(path.resolve())) for path in last
    }


def test_splits_that_are_missing(data, camvid):
    data.test_split = "test"
    report = check(data)
    assert {(finding.kind, finding.is_error) for finding in report.findings} == {("untested", False)}
    assert "--data.init_args.test_split=val." in report.text()
    data.val_split = "all"
    assert ("split", True) in {(finding.kind, finding.is_error) for finding in check(data).findings}
    with pytest.raises(UserError, match="does not exist"):
        check(CamVid(str(camvid / "nowhere"), batch_size=2, crop_size=(32, 32)))


def test_training_does_not_start_on_wrong_labels(data):
    for sample in data.samples("val"):
        save(sample[1], ZEROS + 200)
    with pytest.raises(UserError, match=r"(?s)200; classes are 0 to 10.*Map them to classes"):
        data.setup("fit")


def test_long_reports_are_cut_and_say_so(data):
    for sample in data.samples("train"):
        sample[1].unlink()
    assert "... and 8 more" in check(data).text(files=2)
    assert "more" not in check(data).text(files=None)


def test_shapes_are_sound():
    data = Shapes(batch_size=2, crop_size=(32, 32), train_images=30, val_images=10, test_images=10)
    assert check(data).findings == []


def test_examples_show_every_class_from_most_to_fewest_pixels(data, tmp_path):
    report = check(data)
    counts = np.array([np.bincount(data.read(s)[1].ravel(), minlength=256) for s in data.samples("train")])
    for label in range(11):
        shown = counts[report.examples[label], label]
        assert (np.diff(shown) <= 0).all() and shown[0] == counts[:, label].max()
        assert shown[-1] == counts[counts[:, label] > 0, label].min()
    draw_examples(data, report, tmp_path / "classes.png")
    picture = np.asarray(Image.open(tmp_path / "classes.png")).astype(int)
    columns = max(map(len, report.examples.values()))
    assert picture.shape[:2] == (11 * (CELL[1] + GAP) + GAP, TEXT + columns * (CELL[0] + GAP) + GAP)
    marked = (picture[:, TEXT:, 0] - picture[:, TEXT:, 1] > 60).sum() / (11 * CELL[0] * CELL[1])
    expected = np.mean([counts[s, label] / 3072 for label, some in report.examples.items() for s in some])
    assert 0.3 * expected < marked / columns < 3 * expected


def test_examples_of_overlapping_classes_mark_each_the_pixels_of_its_own(tmp_path):
    data = Shapes(
        batch_size=2, crop_size=(32, 32), image_size=(48, 64), train_images=8, val_images=2, test_images=2
    )
    data.overlapping = True
    report = check(data)
    assert "class weights" not in report.text()
    draw_examples(data, report, tmp_path / "classes.png")
    picture = np.asarray(Image.open(tmp_path / "classes.png")).astype(int)
    for label in range(1, data.num_classes):
        for column, index in enumerate(report.examples[label]):
            top, left = GAP + label * (CELL[1] + GAP), TEXT + column * (CELL[0] + GAP)
            cell = picture[top : top + CELL[1], left : left + CELL[0]]
            masks = data.read_labels(data.samples("train")[index])[1]
            scale = min(CELL[0] / masks.shape[1], CELL[1] / masks.shape[0]) ** 2
            expected = (masks[..., label - 1] == 1).sum() * scale
            marked = np.ptp(cell, axis=2) > 0  # what is not marked is grey
            assert marked.sum() == pytest.approx(expected, rel=0.25, abs=40)


def test_a_split_that_holds_training_samples_is_refused_before_training(data):
    data.train_split = "train+val"
    with pytest.raises(UserError, match="(?s)the same image in two splits .5.*is also val"):
        refuse_faulty(data)


def test_preview_draws_every_sample_with_its_mask(data, tmp_path):
    preview(data, tmp_path / "preview.png", count=5, columns=2)
    picture = Image.open(tmp_path / "preview.png")
    assert picture.size == (2 * (64 + 8), 3 * (32 + 8))
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 500


@pytest.mark.parametrize("name", ["CamVid"])
def test_real_data_is_sound(real_data, name):
    data = CamVid(str(real_data / name), batch_size=2, crop_size=(32, 32))
    report = check(data)
    assert report.ok and report.images["train"][:11].min() > 100
    assert {finding.kind for finding in report.findings} == {"untested", "double"}  # the car stood still


def test_class_weights_are_those_of_median_frequency_balancing(data):
    data.class_names = ("a", "b", "c", "d")
    for number, _ in enumerate(data.samples("train")):
        share = np.zeros((48, 64), np.uint8)
        share[:, :16] = 1  # a quarter of every image
        if number < 2:
            share[:, 60:] = 2  # a sixteenth, of two images
        share[:24] = np.where(share[:24] == 0, 11, share[:24])  # not counted
        save(mask(data, number), share)
    a, b, c, d = check(data).class_weights("train")
    size = 48 * 64  # unlabeled pixels included
    frequency = [
        (2 * 44 * 24 + 8 * 48 * 24) / (10 * size), 10 * 16 * 48 / (10 * size), 2 * 4 * 48 / (2 * size),
    ]  # fmt: skip
    np.testing.assert_allclose([a, b, c], np.median(frequency) / frequency, atol=1e-4)
    assert d == 1 and f"[{a}, {b}, {c}, {d}]" in check(data).text()
