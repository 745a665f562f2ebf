"""Exported networks give what the checkpoint gives, for any batch and any size."""

import io
import json
import pkgutil
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.layers import Conv2dSame
from torch import nn

from lightning_seg import load
from lightning_seg.data.io import read_image
from lightning_seg.data.pixels import Pixels
from lightning_seg.errors import UserError
from lightning_seg.inference.export.check import Check, check, noise
from lightning_seg.inference.export.exportable import _RegionMeans, exportable
from lightning_seg.inference.export.formats import FORMATS, export_onnx, export_pt2
from lightning_seg.inference.export.standalone import standalone
from lightning_seg.inference.export.write import write
from lightning_seg.networks.backbones.dilated_vgg import DensePool
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.fcn import FCN16s
from lightning_seg.networks.unet import ClassicUNet, UNet
from tests.inference.conftest import call

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40))
def test_region_means_are_adaptive_pooling(rows, columns, height, width):
    maps = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    expected = nn.AdaptiveAvgPool2d((rows, columns))(maps)
    torch.testing.assert_close(_RegionMeans((rows, columns))(maps), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dilation", [1, 2])
def test_pools_of_a_dilated_vgg(dilation, tmp_path):
    network = nn.Sequential(nn.ReLU(), DensePool(dilation)).eval()
    run = export_onnx(exportable(network), tmp_path / "model.onnx", {}, torch.float32)
    for size in ((5, 7), (1, 1)):
        maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        assert (run(maps.numpy()) == network(maps).numpy()).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("write", [export_onnx, export_pt2])
def test_padding_as_in_tensorflow(write, stride, tmp_path):
    network = nn.Sequential(Conv2dSame(3, 4, (3, 5), stride, bias=False)).eval()
    run = write(exportable(network), tmp_path / "model", {}, torch.float32)
    for size in ((5, 8), (6, 7)):
        maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(run(maps.numpy()), network(maps).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("segnet.SegNet", {"layers": (1, 1, 1, 1, 1)}), ("pspnet.PSPNet", {"decoder_channels": 16})],
)
def test_what_is_hardest_to_write_as_onnx(name, smaller, tmp_path):
    """Unpooling, and pooling to regions; docs/scripts/export_table.py does them all."""
    torch.manual_seed(0)
    network = pkgutil.resolve_name(f"lightning_seg.networks.{name}")(
        4, "test_resnet", False, **smaller
    ).eval()
    before = [type(module) for module in network.modules()]
    run = export_onnx(exportable(network), tmp_path / "model.onnx", {}, torch.uint8)
    checks = check(network, run, False, torch.uint8)
    assert [one.shape[0] for one in checks] == [1, 3]
    for one in checks:
        assert one.difference < 1e-4 * one.largest and one.agreement > 0.999, str(one)
    assert [type(module) for module in network.modules()] == before  # it was a copy that was changed


@pytest.mark.slow
def test_a_transformer_whose_patches_its_stride_does_not_hold(tmp_path):
    """Padding to whole patches, resampled maps and cut levels, at other sizes. Slow: attention takes long to trace."""
    backbone = TimmBackbone("test_vit", False, backbone_args={"patch_size": 14, "img_size": 140, "depth": 2},
                            out_indices=1)  # fmt: skip
    network = FCN16s(3, backbone).eval()
    run = export_onnx(exportable(network), tmp_path / "net.onnx", {}, torch.uint8)
    for one in check(network, run, False, torch.uint8):
        assert one.difference < 1e-4 * one.largest and one.agreement > 0.999, str(one)


def test_a_file_for_images_of_one_size_takes_no_others(runs, tmp_path, capsys):
    file = tmp_path / "model.onnx"
    assert call("export", runs[0], "--size", "64x32", "--output", file) == 0
    out = capsys.readouterr().out
    assert "images (batch, 3, 64, 32) uint8" in out and "val image" not in out  # those are of other sizes
    assert out.count("64x32: largest difference") == 2 and "batch of 3" in out
    run = onnxruntime.InferenceSession(str(file)).run
    assert run(None, {"images": np.zeros((2, 3, 64, 32), np.uint8)})[0].shape[2:] == (64, 32)
    with pytest.raises(Exception, match="Expected: 32"):
        run(None, {"images": np.zeros((1, 3, 64, 48), np.uint8)})


def test_a_network_that_cannot_be_written_for_any_size_is_told_of_images_of_one(tmp_path, monkeypatch):
    def refuse(*args):
        raise RuntimeError("Could not guard on data-dependent expression")

    monkeypatch.setitem(FORMATS, "pt2", refuse)
    network = ClassicUNet(2, channels=4).eval()
    with pytest.raises(UserError, match="for images of any size: Could not.*\n.* --size=HEIGHTxWIDTH"):
        write(network, tmp_path / "m.pt2", "pt2", False, torch.uint8, {}, noise())
    with pytest.raises(UserError, match="for images of 64x48: Could not[^\n]*$"):
        write(network, tmp_path / "m.pt2", "pt2", False, torch.uint8, {}, [], None, (64, 48))


def test_torch_export_of_labels(tmp_path):
    torch.manual_seed(0)
    network = UNet(4, "test_resnet", weights=False, decoder_channels=(32, 16, 16, 8, 8)).eval()
    file = tmp_path / "model.pt2"
    run = export_pt2(exportable(network, labels=True), file, {"classes": "[]"}, torch.float32)
    for one in check(network, run, True, torch.float32):
        assert one.agreement > 0.999 and np.isnan(one.difference)
    for height, width in ((64, 64), (33, 200)):
        images = torch.randint(256, (2, 3, height, width)).float()
        with torch.inference_mode():
            expected = network(images).argmax(1)
        found = run(images.numpy())
        assert found.dtype == np.uint8 and (found == expected.numpy()).mean() > 0.999


def test_torch_export_of_masks_of_four_bands(tmp_path):
    torch.manual_seed(0)
    network, least = ClassicUNet(2, channels=4, in_channels=4).eval(), torch.tensor([-0.1, 0.1])
    run = export_pt2(exportable(network, True, least), tmp_path / "model.pt2", {}, torch.uint8)
    for one in check(network, run, True, torch.uint8, thresholds=least):
        assert one.shape[1] == 4 and one.agreement > 0.999, str(one)


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """The first run as ONNX: the file, and what the command printed."""
    file, out = tmp_path_factory.mktemp("exported") / "model.onnx", io.StringIO()
    with redirect_stdout(out):
        assert call("export", runs[0], "--output", file) == 0
    return file, out.getvalue()


def test_the_printed_program_runs_without_this_package(runs, exported, tmp_path):
    run = runs[0]
    file, out = exported
    (tmp_path / "model.onnx").symlink_to(file)
    assert "images (batch, 3, height, width) uint8, with the values of their files -> logits" in out
    assert "not in the file" not in out
    assert out.count("val image ") == 4 and ", 48x40: largest difference" in out
    assert "noise, 97x129: largest difference" in out and "noise, batch of 3, 160x96" in out
    program = out[out.index("import sys") :]
    program += "\nassert not {'torch', 'lightning_seg', 'timm'} & set(sys.modules)\n"
    (tmp_path / "program.py").write_text(program)
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    subprocess.run([sys.executable, "program.py", "image.png"], cwd=tmp_path, check=True)
    mask, model = Image.open(tmp_path / "mask.png"), load(run)
    assert (np.array(mask) == model(image)).mean() > 0.999
    assert mask.getpalette()[:6] == [value for color in model.palette[:2] for value in color]
    metadata = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert '"circle"' in metadata["classes"]


def test_a_file_that_gives_something_else_is_not_kept(runs, tmp_path, capsys, monkeypatch):
    wrong = [Check("noise", (1, 3, 97, 129), 0.5, 0.01, 2.0, 0.97)]
    monkeypatch.setattr("lightning_seg.inference.export.write.check", lambda *args: wrong)
    (tmp_path / "model.onnx").write_text("an earlier one")

    def write(module, path, metadata, kind, size):
        path.write_text("a network")

    monkeypatch.setitem(FORMATS, "onnx", write)
    assert call("export", runs[0], "--output", tmp_path / "model.onnx") == 2
    err = capsys.readouterr().err
    assert "gives other results" in err and "largest difference 5.0e-01 (logits up to 2), 97.000 %" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an earlier one"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: RUN|NAME"),
        (("unet_camvit",), "Did you mean unet_camvid?"),
        (("quickstart", "--format", "tflite"), "invalid choice: 'tflite'"),
    ],
)
def test_wrong_arguments(arguments, says, capsys):
    assert call("export", *arguments) == 2
    assert says in capsys.readouterr().err


def test_what_the_file_leaves_out_is_said(runs, tmp_path, capsys):
    windows = (
        "--model.inference={class_path: lightning_seg.inference.SlidingWindow, init_args: {size: [32, 32]}}"
    )
    options = ("--labels", "--format", "pt2", "--output", tmp_path / "model.pt2")
    assert call("export", runs[0], *options, windows) == 0
    out = capsys.readouterr().out
    assert "not in the file, which is the network alone: SlidingWindow(size=(32, 32)" in out
    assert re.search(r"'predict', which does this, gives the same label for \d+\.\d\d % of the pixels", out)


def test_without_its_data_a_file_is_checked_on_noise_and_says_so(runs, tmp_path, capsys, monkeypatch):
    def missing(self, split):
        raise UserError("Shapes: images do not exist.\nGet them.")

    monkeypatch.setattr("lightning_seg.data.datasets.shapes.Shapes.list_samples", missing)
    assert call("export", runs[0], "--format", "pt2", "--output", tmp_path / "model.pt2") == 0
    out = capsys.readouterr().out
    assert "not on images of val: Shapes: images do not exist." in out and "val image" not in out
    assert out.count("noise, ") == 2


def written(folder):
    """Image files of every kind that `predict` reads, and one that holds no number, by name."""
    colors = np.random.default_rng(3).integers(0, 256, (37, 52, 3), np.uint8)
    picture, grey = Image.fromarray(colors), Image.fromarray(colors[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(folder / "turned.jpg", exif=exif)
    picture.save(folder / "turned.png", exif=exif)
    grey.save(folder / "grey.png")
    grey.convert("1").save(folder / "bits.png")
    picture.quantize(17).save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.tif")
    alpha = Image.fromarray(colors[..., 1])
    Image.merge("LA", (grey, alpha)).save(folder / "grey_alpha.png")
    Image.merge("RGBA", (*picture.split(), alpha)).save(folder / "alpha.png")
    picture.quantize(5).save(folder / "clear.gif", transparency=1)
    deep = colors.astype(np.uint16) * 16
    Image.fromarray(deep[..., 0]).save(folder / "deep_grey.png")
    Image.fromarray(deep[..., 0]).save(folder / "deep_grey.tif")
    Image.fromarray(deep[..., 0].astype(np.float32)).save(folder / "float.tif")
    broken = deep[..., 0].astype(np.float32)
    broken[0, 0] = np.nan
    Image.fromarray(broken).save(folder / "broken.tif")
    cv2.imwrite(str(folder / "deep.png"), deep)
    cv2.imwrite(str(folder / "deep_alpha.png"), np.dstack([deep, deep[..., 0]]))
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("value_range", [None, (0, 4095), (10, 200)])
def test_the_printed_program_reads_images_as_predict_does(runs, tmp_path, value_range):
    """Labels that depend on every bit, so that two ways to read cannot look alike."""
    model, names = load(runs[0]), written(tmp_path)
    program = standalone(
        tmp_path / "model.onnx", "onnx", False, torch.uint8, model.palette, Pixels(value_range=value_range)
    )
    a, b = program.index("ANY_VALUES"), program.index("network =")
    head = f"import sys\nimport numpy as np\nfrom PIL import Image, ImageOps\n{program[a:b]}\n"
    body = """
out = {}
for name in sys.argv[1:]:
    try:
        out[name] = read(name)
    except SystemExit as stop:
        assert isinstance(stop.code, str) and name in stop.code
np.savez("read.npz", **out)
assert "lightning_seg" not in sys.modules
"""
    (tmp_path / "read.py").write_text(head + body)
    subprocess.run([sys.executable, "read.py", *names], cwd=tmp_path, check=True)
    read = np.load(tmp_path / "read.npz")
    refused = 0
    for name in names:
        try:
            expected = read_image(tmp_path / name, Pixels(value_range=value_range))
        except UserError:
            assert name not in read, name
            refused += 1
            continue
        assert read[name].dtype == expected.dtype and (read[name] == expected).all(), name
    assert refused == {None: 6, (0, 4095): 10, (10, 200): 1}[value_range]


def test_the_printed_program_gives_the_masks_of_predict(runs, exported, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    names = written(tmp_path / "in")
    file, out = exported
    (tmp_path / "model.onnx").symlink_to(file)
    (tmp_path / "program.py").write_text(out[out.index("import sys") :])
    assert call("predict", runs[0], tmp_path / "in", "--output", tmp_path / "out") == 1
    masks = {path.name for path in (tmp_path / "out/masks").iterdir()}
    index = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    monkeypatch.chdir(tmp_path)
    for name in ("turned.jpg", "alpha.png", "deep.png", "deep_grey.tif"):
        mask = f"{index[str(tmp_path / 'in' / name)]}.png"
        monkeypatch.setattr(sys, "argv", ["program.py", f"in/{name}"])
        if mask not in masks:
            with pytest.raises(SystemExit, match="has more than 8 bits a channel, and the network was"):
                runpy.run_path("program.py", run_name="__main__")
            continue
        runpy.run_path("program.py", run_name="__main__")
        assert (
            np.array(Image.open(tmp_path / "mask.png")) == np.array(Image.open(tmp_path / "out/masks" / mask))
        ).all()
        (tmp_path / "mask.png").unlink()
    assert len(masks) == len(names) - 6
