"""An ensemble is a network, and its test a run."""

import json

import numpy as np
import pytest
import torch
import yaml

from lightning_seg import load
from lightning_seg.analysis.compare import compare
from lightning_seg.networks.ensemble import Ensemble
from lightning_seg.networks.fcn import FCN
from lightning_seg.networks.unet import UNet
from tests.inference.conftest import call


def test_it_averages_probabilities_of_any_architectures():
    torch.manual_seed(0)
    members = [FCN(4, "test_resnet", weights=False), UNet(4, "test_resnet", weights=False)]
    ensemble = Ensemble(4, members).train()
    assert not any(part.training for part in ensemble.backbone.members.modules())
    images = torch.randint(256, (2, 3, 45, 70), dtype=torch.uint8)
    with torch.inference_mode():
        expected = sum(member(images).softmax(1) for member in members) / 2
        torch.testing.assert_close(ensemble(images).softmax(1), expected)


@pytest.fixture(scope="module")
def ensemble(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("ensembles")
    assert call("ensemble", *runs, f"--runs={root}") == 0
    (path,) = (root / "ensemble").iterdir()
    return path


def test_the_result_is_a_run(ensemble, runs):
    (section,) = compare([ensemble, *runs]).sections  # one protocol
    assert sorted(group.name for group in section.groups) == ["ensemble", "linknet", "unet"]
    assert yaml.safe_load((ensemble / "config.yaml").read_text())["model"]["network"]["init_args"][
        "sources"
    ] == [str(run) for run in runs]


def test_it_stands_alone_and_votes(ensemble, runs):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = np.mean([load(run).probabilities(image) for run in runs], axis=0)
    np.testing.assert_allclose(load(ensemble).probabilities(image), expected, atol=1e-5)


def test_it_is_tested_again_with_the_same_scores(ensemble):
    before = json.loads((ensemble / "test.json").read_text())
    assert call("test", ensemble) == 0
    assert json.loads((ensemble / "test.json").read_text())["scores"] == before["scores"]


def test_it_post_processes_its_mean(ensemble, runs, tmp_path, capsys):
    chain = (
        "--model.postprocess=[{class_path: lightning_seg.postprocess.confidence.ConfidenceThreshold, "
        "init_args: {threshold: 0.6, to: second}}]"
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert call("ensemble", *runs, f"--runs={tmp_path}", chain) == 0
    (processed,) = (tmp_path / "ensemble").iterdir()
    mean = torch.from_numpy(load(ensemble).probabilities(image))
    probability, order = mean.sort(0, descending=True)
    expected = torch.where(probability[0] < 0.6, order[1], order[0]).numpy()
    assert (expected != order[0].numpy()).any()
    assert (load(processed)(image) == expected).all()
    before, after = (json.loads((run / "test.json").read_text()) for run in (ensemble, processed))
    assert "to='second'" in after["protocol"]["postprocessing"][0]
    assert after["scores"]["miou"] != before["scores"]["miou"]
    file = tmp_path / "chain.yaml"
    file.write_text(
        "- class_path: lightning_seg.postprocess.confidence.ConfidenceThreshold\n"
        "  init_args: {threshold: 0.6, to: second}\n"
    )
    assert call("postprocess", ensemble, "--chain", file) == 0  # the command finds what the test does
    alone, row = json.loads((ensemble / "postprocess-chain.json").read_text())["rows"]
    assert alone["miou"] == pytest.approx(100 * before["scores"]["miou"])
    assert row["miou"] == pytest.approx(100 * after["scores"]["miou"])


def test_images_that_a_member_trained_on_are_refused(runs, tmp_path, capsys):
    assert call("ensemble", *runs, f"--runs={tmp_path}", "--data.init_args.test_split=train") == 2
    assert "32 of the 32 images of 'train' are among those that" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_run_is_no_ensemble(runs, capsys):
    assert call("ensemble", runs[0]) == 2
    assert "ensemble RUN RUN" in capsys.readouterr().err
    assert call("ensemble", runs[0], runs[0]) == 2
    assert "name each run once" in capsys.readouterr().err
