"""Temperature and calibration error."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from lightning_seg import load
from lightning_seg.analysis.compare import compare
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.inference import calibration
from lightning_seg.inference.calibration import (
    CALIBRATION,
    LARGEST,
    Calibration,
    HeldOut,
    Reliability,
    check_held_out,
    fit_temperature,
    halves,
    temperature_of,
)
from tests.inference.conftest import call


def drawn(temperature, count=20_000, classes=4):
    """Logits (N, C) and labels that were drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels.byte()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    best = minimize_scalar(
        lambda t: F.cross_entropy(logits / t, labels.long()).item(), (0.2, 5), method="brent"
    )
    assert found == pytest.approx(best.x, rel=1e-3)


def test_a_temperature_stays_within_reason():
    logits = F.one_hot(torch.arange(4)).float()
    found = fit_temperature(logits, torch.arange(4))  # all right: the surer, the better
    assert found == pytest.approx(1 / LARGEST, rel=1e-6)


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_is_that_of_torchmetrics(bins):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(3, 5, 20, 30, generator=generator)
    masks = torch.randint(5, (3, 20, 30), generator=generator, dtype=torch.uint8)
    masks[0, :4] = 255
    reliability = Reliability(bins)
    for i in range(3):
        reliability.update(logits[i : i + 1], masks[i : i + 1])
    reference = MulticlassCalibrationError(5, n_bins=bins, ignore_index=255)
    expected = reference(logits.flatten(2).transpose(1, 2).flatten(0, 1), masks.flatten().long())
    assert reliability.ece == pytest.approx(float(expected), abs=1e-6)
    assert reliability.table[:, 0].sum() == 3 * 600 - 4 * 30


def test_calibration_lowers_the_error(capsys):
    logits, labels = drawn(3.0)
    before, after = Reliability(), Reliability()
    before.update(logits.T[None, :, None], labels[None, None])
    after.update(logits.T[None, :, None] / fit_temperature(logits, labels), labels[None, None])
    assert after.ece < 0.02 < 0.1 < before.ece


def test_a_run_is_calibrated_on_val(runs, capsys):
    run = runs[1]
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    raw = load(run)
    assert raw.temperature == 1
    assert call("calibrate", run) == 0
    result = json.loads((run / CALIBRATION).read_text())
    out = capsys.readouterr().out
    assert result["fitted_on"] == "val" and list(result["ece"]) == ["val", "test"]
    assert f"ECE test: {result['ece']['test']['before']:.4f} before" in out
    picture = Image.open(run / "pictures/reliability.png")
    assert picture.height > picture.width / 2
    model = load(run)
    assert model.temperature == result["temperature"] != 1
    expected = (raw.logits(image) / result["temperature"]).softmax(0)
    np.testing.assert_allclose(model.probabilities(image), expected, atol=1e-6)
    assert (model(image) == raw(image)).all()
    result["step"] -= 1
    (run / CALIBRATION).write_text(json.dumps(result))
    assert temperature_of(run) == 1 and "another checkpoint" in capsys.readouterr().out
    (run / CALIBRATION).unlink()


THRESHOLD = "lightning_seg.postprocess.confidence.ConfidenceThreshold"


def test_chains_and_scores_get_calibrated_probabilities(runs, tmp_path, capsys):
    run, image = tmp_path / "run", np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    shutil.copytree(runs[1], run)
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    (run / CALIBRATION).write_text(json.dumps({"temperature": 0.2, "step": checkpoint["global_step"]}))
    raw = load(runs[1]).logits(image)
    middle = round(float(raw.softmax(0).max(0)[0].median()), 4)  # half of the pixels are doubted
    step = f"class_path: {THRESHOLD}, init_args: {{threshold: {middle}, to: second}}"
    chain = f"--model.postprocess=[{{{step}}}]"

    def doubted(temperature):  # what is below the threshold gets its second class
        probability, order = (raw / temperature).softmax(0).sort(0, descending=True)
        return torch.where(probability[0] < middle, order[1], order[0]).numpy()

    assert (doubted(0.2) != doubted(1.0)).any()
    assert (load(run, settings=[chain])(image) == doubted(0.2)).all()
    Image.fromarray(image).save(tmp_path / "image.png")
    assert call("predict", run, tmp_path / "image.png", chain, "--output", tmp_path / "out") == 0
    assert (np.array(Image.open(tmp_path / "out/masks/image.png")) == doubted(0.2)).all()

    mae = "--model.metrics=[lightning_seg.metrics.probability.MeanAbsoluteError]"
    found = []
    for one in (runs[1], run):
        copy = tmp_path / f"test{len(found)}"
        shutil.copytree(one, copy)
        assert call("test", copy, chain, mae) == 0
        found.append(json.loads((copy / "test.json").read_text()))
    assert "temperature" not in found[0]["protocol"] and found[1]["protocol"]["temperature"] == 0.2
    assert found[0]["scores"]["mae"] != found[1]["scores"]["mae"]
    assert found[0]["scores"]["miou"] != found[1]["scores"]["miou"]
    assert compare(
        [tmp_path / "test0", tmp_path / "test1"]
    ).sections  # fitted like weights: no other protocol

    (tmp_path / "chain.yaml").write_text(f"[{{{step}}}]")
    assert call("postprocess", run, "--chain", tmp_path / "chain.yaml") == 0
    assert "Probabilities are calibrated: temperature 0.2." in capsys.readouterr().out
    row = json.loads((run / "postprocess-chain.json").read_text())["rows"][1]
    assert row["miou"] == pytest.approx(100 * found[1]["scores"]["miou"])


def test_a_temperature_that_generalises_is_kept():
    logits, labels = drawn(3.0)
    half = torch.arange(len(labels)) % 2
    found = check_held_out(logits, labels, half)
    assert found.helps and found.loss[1] < found.loss[0] and found.ece[1] < 0.02 < found.ece[0]
    expected = [F.cross_entropy(logits[half == i] / fit_temperature(logits[half != i], labels[half != i]),
                                labels[half == i].long()) for i in (0, 1)]  # fmt: skip
    assert found.loss[1] == pytest.approx(float(sum(expected)) / 2, rel=1e-4)


def test_one_that_fits_its_own_images_alone_is_not_kept():
    sure, unsure = drawn(0.3), drawn(3.0)  # halves that want opposite temperatures
    logits, labels = (torch.cat(pair) for pair in zip(sure, unsure, strict=True))
    half = (torch.arange(len(labels)) >= len(sure[1])).long()
    found = check_held_out(logits, labels, half)
    assert not found.helps and found.loss[1] > found.loss[0]
    reliability = Reliability()
    calibration = Calibration(2.0, "val", len(labels), found, {"val": (reliability, reliability)})
    assert calibration.temperature == 1 and Calibration(2.0, "val", 1, None, {}).temperature == 1
    assert check_held_out(logits, labels, torch.zeros(len(labels), dtype=torch.long)) is None


def test_neighbours_of_a_sequence_are_held_out_together():
    data = Shapes(batch_size=4, crop_size=(32, 32), image_size=(48, 40), val_images=5)
    assert halves(data, "val").tolist() == [0, 1, 0, 1, 0]
    data.sequence = True
    assert halves(data, "val").tolist() in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_what_does_not_help_is_recorded_as_one(runs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    monkeypatch.setattr(calibration, "check_held_out", lambda *args: HeldOut((0.5, 0.6), (0.1, 0.2)))
    assert call("calibrate", run) == 0
    out = capsys.readouterr().out
    assert "log-likelihood 0.5000 before, 0.6000 after; ECE 0.1000 before, 0.2000 after" in out
    assert "does not help on held-out images: the run keeps temperature 1" in out
    result = json.loads((run / CALIBRATION).read_text())
    assert result["temperature"] == 1 != result["fitted"] and load(run).temperature == 1
