"""The choice of precision, compilation and checkpointing of gradients."""

import pytest
import torch
import yaml
from torch import nn

from lightning_seg.cli.main import main
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.training import precision
from lightning_seg.training.precision import choose_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout())


class Uint8(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, images):
        return self.body(images.float())


@pytest.mark.parametrize(("full", "half", "expected"), [(2.0, 1.0, "bf16-mixed"), (1.0, 1.0, "32-true")])
def test_bf16_is_chosen_where_it_pays_and_remembered(monkeypatch, full, half, expected):
    times = {None: full, torch.bfloat16: half}
    monkeypatch.setattr(precision, "_step_time", lambda network, dtype: times[dtype])
    first = choose_precision(Uint8(), CPU)
    assert first.precision == expected
    times[torch.bfloat16] = 9.0 / half  # another measurement would say the opposite
    assert choose_precision(Uint8(), CPU) == first
    assert choose_precision(network(), CPU) != first  # another network is another question


def test_the_probe_leaves_network_and_random_numbers_as_they_were():
    net = Uint8()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert choose_precision(net, CPU).precision in ("32-true", "bf16-mixed")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_processes_that_cannot_talk_do_not_try():
    assert choose_precision(Uint8(), CPU, probe=False).precision == "32-true"


def test_a_run_writes_down_what_was_chosen_and_is_tested_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_gain", lambda network: 2.0)
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]
    small += [
        "--model.network.init_args.backbone=test_resnet",
        "--wandb.mode=disabled",
        "--data.init_args.num_workers=0",
    ]
    assert main(["fit", "-c", "experiments/quickstart.yaml", f"--runs={tmp_path}", *small]) == 0
    (run,) = tmp_path.glob("quickstart/*")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
def test_checkpointed_gradients_are_the_same_and_keep_less(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name, weights=False).train()
    images = torch.randn(2, 3, 64, 64)

    def gradients():
        kept = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            features = backbone(images)
        backbone.zero_grad()
        sum(f.square().mean() for f in features).backward()
        return sum(kept), [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    plain, expected = gradients()
    backbone.checkpoint_gradients()
    fewer, actual = gradients()
    assert fewer < 0.8 * plain
    torch.testing.assert_close(actual, expected)


def test_flags_reach_the_network():
    experiment = TaskAndData(
        [
            "-c",
            "experiments/quickstart.yaml",
            "--model.network.init_args.backbone=test_resnet",
            "--model.compile=true",
            "--model.gradient_checkpointing=true",
        ]
    )
    net = experiment.model.network
    assert net._compiled_call_impl is not None
    assert net.backbone.net.grad_checkpointing
    weights = [p for p in net.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
