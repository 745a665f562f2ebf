"""Images larger than memory: the same labels as in memory, and memory that does not grow."""

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.enums import ColorInterp

from lightning_seg.data.pixels import Pixels
from lightning_seg.errors import UserError
from lightning_seg.inference import MultiScale, Predictor, SlidingWindow
from lightning_seg.inference.large import is_large, predict_large
from lightning_seg.inference.writing import plan_outputs
from lightning_seg.networks.unet import ClassicUNet

NAMES, PALETTE = ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 128, 255))


@pytest.fixture
def model():
    torch.manual_seed(1)
    network = ClassicUNet(3, channels=4)
    torch.nn.init.zeros_(network.head.bias)
    return Predictor(network, NAMES, PALETTE, SlidingWindow((64, 96), overlap=0.5))


@pytest.fixture
def picture():
    """Coarse noise (H, W, 3), so that neighbouring windows have something to disagree about."""
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((333, 250), Image.Resampling.BICUBIC))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def reads(model, **settings):
    """Let a model read other bands or values."""
    model.pixels = Pixels(**settings)
    model.network.backbone.expect(model.pixels)


def predict(model, file, output, **options):
    predict_large(model, file, plan_outputs(file, output), **options)
    assert not [path for path in output.rglob("*") if path.is_file() and "unfinished" in path.name]


@pytest.fixture
def narrow_strips(monkeypatch):
    """Strips of 256 columns, so that the test image has two."""
    monkeypatch.setattr("lightning_seg.inference.large._BUDGET", 1)


def test_array_from_and_to_disk(model, picture, output, narrow_strips, tmp_path):
    np.save(tmp_path / "field.npy", picture)
    predict(model, tmp_path / "field.npy", output, uncertainty=True)
    mask = np.load(output / "masks/field.npy")
    expected = model(picture)
    assert mask.dtype == np.uint8 and len(np.unique(expected)) > 1
    assert (mask == expected).mean() > 0.9999  # sums in another order: a tie may fall otherwise
    unsure = np.load(output / "uncertainty/field.npy")
    probabilities = model.probabilities(picture)
    entropy = -(probabilities * np.log(probabilities)).sum(0) / np.log(3)
    assert np.abs(unsure / 255 - entropy).max() < 1 / 255


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_keeps_its_place_on_the_earth(model, picture, output, narrow_strips, tmp_path, kind):
    file = tmp_path / "field.tif"
    place = rasterio.Affine(0.5, 0, 600000, 0, -0.5, 5300000)  # half a metre a pixel
    form = {"height": 250, "width": 333, "count": 4, "dtype": kind, "crs": "EPSG:32633", "transform": place}
    with rasterio.open(file, "w", "GTiff", tiled=True, blockxsize=64, blockysize=64, **form) as image:
        values = picture.transpose(2, 0, 1).astype(kind) * (16 if kind == np.uint16 else 1)
        image.write(np.concatenate([values, values[:1]]))  # a fourth band, such as infrared
        image.colorinterp = [ColorInterp.gray] * 4
    with pytest.raises(
        UserError, match=r"field.tif has 4 bands. State which .* --data.init_args.bands=\[0,1,2,3\]"
    ):
        predict(model, file, output)
    reads(model, bands=(0, 1, 4))
    with pytest.raises(UserError, match=r"has 4 bands, 0 to 3; they have no names.* asks for 4"):
        predict(model, file, output)
    reads(model, bands=(0, 1, 2))
    if kind == np.uint16:  # a camera of 12 bits
        with pytest.raises(
            UserError, match=r"more than 8 bits a channel \(uint16\), its values go from 0 to 4080"
        ):
            predict(model, file, output)
        assert not list((output / "masks").iterdir())
        reads(model, bands=(0, 1, 2), value_range=(0, 4095))
    predict(model, file, output)
    with rasterio.open(output / "masks/field.tif") as mask:
        assert mask.crs == "EPSG:32633" and mask.transform == place
        assert [mask.colormap(1)[i][:3] for i in range(3)] == list(PALETTE)
        seen = picture if kind == np.uint8 else picture.astype(np.uint16) * 16
        assert (mask.read(1) == model(seen)).mean() > 0.9999
    assert Image.open(output / "masks/field.tif").mode == "P"
    before = (output / "masks/field.tif").read_bytes()
    reads(model, bands=(2, 1, 0), value_range=(0, 4095) if kind == np.uint16 else None)
    predict(model, file, output)
    assert (output / "masks/field.tif").read_bytes() != before


def test_arrays_of_more_than_8_bits_need_a_range(model, picture, output, tmp_path):
    np.save(tmp_path / "field.npy", picture.astype(np.float32) * 10)
    with pytest.raises(UserError, match=r"its values go from \d+ to 2550.*value_range"):
        predict(model, tmp_path / "field.npy", output)
    reads(model, value_range=(0, 2550))
    predict(model, tmp_path / "field.npy", output)
    assert (np.load(output / "masks/field.npy") == model(picture.astype(np.float32) * 10)).mean() > 0.9999


@pytest.mark.parametrize("count", [1, 2, 4])
def test_grey_and_transparent_rasters_are_read_as_small_images_are(model, picture, output, tmp_path, count):
    form = {"height": 250, "width": 333, "count": count, "dtype": np.uint8}
    form |= {"photometric": "RGB" if count == 4 else "MINISBLACK", "alpha": "NO" if count == 1 else "YES"}
    with rasterio.open(tmp_path / "field.tif", "w", "GTiff", **form) as image:
        image.write(picture.transpose(2, 0, 1)[[0, 1, 2, 0]][:count])
    predict(model, tmp_path / "field.tif", output)
    expected = model(picture if count == 4 else picture[..., 0])
    assert (np.array(Image.open(output / "masks/field.tif")) == expected).mean() > 0.9999


def test_any_other_inference_is_used_in_each_window(model, output, tmp_path):
    small = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
    np.save(tmp_path / "small.npy", small)
    model.inference = MultiScale((1.0, 1.5))
    predict(model, tmp_path / "small.npy", output)  # fits into one window
    assert (np.load(output / "masks/small.npy") == model(small)).all()


def test_memory_does_not_grow_with_the_image(model, output, tmp_path):
    """Eight times the rows need 36 MB more to hold image, logits and mask, and no more than 8 MB are taken."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("the peak of memory can be reset on Linux only")

    def peak(rows):
        file = tmp_path / f"rows{rows}.npy"
        np.lib.format.open_memmap(file, "w+", np.uint8, (rows, 512, 3))[:] = 7
        reset.write_text("5")
        predict(model, file, output)
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    model.inference = SlidingWindow((256, 256), overlap=0.0)
    model.network = torch.nn.Conv2d(3, 3, 1).eval()
    model.network.forward = lambda images: images.float()
    peak(512)  # the first call loads what later ones use
    small, large = peak(512), peak(4096)
    assert large - small < 8


def test_what_cannot_be_read_by_windows(model, output, tmp_path):
    np.save(tmp_path / "stack.npy", np.zeros((2, 40, 40, 3), np.uint8))
    with pytest.raises(UserError, match=r"expected an array \(H, W\) or \(H, W, C\), got \(2, 40, 40, 3\)"):
        predict(model, tmp_path / "stack.npy", output)
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    with pytest.raises(UserError, match="broken.npy cannot be read"):
        predict(model, tmp_path / "broken.npy", output)


def test_only_large_images_are_read_by_windows(monkeypatch, tmp_path):
    monkeypatch.setattr("lightning_seg.inference.large.LARGE", 1000)
    for name, size in (("large", (40, 30)), ("small", (10, 10))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no image")
    names = ("large.png", "small.png", "text.png", "any.npy")
    assert [is_large(tmp_path / name) for name in names] == [True, False, False, True]
