"""Exported networks give what the checkpoint gives, for any batch and any size."""

import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.layers import Conv2dSame
from torch import nn

from lightning_seg import load
from lightning_seg.inference.export.check import Check, check
from lightning_seg.inference.export.exportable import _RegionMeans, exportable
from lightning_seg.inference.export.formats import FORMATS, export_onnx, export_pt2
from lightning_seg.networks.backbones.timm_backbone import DensePool
from lightning_seg.networks.unet import UNet
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


@pytest.mark.parametrize("name", ["segnet.SegNet", "pspnet.PSPNet"])
def test_what_is_hardest_to_write_as_onnx(name, tmp_path):
    """Unpooling, and pooling to regions; docs/scripts/export_table.py does them all."""
    torch.manual_seed(0)
    network = pkgutil.resolve_name(f"lightning_seg.networks.{name}")(4, "test_resnet", weights=False).eval()
    before = [type(module) for module in network.modules()]
    run = export_onnx(exportable(network), tmp_path / "model.onnx", {}, torch.uint8)
    checks = check(network, run, False, torch.uint8)
    assert [one.shape[0] for one in checks] == [1, 3]
    for one in checks:
        assert one.difference < 1e-4 * one.largest and one.agreement > 0.999, str(one)
    assert [type(module) for module in network.modules()] == before  # it was a copy that was changed


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


def test_the_printed_program_runs_without_this_package(runs, tmp_path, capsys):
    run = runs[0]
    file = tmp_path / "model.onnx"
    assert call("export", run, "--output", file) == 0
    out = capsys.readouterr().out
    assert "images (batch, 3, height, width) uint8 in 0..255 -> logits" in out
    assert "batch of 1, 97x129: largest difference" in out and "batch of 3, 160x96" in out
    program = out[out.index("import sys") :]
    program += "\nassert not {'torch', 'lightning_seg', 'timm'} & set(sys.modules)\n"
    (tmp_path / "program.py").write_text(program)
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    subprocess.run([sys.executable, "program.py", "image.png"], cwd=tmp_path, check=True)
    mask, model = Image.open(tmp_path / "mask.png"), load(run)
    assert (np.array(mask) == model(image)).mean() > 0.999
    assert mask.getpalette()[:6] == [value for colour in model.palette[:2] for value in colour]
    metadata = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert '"circle"' in metadata["classes"]


def test_a_file_that_gives_something_else_is_not_kept(runs, tmp_path, capsys, monkeypatch):
    wrong = [Check((1, 3, 97, 129), 0.5, 0.01, 2.0, 0.97)]
    monkeypatch.setattr("lightning_seg.inference.export.check.check", lambda *args: wrong)

    def write(module, path, metadata, kind):
        path.write_text("a network")

    monkeypatch.setitem(FORMATS, "onnx", write)
    assert call("export", runs[0], "--output", tmp_path / "model.onnx") == 2
    err = capsys.readouterr().err
    assert "gives other results" in err and "largest difference 5.0e-01 (logits up to 2), 97.000 %" in err
    assert not (tmp_path / "model.onnx").exists()


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
