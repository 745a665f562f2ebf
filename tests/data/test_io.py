import numpy as np
import pytest
from PIL import Image

from lightning_seg.data import io as files
from lightning_seg.data.files import list_images
from lightning_seg.data.io import read_image, read_mask
from lightning_seg.errors import UserError

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 8), np.uint8)


def save(path, image, **kwargs):
    image.save(path, **kwargs)
    return path


def test_rgb_and_bmp_and_tiff_are_read_as_they_are(tmp_path):
    for suffix in ("png", "bmp", "tiff", "webp"):
        path = save(
            tmp_path / f"a.{suffix}",
            Image.fromarray(COLORS),
            **({"lossless": True} if suffix == "webp" else {}),
        )
        np.testing.assert_array_equal(read_image(path), COLORS)


def test_grey_and_one_bit_images_become_three_equal_channels(tmp_path):
    path = save(tmp_path / "grey.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(read_image(path), np.stack([GREY] * 3, -1))
    path = save(tmp_path / "bit.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(read_image(path), np.stack([(GREY > 127) * 255] * 3, -1))


@pytest.mark.parametrize("pixels", [COLORS, GREY], ids=["rgb", "grey"])
def test_plain_png_takes_the_fast_way_to_the_same_pixels(tmp_path, monkeypatch, pixels):
    read = read_mask if pixels.ndim == 2 else read_image
    big = np.repeat(np.repeat(pixels, 20, 0), 30, 1)
    path = save(tmp_path / "a.png", Image.fromarray(big), dpi=(72, 72))
    whole = path.read_bytes()
    clear = save(
        tmp_path / "clear.png", Image.fromarray(big), transparency=9 if pixels.ndim == 2 else (9, 9, 9)
    )
    np.testing.assert_array_equal(read(clear), big)
    for at in (60, len(whole) // 2, len(whole) - 30):  # damage is found, as it is by Pillow
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(UserError, match="a.png cannot be read"):
            read(path)
        path.write_bytes(whole[:at])
        if at < len(whole) - 30:
            with pytest.raises(UserError, match="a.png cannot be read"):
                read(path)
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "open", None)  # Pillow is not asked
    np.testing.assert_array_equal(read(path), big)
    assert read(path).flags.writeable


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_the_high_byte(tmp_path, suffix):
    deep = RNG.integers(0, 65536, (6, 8), np.uint16)
    path = save(tmp_path / f"deep.{suffix}", Image.fromarray(deep))
    np.testing.assert_array_equal(read_image(path, (0, 65535)), np.stack([deep // 256] * 3, -1))
    with pytest.raises(UserError, match=f"its values go from {deep.min()} to {deep.max()}.*value_range="):
        read_image(path)


def test_transparency_is_dropped_and_palettes_are_resolved(tmp_path):
    rgba = np.dstack([COLORS, GREY])
    np.testing.assert_array_equal(read_image(save(tmp_path / "rgba.png", Image.fromarray(rgba))), COLORS)
    indexed = Image.fromarray(GREY % 4, mode="P")
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 10, 20, 30])
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [10, 20, 30]])
    path = save(tmp_path / "palette.png", indexed, transparency=0)
    np.testing.assert_array_equal(read_image(path), table[GREY % 4])


def test_cmyk_jpeg_has_its_colours(tmp_path):
    path = save(tmp_path / "cmyk.jpg", Image.new("RGB", (16, 16), (250, 120, 5)).convert("CMYK"), quality=100)
    assert np.abs(read_image(path).astype(int) - (250, 120, 5)).max() <= 4


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter: rotate clockwise to see it upright
    path = save(tmp_path / "turned.png", Image.fromarray(COLORS), exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(COLORS, -1))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n and no more"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(UserError, match="broken.png"):
            read(path)


def test_a_truncated_file_is_named(tmp_path):
    path = save(tmp_path / "cut.jpg", Image.fromarray(np.repeat(COLORS, 20, 0)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cut.jpg"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.png does not exist"):
        read_image(tmp_path / "gone.png")


def test_an_absurdly_large_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "bomb.png", Image.fromarray(COLORS))
    monkeypatch.setattr(files, "MAX_PIXELS", 40)
    with pytest.raises(UserError, match="bomb.png .*megapixels"):
        read_image(path)
    monkeypatch.setattr(files, "MAX_PIXELS", 48)
    assert read_image(path).shape == (6, 8, 3)


def test_floating_point_images_are_refused(tmp_path):
    path = save(tmp_path / "float.tiff", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(UserError, match=r"float32.*from 1 to 245.*value_range="):
        read_image(path)


def test_masks_give_the_numbers_in_the_file(tmp_path):
    labels = GREY % 30
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette(RNG.integers(0, 256, 768).tolist())
    pictures = {
        "grey.png": Image.fromarray(labels),
        "palette.png": indexed,
        "deep.png": Image.fromarray(labels.astype(np.uint16)),
        "rgb.png": Image.fromarray(np.stack([labels] * 3, -1)),
    }
    for name, picture in pictures.items():
        mask = read_mask(save(tmp_path / name, picture))
        np.testing.assert_array_equal(mask, labels, err_msg=name)
        assert mask.dtype == np.uint8
    np.testing.assert_array_equal(read_mask(save(tmp_path / "bit.png", Image.fromarray(GREY > 9))), GREY > 9)


def test_masks_of_colours_or_large_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="colors.png should hold one class number per pixel"):
        read_mask(save(tmp_path / "colors.png", Image.fromarray(COLORS)))
    with pytest.raises(UserError, match="from 256 to 256"):
        read_mask(save(tmp_path / "large.png", Image.fromarray(np.full((4, 4), 256, np.uint16))))


def test_list_images(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.PNG", "b/a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert list_images(tmp_path) == [tmp_path / "b/a.jpg", tmp_path / "z.PNG"]
    assert list_images(tmp_path / "z.PNG") == [tmp_path / "z.PNG"]
    with pytest.raises(UserError, match="no folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No image"):
        list_images(tmp_path / "empty")
