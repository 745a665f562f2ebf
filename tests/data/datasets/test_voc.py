import shutil
import time

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCSegmentation

from lightning_seg.data.datasets import voc as module
from lightning_seg.data.datasets.voc import VOC
from lightning_seg.errors import UserError

VOC_SIZES = [(60, 80), (75, 50), (64, 64), (61, 83), (90, 41)]  # as the fixture writes them
ARGUMENTS = {"batch_size": 2, "crop_size": (48, 48)}


def test_samples_agree_with_torchvision(voc):
    data = VOC(str(voc), **ARGUMENTS)
    for split in ("train", "val"):
        reference = VOCSegmentation(voc, year="2012", image_set=split)
        assert len(data.samples(split)) == len(reference) == 5
        for sample, (image, mask) in zip(data.samples(split), reference, strict=True):
            pixels, labels = data.read(sample)
            np.testing.assert_array_equal(pixels, np.asarray(image))
            np.testing.assert_array_equal(labels, np.asarray(mask))  # indices, 255 at the border
            assert (labels[0] == 255).all() and labels[2:-2].max() <= 20


def test_images_of_different_size_train_and_evaluate_at_their_own_size(voc):
    data = VOC(str(voc), **ARGUMENTS, eval_batch_size=3)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (2, 3, 48, 48)
    seen = 0
    for batch in data.val_dataloader():
        for image, mask, index, (height, width) in zip(
            *(batch[k] for k in ("image", "mask", "index", "size")), strict=True
        ):
            pixels, labels = data.read(data.samples("val")[index])
            np.testing.assert_array_equal(image[:, :height, :width].permute(1, 2, 0), pixels)
            np.testing.assert_array_equal(mask[:height, :width], labels)
            assert (mask[height:] == 255).all() and (mask[:, width:] == 255).all()
            seen += 1
    assert seen == 5


def test_root_may_be_the_folder_of_the_year_itself(voc):
    assert len(VOC(str(voc / "VOCdevkit" / "VOC2012"), **ARGUMENTS).samples("val")) == 5


def test_the_year_2007_has_a_test_split_with_labels(voc):
    (voc / "VOCdevkit" / "VOC2012").rename(voc / "VOCdevkit" / "VOC2007")
    lists = voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Segmentation"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    data = VOC(str(voc), year=2007, test_split="test", **ARGUMENTS)
    assert [data.read(sample)[1].shape for sample in data.samples("test")] == VOC_SIZES
    with pytest.raises(UserError, match="VOCtrainval_06-Nov-2007.tar"):
        VOC(str(voc / "elsewhere"), year=2007, **ARGUMENTS).samples("train")


def test_the_test_is_on_val_because_the_test_labels_are_not_public(voc):
    assert VOC(str(voc), **ARGUMENTS).test_split == "val"


def test_augmented_list_uses_the_augmented_masks(voc):
    base = voc / "VOCdevkit" / "VOC2012"
    data = VOC(str(voc), **ARGUMENTS, train_split="train_aug")
    with pytest.raises(UserError, match="SegmentationClassAug"):
        data.setup("fit")
    shutil.copytree(base / "SegmentationClass", base / "SegmentationClassAug")
    shutil.copy(base / "ImageSets/Segmentation/train.txt", base / "ImageSets/Segmentation/train_aug.txt")
    assert {mask.parent.name for _, mask in data.samples("train_aug")} == {"SegmentationClassAug"}
    data.setup("fit")


def test_augmented_masks_are_made_from_the_sbd_release(voc, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    base, sbd = voc / "VOCdevkit" / "VOC2012", voc / "benchmark_RELEASE" / "dataset"
    (sbd / "cls").mkdir(parents=True)
    new = ["2008_000001", "2008_000002"]
    (sbd / "train.txt").write_text(f"{new[0]}\n2007_train000000\n2007_val000001\n")
    (sbd / "val.txt").write_text(f"{new[1]}\n")
    for number, name in enumerate(new):
        labels = np.full((30, 40), 7 + number, np.uint8)
        scipy_io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels, "Boundaries": 0}})
        Image.new("RGB", (40, 30)).save(base / "JPEGImages" / f"{name}.jpg")
    (base / "ImageSets" / "Segmentation" / "trainval.txt").touch()
    monkeypatch.setattr(module, "SERVER", "http://127.0.0.1:9")
    data = VOC(str(voc), **ARGUMENTS, train_split="train_aug", download=True)
    data.prepare_data()
    samples = data.samples("train_aug")
    assert [data.name_of(sample) for sample in samples] == [*(f"2007_train{i:06d}" for i in range(5)), *new]
    original = data.read(data.samples("train")[0])[1]
    np.testing.assert_array_equal(data.read(samples[0])[1], original)  # VOC's own mask where there is one
    assert (data.read(samples[-1])[1] == 8).all()
    data.prepare_data()  # nothing left to do


def test_without_the_data_the_error_says_where_to_get_it_and_where_to_put_it(tmp_path):
    with pytest.raises(UserError) as caught:
        VOC(str(tmp_path), **ARGUMENTS).setup("fit")
    message = str(caught.value)
    for part in (
        "--data.init_args.download=true",
        "VOCtrainval_11-May-2012.tar",
        "VOCdevkit/VOC2012",
        "--data.init_args.root=",
    ):
        assert part in message


def test_without_a_network_the_download_fails_soon_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SERVER", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match="put it at .*VOCtrainval_11-May-2012.tar"):
        VOC(str(tmp_path), **ARGUMENTS, download=True).prepare_data()
    assert time.monotonic() - start < 5


def test_download_leaves_existing_data_alone(voc, monkeypatch):
    monkeypatch.setattr(module, "SERVER", "http://127.0.0.1:9")
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt").touch()
    VOC(str(voc), **ARGUMENTS, download=True).prepare_data()


def test_palette_is_the_one_in_the_devkit():
    known = {"background": (0, 0, 0), "aeroplane": (128, 0, 0), "cat": (64, 0, 0), "cow": (64, 128, 0)}
    known |= {"person": (192, 128, 128), "pottedplant": (0, 64, 0), "tvmonitor": (0, 64, 128)}
    assert {name: VOC.palette[VOC.class_names.index(name)] for name in known} == known
    assert len(set(VOC.palette)) == len(VOC.class_names) == 21


def test_a_mask_of_colors_instead_of_indices_is_named(voc):
    path = voc / "VOCdevkit/VOC2012/SegmentationClass/2007_val000001.png"
    Image.open(path).convert("RGB").save(path)
    data = VOC(str(voc), **ARGUMENTS)
    with pytest.raises(UserError, match="2007_val000001.png should hold one class number per pixel"):
        data.setup("fit")
    with pytest.raises(UserError, match="2007_val000001.png should hold one class number per pixel"):
        list(data.val_dataloader())
