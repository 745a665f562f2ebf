"""Images of any number of bands and of 8, 16 or 32 bits: read, cached, augmented and loaded as the files have them."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from lightning_seg.data.cache import DiskCache
from lightning_seg.data.checks.check import check
from lightning_seg.data.checks.preview import preview
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.io import read_image, read_mask, read_with_void
from lightning_seg.data.loading import collate
from lightning_seg.data.pixels import RGB, Pixels, Statistics, restored, stretched
from lightning_seg.data.transforms.color import ColorJitter, apply_color
from lightning_seg.data.transforms.geometry import RandomScaleCrop
from lightning_seg.errors import UserError

from .bands import write_bands, write_tiff

RNG = np.random.default_rng(0)
TYPES = [np.uint8, np.uint16, np.int16, np.float32]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path / "cache"))


def data(root, bands=(0, 1, 2, 3), **options):
    options = {"batch_size": 2, "crop_size": (48, 40), "num_workers": 0, "test_split": "val", **options}
    return Folder(str(root), ["other", "thing"], bands=list(bands), **options)


def values(dtype, bands=5, height=20, width=24):
    return (RNG.random((height, width, bands)) * (255 if dtype == np.uint8 else 30000)).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ending", [".tif", ".npy"])
def test_bands_are_chosen_and_ordered_in_the_type_of_the_file(tmp_path, dtype, ending):
    array, path = values(dtype), tmp_path / f"a{ending}"
    np.save(path, array) if ending == ".npy" else write_tiff(path, array.transpose(2, 0, 1))
    image = read_image(path, Pixels(bands=(4, 0, 2), normalization="measured"))
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, array[..., [4, 0, 2]])


@pytest.mark.parametrize(
    "options",
    [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"interleave": "band"}, {"interleave": "pixel"}]
    + [{"compress": name, "predictor": 2} for name in ("lzw", "deflate", "zstd")]
    + [{"BIGTIFF": "YES"}, {"compress": "deflate", "tiled": True, "interleave": "band", "nodata": 65535}],
)
def test_tiff_files_of_every_layout_give_the_same_bands(tmp_path, options):
    array = values(np.uint16)
    write_tiff(tmp_path / "a.tif", array.transpose(2, 0, 1), **options)
    known = Pixels(bands=(0, 1, 2, 3, 4), normalization="measured")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", known), array)


def test_more_than_three_bands_are_an_error_that_says_how_to_choose(tmp_path):
    write_tiff(tmp_path / "a.tif", values(np.uint8, 4).transpose(2, 0, 1), photometric="MINISBLACK")
    np.save(tmp_path / "a.npy", values(np.uint8, 4))
    for name in ("a.tif", "a.npy"):
        with pytest.raises(UserError, match=rf"{name} has 4 bands.*data.init_args.bands=\[0,1,2,3\]"):
            read_image(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} has 4 bands, 0 to 3.*asks for 4"):
            read_image(tmp_path / name, Pixels(bands=(0, 4)))


def test_bands_have_the_names_of_the_file(tmp_path):
    array = values(np.uint16, 3)
    write_tiff(tmp_path / "a.tif", array.transpose(2, 0, 1), names=("Blue", "Green", "nir"))
    image = read_image(tmp_path / "a.tif", Pixels(bands=("NIR", "blue"), normalization="measured"))
    np.testing.assert_array_equal(image, array[..., [2, 0]])
    with pytest.raises(UserError, match="named Blue, Green, nir. data.init_args.bands asks for 'red'"):
        read_image(tmp_path / "a.tif", Pixels(bands=("red",)))


def test_transparency_is_a_band_where_it_is_asked_for(tmp_path):
    array = values(np.uint8, 4)
    Image.fromarray(array).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", Pixels(bands=(3, 0))), array[..., [3, 0]])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), array[..., :3])
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", Pixels(bands=(0,))).shape == (20, 24, 1)


def test_nodata_is_void_and_the_mean_of_its_band(tmp_path):
    array = values(np.float32, 4)
    array[:5, :, 1] = -9999
    array[5, 0, 2] = np.nan
    write_bands(tmp_path, 1, 24, dtype=np.float32)
    path = tmp_path / "images/train/000.tif"
    write_tiff(path, array.transpose(2, 0, 1), nodata=-9999)
    Image.fromarray(np.ones((20, 24), np.uint8)).save(tmp_path / "masks/train/000.png")
    known = Pixels(bands=(0, 1, 2), normalization="measured")
    image, void = read_with_void(path, known)
    expected = np.zeros((20, 24), bool)
    expected[:5], expected[5, 0] = True, True
    np.testing.assert_array_equal(void, expected)
    np.testing.assert_allclose(image[0, 0], array[~expected].mean(0)[:3], rtol=1e-6)
    assert not read_with_void(path, replace(known, bands=(0, 3))).void.any()  # these two have data everywhere
    split = data(tmp_path, bands=(0, 1, 2))
    np.testing.assert_array_equal(split.read(split.samples("train")[0])[1] == 255, expected)
    measured = split.measurement
    np.testing.assert_allclose(measured.mean, array[~expected].mean(0)[:3], rtol=1e-5)
    np.testing.assert_allclose(measured.std, array[~expected].std(0)[:3], rtol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_a_batch_has_the_pixels_of_the_files(tmp_path, dtype, cache):
    write_bands(tmp_path, 3, dtype=dtype)
    split = data(tmp_path, cache=cache, eval_batch_size=3)
    batch = next(iter(split.val_dataloader()))
    assert batch["image"].dtype == getattr(torch, np.dtype(dtype).name)
    assert not isinstance(split.cached("val"), DiskCache) or cache == "disk"
    for i, image in enumerate(batch["image"]):
        with rasterio.open(tmp_path / f"images/val/{i:03}.tif") as file:
            np.testing.assert_array_equal(image.numpy(), file.read())
    train = split.on_after_batch_transfer(next(iter(split.train_dataloader())), 0)
    assert train["image"].shape == (2, 4, 48, 40) and train["image"].dtype == batch["image"].dtype


def test_twelve_bits_keep_all_their_levels_to_the_device(tmp_path):
    write_bands(tmp_path, 3, size=128)
    split = data(tmp_path, value_range=(0, 4095), scale_range=(1, 1), crop_size=(128, 128))
    batch = next(iter(split.train_dataloader()))
    with rasterio.open(tmp_path / "images/train/000.tif") as file:
        levels = len(np.unique(file.read(1)))
    assert levels > 4000
    assert all(len(np.unique(image[0].numpy())) > 4000 for image in batch["image"])


def test_images_of_two_types_share_a_batch(tmp_path):
    items = [{"image": torch.full((4, 5, 6), 7, dtype=t), "index": 0} for t in (torch.uint8, torch.uint16)]
    assert (collate(items)["image"] == torch.full((2, 4, 5, 6), 7.0)).all()


def test_measured_statistics_are_numpys_and_are_cached(tmp_path, monkeypatch):
    write_bands(tmp_path, 5)
    split = data(tmp_path, bands=(3, 1))
    whole = np.concatenate(
        [split.read(sample)[0].reshape(-1, 2) for sample in split.samples("train")]
    ).astype(float)
    np.testing.assert_allclose(split.measurement.mean, whole.mean(0))
    np.testing.assert_allclose(split.measurement.std, whole.std(0))
    np.testing.assert_allclose(split.measurement.low, np.percentile(whole, 1, axis=0), rtol=0.05)
    monkeypatch.setattr("lightning_seg.data.measure._look", None)
    assert data(tmp_path, bands=(3, 1)).measurement == split.measurement
    mean, std = [5.0, 6.0], [2.0, 3.0]
    given = data(tmp_path, bands=(3, 1), normalization=Statistics(mean, std))
    assert given.pixels.scaling((0, 0, 0), (1, 1, 1)) == ((5.0, 6.0), (2.0, 3.0), (), ())


def test_a_band_with_one_value_cannot_be_normalized_and_is_told(tmp_path):
    write_bands(tmp_path, 2)
    for path in (tmp_path / "images").rglob("*.tif"):
        array = values(np.uint16, 4, 64, 64)
        array[..., 2] = 7
        write_tiff(path, array.transpose(2, 0, 1))
    with pytest.raises(UserError, match="band 2 of the training split has one value throughout"):
        _ = data(tmp_path).measurement
    findings = check(data(tmp_path)).findings
    assert {(f.kind, f.detail) for f in findings if f.kind == "flat"} == {("flat", "band 2")}


def test_senseless_bands_are_refused(tmp_path):
    for options, message in (
        ({"bands": [1, 1]}, "each band once"),
        ({"bands": [-1]}, "counted from 0"),
        ({"normalization": Statistics([1.0], [1.0])}, "must be 4 numbers"),
        ({"normalization": Statistics([1.0] * 4, [0.0] * 4)}, "above 0"),
        ({"rgb": (0, 1, 4)}, "places among the 4 bands"),
        ({"color": ColorJitter(hue=0.1)}, "only red, green and blue have a hue"),
        ({"samples_per_image": 0}, "samples_per_image must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            data(tmp_path, **options)
    assert data(tmp_path, bands=[2, 1, 0], rgb=(0, 1, 2), color=ColorJitter(hue=0.1)).pixels.has_hue


@pytest.mark.parametrize("bands", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_crop_of_bands_is_the_crop_of_each_alone(bands, dtype):
    """Each band alone is a grey image, which has always been cut so."""
    array, mask = values(dtype, bands, 40, 50), np.zeros((40, 50), np.uint8)
    fill = tuple(range(10, 10 + bands))
    for seed in range(8):
        crop = RandomScaleCrop((32, 36), (0.3, 2.0), fill=fill)
        cut = crop.arrays(array, mask, Random(seed))[0]
        assert cut.shape == (32, 36, bands) and cut.dtype == dtype
        for band in range(bands):
            alone = RandomScaleCrop((32, 36), (0.3, 2.0), fill=(fill[band],) * 3)
            same = alone.arrays(array[..., [band] * 3], mask, Random(seed))[0][..., 0]
            np.testing.assert_allclose(cut[..., band], same, rtol=1e-4, atol=1)


def test_brightness_and_contrast_of_bands_follow_their_formula():
    images = torch.from_numpy(values(np.int16, 4)).permute(2, 0, 1)[None]
    jitter = ColorJitter(brightness=0.4, contrast=0.4)
    mean = images[0].float().mean((1, 2))
    drawn = jitter.draw_bands(mean.tolist(), Random(1), black=-1000.0)
    twin = Random(1)
    brightness, contrast = 1 + 0.4 * twin.uniform(-1, 1), 1 + 0.4 * twin.uniform(-1, 1)
    light = (images.double() + 1000) * brightness
    grey = (mean.double() + 1000)[:, None, None] * brightness
    expected = grey + contrast * (light - grey) - 1000
    torch.testing.assert_close(apply_color(images, drawn[None], None).double(), expected, rtol=1e-5, atol=0.1)


def test_colors_of_sixteen_bits_change_as_those_of_eight():
    image = torch.from_numpy(values(np.uint8, 3)).permute(2, 0, 1)[None]
    jitter = ColorJitter(0.3, 0.3, 0.3, 0.1)
    mean = image[0].float().mean((1, 2))
    eight = apply_color(image, jitter.draw(mean.tolist(), Random(3))[None])
    wide = image.float() * 16 + 500
    drawn = jitter.draw((mean * 16 + 500).tolist(), Random(3), black=500.0)
    changed = apply_color(wide, drawn[None], (500.0, 500 + 255 * 16.0))
    torch.testing.assert_close((changed - 500) / 16, eight, rtol=1e-4, atol=0.01)


def test_pictures_show_the_chosen_bands_stretched():
    array = values(np.uint16, 4)
    known = Pixels(bands=(0, 1, 2, 3), rgb=(3, 2, 0))
    np.testing.assert_array_equal(known.picture(array), stretched(array[..., [3, 2, 0]]))
    low, high = np.percentile(array[..., 3], (2, 98))
    shown = known.picture(array)[..., 0]
    assert (shown[array[..., 3] <= low] == 0).all() and (shown[array[..., 3] >= high] == 255).all()
    assert known.picture(array.astype(np.uint8)).dtype == np.uint8
    eight = values(np.uint8, 3)
    assert RGB.picture(eight) is eight


def test_pixels_survive_a_checkpoint():
    from dataclasses import asdict

    for pixels in (
        RGB,
        Pixels((3, "nir"), (0, 9), "percentiles", (0, 1, 1)),
        Pixels((0,), normalization=Statistics([1.0], [2.0])),
    ):
        assert restored(asdict(pixels)) == pixels
        as_lists = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(pixels).items()}
        assert restored(as_lists) == pixels


def test_check_and_preview_take_bands(tmp_path):
    write_bands(tmp_path, 3)
    split = data(tmp_path, color=ColorJitter(0.2, 0.2))
    report = check(split)
    assert report.ok and "band 3  uint16" in report.text()
    write_tiff(tmp_path / "images/val/000.tif", values(np.uint8, 4, 64, 64).transpose(2, 0, 1))
    (odd,) = [finding for finding in check(split).findings if finding.kind == "types"]
    assert odd.file.endswith("000.tif") and odd.detail == "uint8, most are uint16"
    preview(split, tmp_path / "preview.png", count=2, columns=2)
    assert Image.open(tmp_path / "preview.png").mode == "RGB"
    with pytest.raises(UserError, match="has 4 bands"):
        plain = Folder(str(tmp_path), ["other", "thing"], batch_size=2, crop_size=(48, 40), num_workers=0)
        plain.setup("fit")


# Stacks, and large images by windows


def stack_of(ending, array, path):
    if ending == ".tif":
        pages = [Image.fromarray(page) for page in array]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    elif ending == ".npy":
        np.save(path, array)
    else:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(array[:, ::-1].transpose(2, 1, 0), np.eye(4)), path)


@pytest.mark.parametrize("ending", [".tif", ".npy", ".nii", ".nii.gz"])
def test_each_slice_of_a_stack_is_a_sample_and_stacks_stay_together(tmp_path, ending):
    stacks = {}
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abcd":
        stacks[name] = RNG.integers(0, 4000, (3, 20, 24)).astype(np.int16 if "nii" in ending else np.uint16)
        masks = (stacks[name] > 2000).astype(np.uint8)
        stack_of(ending, stacks[name], tmp_path / f"images/{name}{ending}")
        stack_of(ending, masks, tmp_path / f"masks/{name}{ending}")
    options = {"stacks": True, "split_ratios": {"train": 0.5, "val": 0.5}, "value_range": (0, 4095)}
    split = Folder(
        str(tmp_path), ["a", "b"], batch_size=1, crop_size=(16, 16), num_workers=0, **options, bands=[0]
    )
    seen = {}
    for part in ("train", "val"):
        assert len(split.samples(part)) == 6
        for sample in split.samples(part):
            name, _, number = split.name_of(sample).partition("/")
            assert seen.setdefault(name, part) == part
            image, mask = split.read(sample)
            np.testing.assert_array_equal(image[..., 0], stacks[name][int(number)])
            np.testing.assert_array_equal(mask, stacks[name][int(number)] > 2000)
    assert len(split.fingerprint) == 16
    if ending != ".npy":
        with pytest.raises(UserError, match="holds 3 (slices|pages).*stacks=true"):
            read_image(tmp_path / f"images/a{ending}", Pixels(bands=(0,), normalization="measured"))


def test_planes_of_nifti_files_lie_on_one_another_whatever_their_order(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = RNG.integers(0, 99, (6, 5, 1)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    turned = np.diag([-1, 1, 1, 1]).astype(float)
    turned[0, 3] = 5
    nibabel.save(nibabel.Nifti1Image(volume[::-1].astype(np.float64) % 3, turned), tmp_path / "mask.nii")
    image = read_image(tmp_path / "a.nii", Pixels(value_range=(0, 99)))
    assert image.dtype == np.int16
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii"), image[..., 0] % 3)


def test_dicom_files_are_read_in_their_units(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    stored = RNG.integers(0, 4096, (6, 5)).astype(np.uint16)
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = pydicom.uid.CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = pydicom.uid.generate_uid()
    file.Rows, file.Columns, file.SamplesPerPixel, file.PixelRepresentation = 6, 5, 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PhotometricInterpretation = "MONOCHROME2"
    file.RescaleSlope, file.RescaleIntercept = 1, -1024
    file.PixelData = stored.tobytes()
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    image = read_image(tmp_path / "a.dcm", Pixels(bands=(0,), value_range=(-1024, 3071)))
    np.testing.assert_array_equal(image[..., 0], stored.astype(int) - 1024)
    file.RescaleIntercept, file.PhotometricInterpretation = 0, "MONOCHROME1"
    file.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    image = read_image(tmp_path / "b.dcm", Pixels(bands=(0,), value_range=(0, 4095)))
    np.testing.assert_array_equal(image[..., 0], 4095 - stored)
    (tmp_path / "c.dcm").write_bytes(b"nothing")
    with pytest.raises(UserError, match="c.dcm cannot be read"):
        read_image(tmp_path / "c.dcm")


@pytest.mark.parametrize("package", ["nibabel", "pydicom"])
def test_a_missing_package_is_one_error_that_names_the_extra(tmp_path, monkeypatch, package):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: .*lightning-seg\[medical\]"):
        read_image(tmp_path / ("a.nii.gz" if package == "nibabel" else "a.dcm"))


@pytest.mark.parametrize("kind", ["tif", "npy", "png mask"])
@pytest.mark.parametrize("balanced", [0.0, 1.0])
def test_a_crop_of_a_large_image_reads_its_part_and_is_the_same(tmp_path, monkeypatch, kind, balanced):
    write_bands(tmp_path, 2, size=200)
    for path in (tmp_path / "images/train").iterdir():
        if kind == "npy":
            with rasterio.open(path) as file:
                np.save(path.with_suffix(".npy"), np.moveaxis(file.read(), 0, -1))
            path.unlink()
    for path in (tmp_path / "masks/train").iterdir() if kind == "tif" else ():
        write_tiff(path.with_suffix(".tif"), read_mask(path)[None])
        path.unlink()
    options = {"crop_size": (40, 40), "class_balanced_crops": balanced, "samples_per_image": 3}
    options["normalization"] = Statistics([2000.0] * 4, [900.0] * 4)
    whole = [batch for batch in data(tmp_path, **options, seed=1).train_dataloader()]
    monkeypatch.setattr("lightning_seg.data.windows.LARGE", 1000)
    boxes = []
    from lightning_seg.data import windows

    before = windows._image_part
    monkeypatch.setattr(windows, "_image_part", lambda *a: boxes.append(a[2]) or before(*a))
    parts = [batch for batch in data(tmp_path, **options, seed=1).train_dataloader()]
    assert len(whole) == len(parts) == 3  # of 2 crops; two images, three times each
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one["image"].float(), other["image"].float())
        assert torch.equal(one["mask"], other["mask"])
    cut = [box for box in boxes if box.bottom - box.top < 200]
    assert len(cut) == 6
    assert len({tuple(box) for box in cut}) == 6  # the crops of one image differ
