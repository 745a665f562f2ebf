import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.voc import VOC
from lightning_seg.data.files import list_images, natural_order
from lightning_seg.data.lists import read_lines
from lightning_seg.errors import UserError


def write(root, *names, ending=".png", mask_ending=".png"):
    for name in names:
        for folder, end in (("images", ending), ("masks", mask_ending)):
            path = root / folder / (name + end)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)


def listed(root, *lines, encoding="utf-8", **kwargs):
    """What a list means: image and mask of each line, from the root."""
    (root / "train.txt").write_bytes("\n".join(lines).encode(encoding))
    data = Folder(str(root), ["a", "b"], batch_size=1, crop_size=(4, 4), **kwargs)
    return [tuple(path.relative_to(root).as_posix() for path in pair) for pair in data.samples("train")]


def pair(name):
    return f"images/{name}.png", f"masks/{name}.png"


SITES = "siteA/000", "siteB/000", "siteB/001"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("siteA/000", "siteA/000"),
        ("siteB/000.png", "siteB/000"),
        ("images/siteA/000.png", "siteA/000"),
        ("./images/siteB/000", "siteB/000"),
        ("images\\siteB\\000.png", "siteB/000"),
        ("C:\\data\\images\\siteA\\000.png", "siteA/000"),
        ("/cluster/project/images/siteB/000.tif", "siteB/000"),
        ("001", "siteB/001"),
        ("{root}/images/siteA/000.png", "siteA/000"),
        ("images/siteA/000.png masks/siteA/000.png", "siteA/000"),
        ("siteA/000\tsiteA/000", "siteA/000"),
        ("images/siteB/001.png, masks/siteB/001.png", "siteB/001"),
        ("/x/images/siteB/001.png;/y/masks/siteB/001.png", "siteB/001"),
    ],
)
def test_a_name_means_the_file_that_it_names(tmp_path, line, meant):
    write(tmp_path, *SITES)
    assert listed(tmp_path, line.format(root=tmp_path)) == [pair(meant)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000", "siteA/000.png and .*siteB/000.png"),
        ("000.png", "may mean"),
        ("/elsewhere/000.png", "not there"),
        ("siteC/000.png", "names 1 files that are not there, first 'siteC/000.png'"),
        ("images/siteC/001.png", "not there"),
        ("/elsewhere/siteC/001.png", "not there"),
        ("{root}/images/siteC/001.png", "not there"),
        ("{root}/old/siteB/001.png", "not there"),
        ("masks/siteA/000.png", "not there|not one of the files"),
        ("../other/images/siteA/000.png", "not there"),
        ("siteA/000.1", "not there"),
        ("masks/siteA/000.png images/siteA/000.png", "names the mask first"),
        ("images/siteA/000.png masks/siteB/000.png", "pairs .*siteA/000.png with .*siteB/000.png"),
        ("images/siteA/000.png masks/siteC/000.png", "goes on after the image"),
        ("images/siteA/000.png masks/siteA/000.png 1", "goes on after the image"),
        ("/x/images/siteC/000.png /x/masks/siteB/001.png", "not there"),
        ("id,image,mask", "not there"),
    ],
)
def test_a_name_of_no_file_or_of_several_is_refused(tmp_path, line, message):
    write(tmp_path, *SITES)
    with pytest.raises(UserError, match=message):
        listed(tmp_path, "siteB/001.png", line.format(root=tmp_path))


def test_a_path_to_a_file_elsewhere_is_not_taken_for_one_of_the_same_name(tmp_path):
    write(tmp_path / "ours", "000")
    write(tmp_path / "theirs", "000")
    with pytest.raises(UserError, match="theirs.*not one of the files in"):
        listed(tmp_path / "ours", str(tmp_path / "theirs/images/000.png"))


def test_a_line_may_not_stand_twice(tmp_path):
    write(tmp_path, "a", "b")
    with pytest.raises(UserError, match=r"the line 'a' 2 times.*Remove lines that are there before: 1"):
        listed(tmp_path, "a", "b", "a")


def test_a_line_may_not_stand_twice_in_lists_of_camvid_and_voc(camvid, voc):
    names = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    for kind, root, listing in ((CamVid, camvid, camvid / "train.txt"), (VOC, voc, names)):
        listing.write_text(2 * (listing.read_text().rstrip("\n") + "\n"))
        with pytest.raises(UserError, match="2 times"):
            kind(str(root), batch_size=1, crop_size=(8, 8)).samples("train")


def test_two_lines_may_not_mean_one_file(tmp_path):
    write(tmp_path, "000")
    with pytest.raises(
        UserError, match="names .*000.png twice, as '/x/images/000.png' and as '/y/images/000.png'"
    ):
        listed(tmp_path, "/x/images/000.png", "/y/images/000.png")


@pytest.mark.parametrize("line", ["siteC/000.png", "/x/siteC/000.png", "siteC/000", "C:\\siteC\\000.png"])
def test_a_file_in_another_folder_is_not_taken_for_one_of_the_same_name_in_none(tmp_path, line):
    write(tmp_path, "000", "001")
    with pytest.raises(
        UserError, match="'siteC', and .*000.png, which has its name, does not. If it is meant, write '000'"
    ):
        listed(tmp_path, "001", line)
    assert listed(tmp_path, "001", "/x/images/000.png") == [pair("001"), pair("000")]


@pytest.mark.parametrize("names", [("cam1", "cam2"), ("cam1.1", "cam1")])
def test_dots_in_names_are_no_endings(tmp_path, names):
    write(tmp_path, *names)
    assert listed(tmp_path, *names) == [pair(name) for name in names]
    with pytest.raises(UserError, match="first 'cam1.7'"):
        listed(tmp_path, "cam1.7")


def test_names_with_spaces_and_commas_are_names(tmp_path):
    names = "frame 7", "a, b", "x;y.z"
    write(tmp_path, *names)
    assert listed(tmp_path, *names) == [pair(name) for name in names]
    assert listed(tmp_path, "images/frame 7.png masks/frame 7.png") == [pair("frame 7")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_every_editor_are_read(tmp_path, encoding, end):
    text = end.join(["été", "", "  b\t", "c d", ""])
    content = text.encode("utf-16-be") if encoding.endswith("bom") else text.encode(encoding)
    (tmp_path / "list.txt").write_bytes((b"\xfe\xff" if encoding.endswith("bom") else b"") + content)
    assert read_lines(tmp_path / "list.txt") == ["été", "b", "c d"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes("a\nété".encode(encoding))
    with pytest.raises(UserError, match="list.txt is not text in .*Save it as UTF-8"):
        read_lines(tmp_path / "list.txt")


def test_letters_with_accents_may_be_composed_or_not(tmp_path):
    apart = unicodedata.normalize("NFD", "été")
    write(tmp_path, "été")
    (tmp_path / "images/été.png").rename(tmp_path / "images" / f"{apart}.png")
    assert listed(tmp_path, "été") == listed(tmp_path, apart) == [(f"images/{apart}.png", "masks/été.png")]


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_files_of_one_name_are_refused(tmp_path, folder):
    write(tmp_path, "000", "001")
    Image.new("L", (5, 4)).save(tmp_path / folder / "001.bmp")
    with pytest.raises(UserError, match=r"001.bmp and .*001.png have one name"):
        listed(tmp_path, "000")


def test_hidden_files_and_folders_are_no_samples(tmp_path):
    write(
        tmp_path,
        "000",
        ".ipynb_checkpoints/000-checkpoint",
        "._000",
        "__MACOSX/._000",
        ".thumbs/a/b",
        "@eaDir/x",
    )
    assert [path.name for path in list_images(tmp_path / "images")] == ["000.png"]
    (tmp_path / ".place").mkdir()
    write(tmp_path / ".place", "000")  # the data set itself may lie in a hidden folder
    assert len(list_images(tmp_path / ".place/images")) == 1


def test_hidden_files_are_no_samples_of_any_data_set(camvid, voc):
    from lightning_seg.data.files import glob_visible

    for name in ("._x.png", ".x.png"):
        (camvid / "train" / name).touch()
    assert len(glob_visible(camvid / "train", "*.png")) == 10
    (camvid / "inner" / ".git").mkdir(parents=True)
    (camvid / "inner" / ".git" / "a.png").touch()
    assert glob_visible(camvid / "inner", "*/*.png") == []


def test_links_to_folders_are_followed_and_circles_refused(tmp_path):
    write(tmp_path / "store", "x0", "deep/x1")
    write(tmp_path / "data", "000")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "more").symlink_to(tmp_path / "store" / folder)
    images = list_images(tmp_path / "data/images")
    assert [p.name for p in images] == ["000.png", "x1.png", "x0.png"]
    assert listed(tmp_path / "data", "more/deep/x1.png") == [pair("more/deep/x1")]
    (tmp_path / "store/images/deep/again").symlink_to(tmp_path / "store/images")
    with pytest.raises(UserError, match="again is a link to .*store/images, a folder that it lies in"):
        list_images(tmp_path / "data/images")
    (tmp_path / "store/images/deep/again").unlink()
    (tmp_path / "store/images/gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="gone is a link to .*nowhere, which does not exist"):
        list_images(tmp_path / "data/images")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path, "a/000")
    (tmp_path / "images/a").chmod(0)
    with pytest.raises(UserError, match="images/a cannot be read"):
        list_images(tmp_path / "images")


@pytest.mark.parametrize(
    "change",
    [
        lambda line: " ".join(reversed(line.split())),
        lambda line: line.split()[0],
        lambda line: line + " 1",
        lambda line: line.replace("train/", "trainannot/"),
        lambda line: line.replace("000003.png /", "000004.png /"),
    ],
)
def test_columns_of_camvid_that_are_misread_are_refused(camvid, change):
    lines = (camvid / "train.txt").read_text().splitlines()
    lines[3] = change(lines[3])
    (camvid / "train.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match="an image and its mask in every line"):
        CamVid(str(camvid), batch_size=1, crop_size=(8, 8)).samples("train")


def test_a_list_of_camvid_that_names_existing_files_elsewhere_is_refused(camvid, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (camvid / "train").rename(other / "train")
    (camvid / "train").mkdir()
    text = (camvid / "train.txt").read_text()
    (camvid / "train.txt").write_text(text.replace("/SegNet/CamVid/train/", f"{other}/train/"))
    with pytest.raises(UserError, match="which exists, but"):
        CamVid(str(camvid), batch_size=1, crop_size=(8, 8)).samples("train")


def test_a_list_of_voc_in_columns_is_refused(voc):
    listing = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    names = listing.read_text().split()
    listing.write_bytes("\r\n".join(names).encode("utf-16"))
    data = VOC(str(voc), batch_size=1, crop_size=(8, 8))
    assert [data.name_of(sample) for sample in data.samples("train")] == names
    listing.write_text("\n".join(f"{name}  1" for name in names))
    with pytest.raises(UserError, match="should have one name a line"):
        VOC(str(voc), batch_size=1, crop_size=(8, 8)).samples("train")


def test_natural_order_counts():
    names = ["b", "a10", "a9", "a1b2", "a1b10", "2", "10"]
    assert sorted(names, key=natural_order) == ["2", "10", "a1b2", "a1b10", "a9", "a10", "b"]


def test_spaces_of_word_processors_and_empty_columns_do_no_harm(tmp_path):
    write(tmp_path, "a", "b")
    assert listed(tmp_path, "a.png\u00a0", "b.png") == [pair("a"), pair("b")]
    with pytest.raises(UserError, match="train.txt"):
        listed(tmp_path, "a.png,")
    assert sorted(["x10", "x²", "x9"], key=natural_order) == ["x9", "x10", "x²"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("gone.txt")])
def test_a_list_that_is_no_file_is_not_passed_over(tmp_path, make):
    write(tmp_path, "a", "b")
    make(tmp_path / "train.txt")
    data = Folder(str(tmp_path), ["a", "b"], batch_size=1, crop_size=(4, 4), split_ratios={"train": 1})
    with pytest.raises(UserError, match="train.txt is no file"):
        data.samples("train")
