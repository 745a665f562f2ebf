import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image

from lightning_seg.data import io as files
from lightning_seg.data.classes import ColorMask
from lightning_seg.data.files import list_images
from lightning_seg.data.io import read_image, read_mask, read_numbers
from lightning_seg.data.pixels import Pixels
from lightning_seg.errors import UserError

from .fuzz_readers import png

RNG = np.random.default_rng(0)
TWELVE = Pixels(value_range=(0, 4095))
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
def test_sixteen_bit_grey_keeps_all_levels(tmp_path, suffix):
    deep = RNG.integers(0, 65536, (6, 8), np.uint16)
    path = save(tmp_path / f"deep.{suffix}", Image.fromarray(deep))
    image = read_image(path, Pixels(value_range=(0, 65535)))
    np.testing.assert_array_equal(image, np.stack([deep] * 3, -1))
    assert image.dtype == np.uint16
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


def test_cmyk_jpeg_has_its_colors(tmp_path):
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


def test_masks_of_colors_or_large_numbers_are_refused(tmp_path):
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


# What a file holds is read as it is, or refused


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colors_of_sixteen_bits_keep_all_of_them(tmp_path, ending):
    deep = RNG.integers(0, 4096, (6, 8, 3), np.uint16)
    cv2.imwrite(str(path := tmp_path / f"deep.{ending}"), deep[..., ::-1])
    np.testing.assert_array_equal(read_image(path, TWELVE), deep)
    with pytest.raises(UserError, match=f"deep.{ending} has more than 8 bits.*{deep.min()} to {deep.max()}"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_signed_and_floating_point_images_need_a_range(tmp_path, dtype):
    values = np.linspace(-1000, 3000, 48).reshape(6, 8).astype(dtype)
    path = tmp_path / "signed.tif"
    if dtype == np.int16:
        Image.fromarray(values.view(np.uint16)).save(path, tiffinfo={339: 2})  # SampleFormat: signed
    else:
        save(path, Image.fromarray(values))
    with pytest.raises(UserError, match="from -1000 to 3000"):
        read_image(path)
    image = read_image(path, Pixels(value_range=(-1000, 3000)))
    np.testing.assert_array_equal(image, np.stack([values] * 3, -1))
    assert image.dtype == (np.int16 if dtype == np.int16 else np.float32)


def test_a_camera_file_of_twelve_bits_has_its_own_numbers(tmp_path):
    deep = RNG.integers(0, 4096, (6, 8), np.uint16)
    deep[0, :2] = 0, 4095
    (tmp_path / "deep.pgm").write_bytes(b"P5\n8 6\n4095\n" + deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "deep.pgm", TWELVE)[..., 2], deep)
    with pytest.raises(UserError, match="from 0 to 4095"):
        read_image(tmp_path / "deep.pgm")
    (tmp_path / "deep.ppm").write_bytes(b"P6\n8 2\n4095\n" + deep.astype(">u2").tobytes())
    with pytest.raises(UserError, match="Save it as PNG"):
        read_image(tmp_path / "deep.ppm")


def test_what_no_range_can_mean_is_refused(tmp_path):
    holes = np.full((6, 8), 0.5, np.float32)
    holes[0, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        read_image(save(tmp_path / "holes.tif", Image.fromarray(holes)), Pixels(value_range=(0, 1)))
    with pytest.raises(UserError, match="has 8 bits a channel, but"):
        read_image(save(tmp_path / "eight.png", Image.fromarray(COLORS)), TWELVE)
    np.testing.assert_array_equal(read_image(tmp_path / "eight.png", Pixels(value_range=(0, 255))), COLORS)


def test_files_of_several_pages_are_refused_and_previews_are_not(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    for ending in ("tif", "gif", "webp", "png"):
        path = save(tmp_path / f"pages.{ending}", pages[0], save_all=True, append_images=pages[1:])
        for read in (read_image, read_mask):
            with pytest.raises(UserError, match=f"pages.{ending} holds 2 pages"):
                read(path)
    small = pages[0].resize((4, 3))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = save(tmp_path / "pyramid.tif", pages[0], save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_mask(path), GREY)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_that_notes_a_rotation_is_refused(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with pytest.raises(UserError, match=f"EXIF orientation {orientation}"):
        read_mask(save(tmp_path / f"turned.{ending}", Image.fromarray(GREY), exif=exif))
    exif[0x0112] = 1
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / f"upright.{ending}", Image.fromarray(GREY), exif=exif)), GREY
    )


def test_a_rotation_noted_behind_the_pixels_is_found(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save(tmp_path / "a.png", Image.fromarray(GREY), exif=exif)
    whole = path.read_bytes()
    start = whole.index(b"eXIf") - 4
    length = int.from_bytes(whole[start : start + 4], "big") + 12
    path.write_bytes(
        whole[:start] + whole[start + length : -12] + whole[start : start + length] + whole[-12:]
    )
    with pytest.raises(UserError, match="EXIF orientation 3"):
        read_mask(path)


def test_a_mask_with_hidden_pixels_is_refused(tmp_path):
    alpha = np.full_like(GREY, 255)
    for bands in (1, 3):
        opaque = np.dstack([GREY] * bands + [alpha])
        np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", Image.fromarray(opaque))), GREY)
        opaque[2, 3, -1] = 254
        with pytest.raises(UserError, match="a.png has 1 transparent pixels"):
            read_mask(save(tmp_path / "a.png", Image.fromarray(opaque)))


@pytest.mark.parametrize(("ending", "options"), [("jpg", {"quality": 100}), ("webp", {"quality": 99})])
def test_a_mask_with_lossy_compression_is_refused(tmp_path, ending, options):
    path = save(tmp_path / f"lossy.{ending}", Image.fromarray(np.stack([GREY] * 3, -1)), **options)
    with pytest.raises(UserError, match="lossy compression"):
        read_mask(path)
    if ending == "webp":
        path = save(path, Image.fromarray(np.stack([GREY] * 3, -1)), lossless=True)
        np.testing.assert_array_equal(read_mask(path), GREY)


def test_masks_of_few_bits_keep_their_numbers(tmp_path):
    for bits in (1, 2, 4):
        labels = RNG.integers(0, 1 << bits, (6, 8), np.uint8)
        png(tmp_path / "few.png", labels, bits)
        np.testing.assert_array_equal(read_mask(tmp_path / "few.png"), labels)
    labels = RNG.integers(0, 4, (6, 8), np.uint8)
    (tmp_path / "few.pgm").write_bytes(b"P5\n8 6\n3\n" + labels.tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "few.pgm"), labels)


def test_labels_that_have_no_place_are_named(tmp_path):
    for value in (-1, 256, 70000):
        labels = np.zeros((6, 8), np.int32)
        labels[0, 0] = value
        path = save(tmp_path / "labels.tif", Image.fromarray(labels))
        with pytest.raises(UserError, match=f"class numbers from {min(0, value)} to {max(0, value)}"):
            read_mask(path)
        assert read_numbers(path)[0, 0] == value  # objects may have such numbers


def test_masks_of_deep_colors_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.ones((6, 8, 3), np.uint16))
    with pytest.raises(UserError, match="colors of 16 bits"):
        read_mask(tmp_path / "deep.png")


def test_masks_of_colors_are_read_where_every_color_is_seen(tmp_path):
    reader = ColorMask([(0, 0, 0), (200, 0, 0)], void=[(9, 9, 9)])
    pixels = np.array([(0, 0, 0), (200, 0, 0), (9, 9, 9)], np.uint8)[GREY % 3]
    expected = np.array([0, 1, 255])[GREY % 3]
    opaque = np.dstack([pixels, np.full_like(GREY, 255)])
    for path, array in (("a.png", pixels), ("a.bmp", pixels), ("b.png", opaque)):
        np.testing.assert_array_equal(reader.read(save(tmp_path / path, Image.fromarray(array))), expected)
    opaque[1, 1, 3] = 0
    with pytest.raises(UserError, match="1 transparent pixels"):
        reader.read(save(tmp_path / "c.png", Image.fromarray(opaque)))
    picture = Image.fromarray((GREY % 3 > 0).astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 200, 0, 0])
    np.testing.assert_array_equal(reader.read(save(tmp_path / "d.png", picture)), GREY % 3 > 0)
    with pytest.raises(UserError, match="transparent"):
        reader.read(save(tmp_path / "d.png", picture, transparency=1))
    cv2.imwrite(str(tmp_path / "e.png"), np.zeros((6, 8, 3), np.uint16))
    with pytest.raises(UserError, match="colors of 8 bits"):
        reader.read(tmp_path / "e.png")


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colors_in_planes_are_read(tmp_path, dtype, interleave):
    pixels = RNG.integers(0, 256, (6, 8, 3)).astype(dtype)
    profile = {
        "driver": "GTiff",
        "height": 6,
        "width": 8,
        "count": 3,
        "photometric": "RGB",
        "interleave": interleave,
    }
    with rasterio.open(tmp_path / "a.tif", "w", dtype=dtype, **profile) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    known = Pixels(value_range=None if dtype == np.uint8 else (0, 255))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", known), pixels)


@pytest.mark.parametrize(
    ("ending", "mode", "says"),
    [("gif", "L", "is a GIF in which number 0 is the gray 1"), ("tif", "CMYK", "is a CMYK image")],
)
def test_masks_whose_numbers_are_not_their_greys_are_refused(tmp_path, ending, mode, says):
    """Pillow renumbers a GIF of grey 1 to 0, and grey 1 is (0, 0, 0, 254) in CMYK."""
    Image.fromarray(np.ones((4, 5), np.uint8)).convert(mode).save(tmp_path / f"mask.{ending}")
    with pytest.raises(UserError, match=says):
        read_mask(tmp_path / f"mask.{ending}")
