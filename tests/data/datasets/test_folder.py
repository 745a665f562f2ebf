import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.checks.check import check
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.examination import examine, refuse_faulty
from lightning_seg.errors import UserError

ARGUMENTS = {"batch_size": 2, "crop_size": (16, 16)}
RATIOS = {"train": 0.5, "val": 0.25, "test": 0.25}
COLORS = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
RNG = np.random.default_rng(0)
NUMBERS = np.arange(20 * 24).reshape(20, 24) // 7 % 3


def write(root, names, mask=NUMBERS, suffix="", ending="jpg", palette=False):
    for name in names:
        for folder in ("images", "masks"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (20, 24, 3), np.uint8)).save(
            root / "images" / f"{name}.{ending}"
        )
        picture = Image.fromarray(mask.astype(np.uint8))
        if palette:
            picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        picture.save(root / "masks" / f"{name}{suffix}.png")


def folder(root, **kwargs):
    return Folder(str(root), ["a", "b", "c"], **{**ARGUMENTS, "split_ratios": RATIOS, **kwargs})


def stems(data, split):
    return [data.name_of(sample) for sample in data.samples(split)]


EIGHT = [f"scan_{i}" for i in range(8)]


@pytest.mark.parametrize("palette", [False, True])
def test_index_masks_are_paired_by_name(tmp_path, palette):
    write(tmp_path, EIGHT, palette=palette, suffix="_mask")
    data = folder(tmp_path, mask_suffix="_mask")
    data.setup("fit")
    image, mask = data.read(data.samples("train")[0])
    np.testing.assert_array_equal(mask, NUMBERS)
    assert image.shape == (20, 24, 3)


def test_masks_of_colors(tmp_path):
    write(tmp_path, EIGHT, np.array([*COLORS, (9, 9, 9)])[np.where(NUMBERS == 2, 3, NUMBERS)])
    data = folder(tmp_path, colors=COLORS, void_colors=[(9, 9, 9)])
    np.testing.assert_array_equal(data.read(data.samples("val")[0])[1], np.where(NUMBERS == 2, 255, NUMBERS))
    assert data.palette == tuple(COLORS)
    strict = folder(tmp_path, colors=COLORS)
    with pytest.raises(
        UserError,
        match=rf"scan_.*{(NUMBERS == 2).sum()} pixels of colors that are no class, first \[9 9 9\]",
    ):
        strict.read(strict.samples("val")[0])


def test_labels_are_mapped(tmp_path):
    write(tmp_path, EIGHT, np.array([0, 255, 7])[NUMBERS])
    data = folder(tmp_path, labels={255: 1, 7: 255})
    np.testing.assert_array_equal(data.read(data.samples("val")[0])[1], np.array([0, 1, 255])[NUMBERS])


def test_ratios_divide_without_overlap_and_by_the_seed_alone(tmp_path):
    write(tmp_path, EIGHT)
    parts = [stems(folder(tmp_path), split) for split in RATIOS]
    assert [len(part) for part in parts] == [4, 2, 2]
    assert sorted(sum(parts, [])) == EIGHT
    assert parts == [stems(folder(tmp_path), split) for split in RATIOS]
    assert parts != [stems(folder(tmp_path, split_seed=1), split) for split in RATIOS]


def test_splits_by_folders(tmp_path):
    write(tmp_path, ["train/x", "train/y", "val/x"])
    data = folder(tmp_path, split_ratios=None)
    assert stems(data, "train") == ["train/x", "train/y"] and stems(data, "val") == ["val/x"]
    with pytest.warns(UserWarning, match="test_split=val"):
        data.setup("fit")


def test_splits_by_lists(tmp_path):
    write(tmp_path, ["a.b", "deep/c", "d"])
    (tmp_path / "train.txt").write_text("a.b\n\nc.jpg\n")
    (tmp_path / "val.txt").write_text("/elsewhere/images/d.png\n")
    data = folder(tmp_path, split_ratios=None)
    assert stems(data, "train") == ["a.b", "deep/c"] and stems(data, "val") == ["d"]
    (tmp_path / "test.txt").write_text("nobody\n")
    with pytest.raises(UserError, match="test.txt names 1 files that are not there, first 'nobody'"):
        data.samples("test")


def test_what_has_no_partner_is_named(tmp_path):
    write(tmp_path, EIGHT)
    (tmp_path / "masks" / "scan_3.png").unlink()
    with pytest.raises(UserError, match="(?s)1 files have no partner.*images/scan_3.jpg: no mask in .*masks"):
        folder(tmp_path).samples("train")
    write(tmp_path, ["scan_3"])
    (tmp_path / "images" / "scan_5.jpg").unlink()
    with pytest.raises(
        UserError, match="(?s)1 files have no partner.*masks/scan_5.png: no image in .*images"
    ):
        folder(tmp_path).samples("train")


def test_check_names_every_file_without_a_partner_once(tmp_path):
    write(tmp_path, EIGHT)
    alone = [tmp_path / "images" / "scan_5.jpg", *(tmp_path / "masks" / f"scan_{i}.png" for i in (1, 3))]
    for path in alone:
        path.unlink()
    report = check(folder(tmp_path))
    found = {finding.file for finding in report.findings if finding.kind == "unpaired"}
    others = [tmp_path / "masks" / "scan_5.png", *(tmp_path / "images" / f"scan_{i}.jpg" for i in (1, 3))]
    assert found == set(map(str, others)) and len(report.findings) == 3 and not report.ok
    assert "scan_5.png: no image in" in report.text() and "3 errors" in report.text()
    with pytest.raises(UserError, match="no partner"):
        folder(tmp_path).setup("fit")


def test_no_split_and_no_folder(tmp_path):
    with pytest.raises(UserError, match="images does not exist"):
        folder(tmp_path / "nowhere").samples("train")
    write(tmp_path, EIGHT)
    with pytest.raises(UserError, match="no train.txt and no images/train/.*split_ratios="):
        folder(tmp_path, split_ratios=None).samples("train")


def test_arguments_that_contradict_each_other(tmp_path):
    with pytest.raises(UserError, match="3 class_names but 2 colors"):
        folder(tmp_path, colors=COLORS[:2])
    with pytest.raises(UserError, match="not both"):
        folder(tmp_path, colors=COLORS, labels={1: 0})


def test_neighbours_in_a_sequence_stay_together(tmp_path):
    write(tmp_path, [f"frame_{i}" for i in range(12)])  # frame_10 comes after frame_9
    data = folder(tmp_path, sequence=True)
    assert [int(name[6:]) for name in stems(data, "train")] == [*range(6)]
    assert [int(name[6:]) for name in stems(data, "val") + stems(data, "test")] == [*range(6, 12)]


@pytest.mark.parametrize("groups", ["folder", "p[0-9]+", "(p[0-9])/"])
def test_groups_are_not_divided(tmp_path, groups):
    write(tmp_path, [f"p{i}/slice_{j}" for i in range(5) for j in range(3)])
    data = folder(tmp_path, groups=groups)
    patients = [{name[:2] for name in stems(data, split)} for split in RATIOS]
    assert sum(map(len, patients)) == 5 and all(patients)

    def held_out(fold):
        data = folder(tmp_path, groups=groups, split_ratios={"train": 1}, fold=fold)
        return {name[:2] for name in stems(data, data.val_split)}

    assert sorted(map(held_out, range(5)), key=str) == [{f"p{i}"} for i in range(5)]


def test_groups_that_say_nothing_are_refused(tmp_path):
    write(tmp_path, EIGHT)
    with pytest.raises(
        UserError, match="'patient' , which|'patient', which does not occur in the name 'scan_0'"
    ):
        folder(tmp_path, groups="patient").samples("train")
    with pytest.raises(UserError, match="no regular expression: '\\['"):
        folder(tmp_path, groups="[")
    with pytest.raises(UserError, match="1 groups .*too few"):
        folder(tmp_path, groups="folder").samples("train")


def test_a_value_range_is_used_for_samples_and_for_prediction(tmp_path):
    write(tmp_path, EIGHT, ending="png")
    deep = (np.arange(480).reshape(20, 24) * 8).astype(np.uint16)
    for name in EIGHT:
        Image.fromarray(deep).save(tmp_path / "images" / f"{name}.png")
    with pytest.raises(
        UserError, match="(?s)more than 8 bits a channel .3.*4 images go from 0 to 3832.*value_range"
    ):
        folder(tmp_path).setup("fit")
    data = folder(tmp_path, value_range=(0, 4095), predict_folder=str(tmp_path / "images"))
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    for image in (data.read(data.samples("train")[0])[0], batch["image"][0].permute(1, 2, 0).numpy()):
        np.testing.assert_array_equal(image, np.stack([deep] * 3, -1))
    with pytest.raises(UserError, match="value_range must be lowest and highest"):
        folder(tmp_path, value_range=(9, 9))


def test_other_bands_or_void_colors_are_another_cache_and_another_range_is_not(tmp_path):
    from lightning_seg.data.cache import cache_key

    write(tmp_path, EIGHT)
    settings = [
        {},
        {"bands": [2, 1, 0]},
        {"colors": COLORS},
        {"colors": COLORS, "void_colors": [(9, 9, 9)]},
    ]
    assert len({cache_key(folder(tmp_path, **s), "train", []) for s in settings}) == 4
    assert len({cache_key(folder(tmp_path, value_range=r), "train", []) for r in (None, (0, 9))}) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"groups": ""}, "groups is empty"), ({"value_range": (0, float("inf"))}, "value_range must be")],
)
def test_empty_groups_and_endless_ranges_are_refused(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        folder(tmp_path, **setting)


def test_classes_besides_the_only_one_in_all_masks_are_told(tmp_path):
    write(tmp_path, EIGHT, mask=np.zeros((20, 24)), ending="png")
    absent = [found.file for found in check(folder(tmp_path)).findings if found.kind == "absent"]
    assert absent == ["b", "c"]


@pytest.mark.parametrize("lists", [True, False])
def test_a_suffix_of_masks_that_was_forgotten_is_named(tmp_path, lists):
    write(tmp_path, EIGHT)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_seg"))
    if lists:
        (tmp_path / "train.txt").write_text("scan_1\n")
    with pytest.raises(UserError, match="With --data.init_args.mask_suffix='_seg' all images have masks"):
        folder(tmp_path).samples("train")
    (tmp_path / "train.txt").write_text("nobody\n")
    with pytest.raises(UserError, match="nobody") as error:
        folder(tmp_path, mask_suffix="_seg").samples("train")
    assert "all images have masks" not in str(error.value)


def test_a_value_range_that_leaves_nothing_is_told_and_not_called_copies(tmp_path):
    write(tmp_path, EIGHT)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
        Image.fromarray(np.full((40, 48), 700, np.uint16) + np.arange(48, dtype=np.uint16)).save(
            path.with_suffix(".png")
        )
    with pytest.raises(UserError) as error:
        refuse_faulty(folder(tmp_path, value_range=(0, 1e6)))
    assert "nothing is left of the images" in str(error.value) and "two splits" not in str(error.value)
    examined = examine(folder(tmp_path, value_range=(0, 1e6)))
    assert not {finding.kind for finding in examined.findings} & {"plain", "double", "leak"}
