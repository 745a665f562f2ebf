"""Weights of another run: what fits is taken part by part, what does not is said, a foreign backbone is refused."""

import pytest
import torch

from lightning_seg.errors import UserError
from lightning_seg.networks.baselines import FullResolution
from lightning_seg.networks.unet import UNet
from lightning_seg.runs.directory import best_checkpoint

CHANNELS = (16, 8, 8, 8, 8)


def unet(classes=3, weights=False, backbone="test_resnet", channels=CHANNELS):
    return UNet(classes, backbone, weights=weights, decoder_channels=channels)


@pytest.fixture
def run(tmp_path):
    """A run directory with the network's checkpoint in it; also the network."""
    run = tmp_path / "some" / "1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    torch.manual_seed(1)
    network = unet()
    for buffer in network.buffers():
        buffer.add_(1)  # statistics that a fresh network has not
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weights": torch.ones(3)}}, run / "checkpoints" / "best.ckpt")
    return run, network


def same(a, b, part):
    pairs = zip(getattr(a, part).state_dict().values(), getattr(b, part).state_dict().values(), strict=True)
    return [x.shape == y.shape and torch.equal(x, y) for x, y in pairs]


@pytest.mark.parametrize("place", ["{run}", "{run.parent}", "{run}/checkpoints/best.ckpt"])
def test_the_whole_network_of_a_run(run, place):
    run, trained = run
    network = unet(weights="run:" + place.format(run=run))
    report = network.load_weights(best_checkpoint)
    assert all(
        same(network, trained, "backbone")
        + same(network, trained, "decoder")
        + same(network, trained, "head")
    )
    count = len(network.backbone.state_dict())
    assert report.startswith(f"backbone {count} tensors, decoder ") and str(run) in report
    assert "random" not in report


def test_head_for_other_classes_begins_anew(run):
    run, trained = run
    network = unet(classes=5, weights=f"run:{run}")
    before = network.head[0].weight.clone()
    report = network.load_weights(best_checkpoint)
    assert all(same(network, trained, "backbone") + same(network, trained, "decoder"))
    assert torch.equal(network.head[0].weight, before)
    assert (
        "at random: head (2 of 2 tensors differ in shape or kind; head.0.weight is (5, 8, 3, 3) float32 here and "
        "(3, 8, 3, 3) float32 there)" in report
    )


def test_decoder_is_taken_whole_or_not_at_all(run):
    run, trained = run
    network = unet(weights=f"run:{run}", channels=(16, 8, 8, 8, 4))
    before = {key: value.clone() for key, value in network.decoder.state_dict().items()}
    report = network.load_weights(best_checkpoint)
    assert all(same(network, trained, "backbone"))
    assert all(torch.equal(before[key], value) for key, value in network.decoder.state_dict().items())
    assert "decoder (" in report and "head (" in report


def test_backbone_alone(run):
    run, trained = run
    network = unet(weights=f"backbone-of:{run}")
    head = network.head[0].weight.clone()
    assert network.load_weights(best_checkpoint).endswith("; at random: decoder, head")
    assert all(same(network, trained, "backbone")) and torch.equal(network.head[0].weight, head)


@pytest.mark.parametrize("prefix", ["run:", "backbone-of:"])
def test_foreign_backbone_is_refused(run, prefix):
    run, _ = run
    network = unet(weights=f"{prefix}{run}", backbone="test_resnet.r160_in1k")
    network.load_weights(best_checkpoint)  # another tag is the same architecture
    network = unet(weights=f"{prefix}{run}", backbone="test_convnext")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(
        UserError, match=r"best.ckpt does not hold.*97 of 97 tensors are missing, .*stem_0.weight"
    ):
        network.load_weights(best_checkpoint)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_deeper_backbone_of_a_run_is_refused(run):
    run, _ = run
    file = run / "checkpoints" / "best.ckpt"
    state = torch.load(file)["state_dict"]
    torch.save({"state_dict": state | {"network.backbone.net.layer1.7.conv1.weight": torch.ones(1)}}, file)
    with pytest.raises(UserError, match="no place for, the first being backbone.net.layer1.7.conv1.weight"):
        unet(weights=f"run:{run}").load_weights(best_checkpoint)


def test_latest_run_with_a_checkpoint_stands_for_the_experiment(run):
    """The run that is about to begin has none yet."""
    run, trained = run
    (run.parent / "2").mkdir()
    (run.parent / "2" / "config.yaml").write_text("{}")
    network = unet(weights=f"run:{run.parent}")
    assert str(run / "checkpoints") in network.load_weights(best_checkpoint) and all(
        same(network, trained, "head")
    )


def test_run_without_checkpoint_and_no_run_are_refused(run, tmp_path):
    run, _ = run
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match="train it first"):
        unet(weights=f"run:{run}").load_weights(best_checkpoint)
    with pytest.raises(UserError, match="no run directory"):
        unet(weights=f"run:{tmp_path}/nowhere").load_weights(best_checkpoint)


def test_report_of_random_weights():
    assert unet().load_weights() == "random" == FullResolution(2).load_weights()
