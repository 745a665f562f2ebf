"""What only several files show: palettes, void, neighbours; and how it is told."""

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.checks.check import check
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.examination import refuse_faulty
from lightning_seg.data.findings import KINDS, Finding, describe
from lightning_seg.errors import UserError

RATIOS = {"train": 0.5, "val": 0.25, "test": 0.25}
COLORS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
LABELS = np.arange(24 * 32).reshape(24, 32) // 5 % 3


def write(root, count, mask=LABELS, image=None, name="{:03d}"):
    """Write images of noise, and masks; `mask` and `image` may depend on the number."""
    named = name if callable(name) else name.format
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        noise = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        picture = noise if image is None else image(i)
        Image.fromarray(picture).save(root / "images" / f"{named(i)}.png")
        labels = mask(i) if callable(mask) else mask
        if not isinstance(labels, Image.Image):
            labels = Image.fromarray(labels.astype(np.uint8))
        labels.save(root / "masks" / f"{named(i)}.png")


def folder(root, **kwargs):
    arguments = {
        "class_names": ["a", "b", "c"],
        "batch_size": 2,
        "crop_size": (16, 16),
        "split_ratios": RATIOS,
    }
    return Folder(str(root), **{**arguments, **kwargs})


def kinds(data):
    return {finding.kind for finding in check(data).findings}


def with_palette(labels, order):
    """A palette file that shows the colors of the classes, numbered in another order."""
    numbers = np.argsort(order)[labels]
    picture = Image.fromarray(numbers.astype(np.uint8), mode="P")
    picture.putpalette(COLORS[order].ravel().tolist())
    return picture


def test_one_palette_among_many_that_differs_is_found_before_training(tmp_path):
    odd = 137
    write(tmp_path, 200, lambda i: with_palette(LABELS, [0, 2, 1] if i == odd else [0, 1, 2]))
    data = folder(tmp_path)
    assert {f.file for f in check(data).findings if f.kind == "palettes"} == {
        str(tmp_path / f"masks/{odd}.png")
    }
    with pytest.raises(
        UserError,
        match=r"(?s)palettes that differ.*137.png: 1 is \(0, 128, 0\), in other files \(128, 0, 0\).*colors=",
    ):
        refuse_faulty(data)
    colored = folder(tmp_path, colors=[tuple(color) for color in COLORS.tolist()])
    assert kinds(colored) == set()  # the remedy works
    assert all((colored.read(sample)[1] == LABELS).all() for sample in colored.samples("train"))


def test_palettes_that_show_the_colors_of_other_classes_are_told(tmp_path):
    write(tmp_path, 8, with_palette(LABELS, [2, 1, 0]))
    with pytest.warns(
        UserWarning, match=r"(?s)colors of other classes.*0 is \(0, 128, 0\), the color of 'c'.*colors="
    ):
        refuse_faulty(folder(tmp_path))
    assert kinds(folder(tmp_path)) == {"permuted"}


@pytest.mark.parametrize("unused", [[0, 0, 0], [7, 7, 7]])
def test_palettes_that_differ_in_unused_colors_are_no_finding(tmp_path, unused):
    def mask(i):
        picture = Image.fromarray(LABELS.astype(np.uint8), mode="P")
        picture.putpalette([*COLORS.ravel().tolist(), *(unused if i % 2 else [1, 2, 3])])
        return picture

    write(tmp_path, 8, mask)
    assert kinds(folder(tmp_path)) == set()


def test_masks_that_are_void_throughout_teach_nothing(tmp_path):
    write(tmp_path, 8, np.full((24, 32), 255))
    with pytest.raises(
        UserError, match=r"(?s)nothing to learn from.*train: .*every mask is 255.*labels='\{255: 1\}'"
    ):
        folder(tmp_path).setup("fit")


def test_a_few_void_masks_are_told_before_training(tmp_path):
    write(tmp_path, 8, lambda i: np.full((24, 32), 255) if i == 3 else LABELS)
    with pytest.warns(UserWarning, match="nothing to count .1.*\n.*masks/003.png"):
        refuse_faulty(folder(tmp_path))


def test_a_background_of_255_is_told_and_the_remedy_works(tmp_path):
    write(tmp_path, 8, np.where(LABELS == 1, 1, np.where(LABELS == 2, 255, 255)))
    with pytest.warns(
        UserWarning, match=r"(?s)most pixels are 255, and class 0 never occurs.*labels='\{255: 0\}'"
    ):
        refuse_faulty(folder(tmp_path, class_names=["ground", "thing"]))
    data = folder(tmp_path, class_names=["ground", "thing"], labels={255: 0})
    assert kinds(data) == set() and set(np.unique(data.read(data.samples("train")[0])[1])) == {0, 1}


@pytest.mark.parametrize("labels", [{255: 1}, {255: 0, 0: 1}])
def test_masks_of_0_and_255_have_two_remedies_that_work(tmp_path, labels):
    write(tmp_path, 8, np.where(LABELS == 1, 255, 0))
    names = ["ground", "thing"]
    with pytest.raises(UserError, match=r"\{255: 1\}.*\{255: 0, 0: 1\}"):
        refuse_faulty(folder(tmp_path, class_names=names))
    assert kinds(folder(tmp_path, class_names=names, labels=labels)) == set()


def test_a_range_that_does_not_fit_is_told(tmp_path):
    def image(i):
        return np.kron(np.random.default_rng(i).integers(0, 4096, (6, 8)), np.ones((4, 4))).astype(np.uint16)

    write(tmp_path, 8, image=image)
    (finding, *_) = [f for f in check(folder(tmp_path)).findings if f.split == "train"]
    assert finding.kind == "range" and "values of 4 images go from" in finding.detail
    for value_range, lost in (
        ((0, 65535), "use 6% of the range"),
        ((0, 1000), "% of the values are clipped"),
    ):
        found = check(folder(tmp_path, value_range=value_range)).findings
        assert {f.kind for f in found} == {"clipped"} and len(found) == 8
        with pytest.warns(UserWarning, match=f"value_range does not fit(?s:.*){lost}"):
            refuse_faulty(folder(tmp_path, value_range=value_range))
    assert kinds(folder(tmp_path, value_range=(0, 4095))) == set()


def video(i):
    """A frame of a scene that moves by a pixel, with a cut after 30 frames."""
    scene = np.random.default_rng(i // 30).integers(0, 256, (8, 30, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(scene).resize((180, 48), Image.Resampling.BICUBIC))[
        12:36, i % 30 : i % 30 + 32
    ]


def test_neighbours_in_two_splits_are_told_and_the_remedies_work(tmp_path):
    write(tmp_path, 120, image=video, name=lambda i: f"scene{i // 30}_{i % 30}")
    ratios = {"train": 0.8, "val": 0.2}

    def found(**kwargs):
        findings = check(folder(tmp_path, split_ratios=ratios, test_split="val", **kwargs)).findings
        return [finding for finding in findings if finding.kind == "neighbours"]

    (finding,) = found()
    straddling, total = map(int, finding.detail.split(" images")[0].split(" of "))
    assert total == 24 and straddling > 15 and not finding.is_error
    assert "groups=folder" in KINDS["neighbours"].remedy and "sequence=true" in KINDS["neighbours"].remedy
    assert found(sequence=True) == []
    assert found(groups="scene[0-9]") == []


def test_numbered_images_that_do_not_look_alike_are_no_neighbours(tmp_path):
    write(tmp_path, 60, name="photo_{}")
    assert kinds(folder(tmp_path)) == set()


def test_equal_findings_share_a_line():
    files = [f"/data/masks/{i:03d}.png" for i in range(468)]
    findings = [Finding("labels", "train", file, "7, 9; classes are 0 to 2") for file in files]
    findings.append(Finding("labels", "val", "/data/masks/x.png", "8; classes are 0 to 2"))
    (text,) = describe(findings)
    assert text.count("classes are 0 to 2") == 2 and "468 files" in text and len(text.splitlines()) < 8
    assert "in /data/masks: 000.png, 001.png" in text and "... and 458 more" in text
    (text,) = describe(findings, files=None)
    assert all(file.rsplit("/")[-1] in text for file in files) and text.count("classes are") == 2


def test_every_remedy_names_settings_that_exist():
    import inspect
    import re

    from lightning_seg.data.base import SegmentationData

    known = {*inspect.signature(Folder).parameters, *inspect.signature(SegmentationData).parameters}
    named = {n for kind in KINDS.values() for n in re.findall(r"--data\.init_args\.(\w+)", kind.remedy)}
    assert named and named <= known


def test_one_class_in_all_masks_is_told_before_training(tmp_path):
    write(tmp_path, 8, mask=LABELS * 0)
    with pytest.warns(UserWarning, match=r"one class in all masks.*\n.*every pixel is 'a'"):
        refuse_faulty(folder(tmp_path))


def test_lists_that_divide_groups_are_refused_and_the_remedy_works(tmp_path):
    write(tmp_path, 8, name=lambda i: f"p{i // 2}_{i}")
    names = [f"p{i // 2}_{i}" for i in range(8)]
    for split, chosen in {"train": names[:3], "val": names[3:6], "test": names[6:]}.items():
        (tmp_path / f"{split}.txt").write_text("\n".join(chosen))
    data = folder(tmp_path, split_ratios=None, groups="p[0-9]")
    with pytest.raises(UserError, match=r"groups in several splits.*\n *val: p1: is also in train"):
        refuse_faulty(data)
    assert "groups" in kinds(data)
    assert "groups" not in kinds(folder(tmp_path, split_ratios=None, groups="_[0-9]"))
    assert "take the lists" in KINDS["groups"].remedy
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").unlink()
    assert "groups" not in kinds(folder(tmp_path, groups="p[0-9]"))


def test_a_batch_larger_than_the_training_split_and_ratios_without_a_test_split_are_told(tmp_path):
    write(tmp_path, 4)
    found = {finding.kind: finding for finding in check(folder(tmp_path, batch_size=3)).findings}
    assert (
        found["few"].is_error and "2 images" in found["few"].detail and "batch_size 3" in found["few"].detail
    )
    assert "few" not in kinds(folder(tmp_path, batch_size=3, samples_per_image=2))
    found = {f.kind: f for f in check(folder(tmp_path, split_ratios={"train": 3, "val": 1})).findings}
    assert not found["untested"].is_error
    assert "split_ratios gives no share to 'test'" in found["untested"].detail
