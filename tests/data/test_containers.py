"""TIFF and WebP files whose pixels Pillow changes without a word are refused."""

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data.io import read_image, read_mask, read_numbers
from lightning_seg.data.pixels import Pixels
from lightning_seg.errors import UserError

LABELS = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 7


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(("ending", "options"), [("tif", {"compression": "jpeg"}), ("avif", {})])
def test_masks_of_lossy_tiff_and_avif_are_refused(tmp_path, ending, options):
    path = save(tmp_path / f"a.{ending}", LABELS.astype(np.uint8), **options)
    for read in (read_mask, read_numbers) if ending == "tif" else (read_mask,):
        with pytest.raises(UserError, match="lossy compression"):
            read(path)
    assert read_image(path).shape == (64, 64, 3)


def test_lossy_webp_is_seen_behind_long_chunks(tmp_path):
    pixels = np.repeat(LABELS.astype(np.uint8)[..., None], 3, 2)
    profile = bytes(9001)
    with pytest.raises(UserError, match="lossy compression"):
        read_mask(save(tmp_path / "a.webp", pixels, icc_profile=profile))
    path = save(tmp_path / "b.webp", pixels, icc_profile=b"VP8 " * 999, lossless=True)
    np.testing.assert_array_equal(read_mask(path), LABELS)


def test_signed_and_inverted_tiff_is_refused_as_mask_and_as_image(tmp_path):
    signed = save(tmp_path / "signed.tif", LABELS.astype(np.uint8), tiffinfo={339: 2})
    inverted = save(tmp_path / "inverted.tif", LABELS, tiffinfo={262: 0})
    for path, message in ((signed, "signed values of 8 bits"), (inverted, "white is zero")):
        for read in (read_mask, read_numbers, lambda path: read_image(path, Pixels(value_range=(0, 9)))):
            with pytest.raises(UserError, match=f"{path.name} .*{message}"):
                read(path)


def test_numbers_of_32_bits_that_would_become_negative_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((4, 5), 2**31 - 1, np.uint32))
    assert (read_numbers(path) == 2**31 - 1).all()
    tifffile.imwrite(path, np.full((4, 5), 2**31, np.uint32))
    for read in (read_numbers, lambda path: read_image(path, Pixels(value_range=(0, 9)))):
        with pytest.raises(UserError, match="above 2147483647"):
            read(path)


@pytest.mark.parametrize(("bands", "colors"), [(4, "rgb"), (5, "rgb"), (2, "minisblack")])
def test_bands_that_are_no_color_are_refused_with_their_number(tmp_path, bands, colors):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.full((4, 5, bands), 7, np.uint8)
    count = bands - (3 if colors == "rgb" else 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric=colors, extrasamples=[0] * count, planarconfig="contig")
    with pytest.raises(UserError, match=f"has {bands} bands"):
        read_image(path)


def test_transparency_of_tiff_is_no_band_too_many(tmp_path):
    path = save(tmp_path / "a.tif", np.full((4, 5, 4), 255, np.uint8))
    assert (read_image(path) == 255).all() and (read_mask(path) == 255).all()


def test_tiffs_of_many_bands_are_read_without_a_word_of_pillow(tmp_path, caplog):
    from tests.data.bands import write_tiff

    values = np.arange(8 * 16 * 16, dtype=np.uint16).reshape(8, 16, 16)
    write_tiff(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif", Pixels(bands=(6, 0), value_range=(0, 4095))),
        values[[6, 0]].transpose(1, 2, 0),
    )
    assert not caplog.records
