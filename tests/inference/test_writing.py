"""Which images are predicted, and what their results are called: nothing is overwritten, nothing read by mistake."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_seg.errors import UserError
from lightning_seg.inference.writing import INDEX, KINDS, plan_outputs


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(folder / name)
    return folder


def named(outputs, folder):
    return {path.relative_to(folder).as_posix(): name.as_posix() for path, name in outputs.names.items()}


def test_sub_folders_are_kept_and_equal_stems_keep_their_ending(tmp_path):
    folder = images(tmp_path / "in", "a/001.png", "a/001.jpg", "b/001.png", "b/x.y.png", "c.tif")
    outputs = plan_outputs(folder, tmp_path / "out")
    assert named(outputs, folder) == {
        "a/001.png": "a/001.png",
        "a/001.jpg": "a/001.jpg",
        "b/001.png": "b/001",
        "b/x.y.png": "b/x.y",
        "c.tif": "c",
    }
    file = outputs.file("masks", folder / "b/x.y.png", ".png")
    assert file == tmp_path / "out/masks/b/x.y.png" and file.parent.is_dir()
    assert outputs.file("masks", str(folder / "a/001.jpg"), ".png").name == "001.jpg.png"


def test_names_that_differ_in_capitals_only_are_the_same_to_some_file_systems(tmp_path):
    folder = images(tmp_path / "in", "A.png", "a.jpg")
    if len(list(folder.iterdir())) < 2:
        pytest.skip("as on this one")
    assert named(plan_outputs(folder, tmp_path / "out"), folder) == {"A.png": "A.png", "a.jpg": "a.jpg"}


def test_names_that_cannot_be_told_apart_are_an_error_before_anything_is_written(tmp_path):
    folder = images(tmp_path / "in", "a.png", "a.jpg", "a.jpg.png")
    with pytest.raises(UserError, match=r"a\.jpg.* and .*a\.jpg\.png would have the same name"):
        plan_outputs(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_slices_of_a_stack_do_not_overwrite_images_in_a_folder_of_its_name(tmp_path):
    folder = images(tmp_path / "in", "a/0001.png")
    pages = [Image.new("L", (2, 2), i) for i in range(2)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="would have the same name"):
        plan_outputs(folder, tmp_path / "out")


def test_no_name_is_not_the_current_folder(tmp_path):
    with pytest.raises(UserError, match="IMAGES is empty"):
        plan_outputs("", tmp_path / "out")


STEMS = st.text("aAb.", min_size=1, max_size=3).filter(lambda stem: stem.strip(".") == stem)
NAMES = st.tuples(st.sampled_from(["", "d/"]), STEMS, st.sampled_from([".png", ".jpg", ".tif", ".PNG"]))


@settings(max_examples=100, deadline=None)
@given(st.sets(NAMES.map("".join), min_size=1, max_size=8))
def test_any_names_give_one_result_each_or_one_error(names):
    from lightning_seg.inference.writing import _names

    folder = Path("in")
    try:
        found = _names([folder / name for name in sorted(names)], folder)
    except UserError as error:
        assert "would have the same name" in str(error)
        return
    assert len({str(name).casefold() for name in found.values()}) == len(names)
    for image, name in found.items():
        assert image.relative_to(folder) in (name, name.with_name(name.name + image.suffix))


@pytest.mark.parametrize("output", ["out", "in/out", "in", "."])
def test_predictions_are_never_read_as_images(tmp_path, output):
    folder, out = images(tmp_path / "in", "a.png", "b/c.png"), tmp_path / output
    for _ in range(2):
        outputs = plan_outputs(folder, out)
        assert named(outputs, folder) == {"a.png": "a", "b/c.png": "b/c"}
        outputs.create(KINDS, Path("runs/x/1"))
        for image in outputs.names:
            for kind in KINDS:
                Image.new("L", (2, 2)).save(outputs.file(kind, image, ".png"))
    assert json.loads((out / INDEX).read_text())["images"][str(folder / "b/c.png")] == "b/c"
    other = plan_outputs(folder, tmp_path / "in/other")  # nor by a prediction to another folder
    assert named(other, folder) == {"a.png": "a", "b/c.png": "b/c"}


def test_predictions_behind_a_link_are_not_read(tmp_path):
    folder, out = images(tmp_path / "in", "a.png"), tmp_path / "out"
    plan_outputs(folder, out).create(["masks"], Path("run"))
    images(out, "masks/a.png")
    (folder / "earlier").symlink_to(out)
    (folder / "more").symlink_to(images(tmp_path / "store", "z.png"))
    assert set(named(plan_outputs(folder, tmp_path / "new"), folder)) - {"more/z.png"} == {"a.png"}


def test_folders_of_such_names_that_hold_images_are_read(tmp_path):
    folder = images(tmp_path / "in", "masks/a.png", "objects/b.png")
    assert set(named(plan_outputs(folder, tmp_path / "out"), folder)) == {"masks/a.png", "objects/b.png"}


def test_images_are_not_overwritten(tmp_path):
    folder = images(tmp_path / "in", "masks/a.png")
    with pytest.raises(UserError, match=r"would lie among the images, such as .*masks/a.png: choose another"):
        plan_outputs(folder / "masks", folder)


def test_a_folder_of_predictions_alone_has_no_image(tmp_path):
    out = images(tmp_path / "out", "masks/a.png", "overlays/a.png")
    (out / INDEX).write_text("{}")
    with pytest.raises(UserError, match="all 2 images in .* are predictions"):
        plan_outputs(out, tmp_path / "other")


def test_one_image_is_called_by_its_name(tmp_path):
    folder = images(tmp_path / "deep/in", "a.png", "a.jpg")
    outputs = plan_outputs(folder / "a.jpg", tmp_path / "out")
    assert [name.as_posix() for name in outputs.names.values()] == ["a"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "out").write_text("a file")
    else:
        (tmp_path / "out").mkdir(mode=0o500)
    outputs = plan_outputs(images(tmp_path / "in", "a.png"), tmp_path / "out")
    with pytest.raises(UserError, match="cannot write to .*out: .*; choose another --output"):
        outputs.create(["masks"], Path("run"))
