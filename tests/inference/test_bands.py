"""Prediction of GeoTIFFs of many bands and of stacks: where masks lie, on earth and on disk."""

import lightning as L
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from lightning_seg.callbacks.prediction_writer import PredictionWriter
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.volumes import Slice, part_of
from lightning_seg.inference.inferers import SlidingWindow
from lightning_seg.inference.large import is_large, predict_large
from lightning_seg.inference.predictor import Predictor
from lightning_seg.inference.writing import plan_outputs
from lightning_seg.networks.unet import ClassicUNet
from lightning_seg.tasks.semantic import SemanticSegmentation

from ..data.bands import write_tiff

NAMES = ("other", "thing", "third")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A folder with a GeoTIFF of four bands, a plain one and a stack, and what is predicted of them."""
    root = tmp_path_factory.mktemp("predict")
    (root / "in").mkdir()
    rng = np.random.default_rng(0)
    scene = rng.integers(1, 4096, (4, 50, 60)).astype(np.uint16)
    scene[:, :7] = 0
    write_tiff(root / "in/scene.tif", scene, nodata=0)
    pages = [Image.fromarray(page) for page in scene[:3]]
    pages[0].save(root / "in/stack.tif", save_all=True, append_images=pages[1:])
    np.save(root / "in/array.npy", np.moveaxis(scene, 0, -1))
    torch.manual_seed(0)
    outputs = plan_outputs(root / "in", root / "out")
    small = [str(path) for path in outputs.names if not is_large(path)]
    data = Folder(
        str(root), list(NAMES), bands=[3, 0], value_range=(0, 4095), batch_size=1, crop_size=(8, 8),
        num_workers=0, predict_folder=small,
    )  # fmt: skip
    network = ClassicUNet(3, channels=4, in_channels=2)
    torch.nn.init.zeros_(network.head.bias)
    task = SemanticSegmentation(network, torch.optim.SGD, NAMES, pixels=data.pixels)
    writer = PredictionWriter(outputs, root, uncertainty=True, probabilities=True)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[writer])
    trainer.predict(task, data, return_predictions=False)
    model = Predictor(network, NAMES, data.palette, SlidingWindow((64, 64)), pixels=data.pixels)
    return root, model, writer, scene


def test_masks_and_probabilities_lie_where_the_image_lies(predicted):
    root, model, _, scene = predicted
    expected = model(root / "in/scene.tif")
    assert len(np.unique(expected)) > 1
    with rasterio.open(root / "in/scene.tif") as image:
        for kind, count, dtype in (
            ("masks", 1, "uint8"), ("uncertainty", 1, "uint8"), ("probabilities", 3, "float32"),
        ):  # fmt: skip
            with rasterio.open(root / f"out/{kind}/scene.tif") as file:
                assert (file.crs, file.transform, file.shape) == (image.crs, image.transform, image.shape)
                assert (file.count, file.dtypes[0]) == (count, dtype)
                values = file.read()
                if kind == "masks":
                    assert file.nodata == 255 and (values[0, :7] == 255).all()
                    np.testing.assert_array_equal(values[0, 7:], expected[7:])
                if kind == "probabilities":
                    np.testing.assert_allclose(values, model.probabilities(root / "in/scene.tif"), atol=1e-6)
    assert Image.open(root / "out/overlays/scene.png").size == (60, 50)


def test_each_slice_of_a_stack_has_a_mask_in_its_folder(predicted):
    root, model, writer, _ = predicted
    assert (writer.written, writer.unreadable) == (1, 3)  # the pages of the stack have one band
    assert (
        plan_outputs(root / "in", root / "out").names[Slice(root / "in/stack.tif", 2)].as_posix()
        == "stack/0002"
    )
    part = Slice(root / "in/stack.tif", 2)
    assert part_of(str(part)) == part and part_of(str(part.path)) == part.path


def test_large_images_have_probabilities_too(predicted, monkeypatch):
    root, model, _, _ = predicted
    monkeypatch.setattr("lightning_seg.inference.large._BUDGET", 1)
    for name in ("scene.tif", "array.npy"):
        outputs = plan_outputs(root / "in" / name, root / f"large-{name}")
        predict_large(model, root / "in" / name, outputs, uncertainty=True, probabilities=True)
    with rasterio.open(root / "large-scene.tif/probabilities/scene.tif") as file:
        found = file.read()
        assert np.isnan(found[:, :7]).all() and file.crs == "EPSG:32633"
    expected = model.probabilities(root / "in/scene.tif")
    np.testing.assert_allclose(found[:, 7:], expected[:, 7:], atol=1e-5)
    with rasterio.open(root / "large-scene.tif/masks/scene.tif") as file:
        assert (file.read(1)[:7] == 255).all() and (file.read(1)[7:] == expected.argmax(0)[7:]).mean() > 0.999
    array = np.load(root / "large-array.npy/probabilities/array.npy")
    assert array.shape == (3, 50, 60) and np.allclose(array.sum(0), 1, atol=1e-5)
