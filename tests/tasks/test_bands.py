"""Training on images of four bands: what only the fourth shows is learned with it, and not without it."""

import lightning as L
import numpy as np
import pytest
import rasterio
import torch

from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.pixels import Pixels
from lightning_seg.errors import UserError
from lightning_seg.inference.predictor import Predictor
from lightning_seg.networks.baselines import FullResolution
from lightning_seg.tasks.semantic import SemanticSegmentation

from ..data.bands import write_bands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The mIoU with four bands and with three, and a checkpoint of the former."""
    root = tmp_path_factory.mktemp("bands")
    write_bands(root, 8, nodata=0)
    patch = pytest.MonkeyPatch()
    patch.setenv("LIGHTNING_SEG_CACHE", str(root / "cache"))
    out = {}
    for bands in ([0, 1, 2], [0, 1, 2, 3]):
        L.seed_everything(0)
        data = Folder(
            str(root), ["other", "thing"], bands=bands, batch_size=4, crop_size=(64, 64), scale_range=(1, 1),
            test_split="val", num_workers=0, samples_per_image=4,
        )  # fmt: skip
        task = SemanticSegmentation(
            FullResolution(2, depth=3, channels=8, in_channels=data.num_channels),
            lambda parameters: torch.optim.AdamW(parameters, lr=2e-2),
            data.class_names,
            pixels=data.pixels,
        )
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=6, default_root_dir=root, use_distributed_sampler=False,
            enable_checkpointing=False, num_sanity_val_steps=0, limit_val_batches=0, **options,
        )  # fmt: skip
        trainer.fit(task, data)
        trainer.save_checkpoint(root / f"{len(bands)}.ckpt", weights_only=True)
        scores = trainer.test(task, data, verbose=False)
        out[len(bands)] = scores[0]["test/miou"]
    yield out, root, task, data
    patch.undo()


def test_what_only_the_fourth_band_shows_needs_the_fourth_band(trained):
    scores = trained[0]
    assert scores[4] > 0.95 and scores[3] < 0.6, scores


def test_a_checkpoint_keeps_what_was_measured_of_the_images(trained):
    _, root, task, data = trained
    checkpoint = torch.load(root / "4.ckpt", weights_only=True)
    assert checkpoint["scaling"]["backbone"]["mean"] == list(data.measurement.mean)
    again = SemanticSegmentation(
        FullResolution(2, depth=3, channels=8, in_channels=4),
        lambda parameters: torch.optim.AdamW(parameters, lr=2e-2),
        data.class_names,
        pixels=data.pixels,
    )
    images = torch.from_numpy(data.read(data.samples("val")[0])[0]).permute(2, 0, 1)[None]
    again.load_state_dict(checkpoint["state_dict"])
    expected = task.eval()(images)
    assert not torch.allclose(again.eval()(images), expected)
    again.on_load_checkpoint(checkpoint)
    torch.testing.assert_close(again(images), expected)


def test_the_predictor_reads_files_and_arrays_alike(trained):
    _, root, task, data = trained
    predictor = Predictor(task.network, data.class_names, data.palette, pixels=data.pixels)
    path = data.samples("val")[0][0]
    with rasterio.open(path) as file:
        array = np.moveaxis(file.read(), 0, -1)
    np.testing.assert_array_equal(predictor(path), predictor(array))
    with pytest.raises(UserError, match=r"\(H, W, 4\), got shape \(64, 64, 3\)"):
        predictor(array[..., :3])


def test_a_network_for_other_channels_is_refused():
    with pytest.raises(UserError, match="images have 4 channels, but FullResolution takes 3"):
        SemanticSegmentation(
            FullResolution(2),
            torch.optim.SGD,
            ("a", "b"),
            pixels=Pixels((0, 1, 2, 3), normalization="measured"),
        )
