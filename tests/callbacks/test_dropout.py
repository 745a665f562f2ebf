"""Dropout before any head."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_seg.callbacks.dropout import Dropout
from lightning_seg.errors import UserError
from lightning_seg.networks.linear import Linear


def test_whole_channels_are_dropped_in_training_only():
    torch.manual_seed(0)
    network = Linear(3, "test_resnet", weights=False)
    dropout, task = Dropout(0.25), SimpleNamespace(network=network)
    dropout.on_train_start(None, task)
    seen = []
    network.head.register_forward_hook(lambda head, inputs, output: seen.append(inputs[0]))
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        network.decode = lambda x, features: torch.ones(64, network.backbone.channels[-1], 2, 2)
        network.train()(images)
        network.eval()(images)
        dropout.on_train_end(None, task)
        network.train()(images)
    kept = seen[0][:, :, 0, 0]
    assert torch.equal(seen[0], kept[:, :, None, None].expand_as(seen[0]))  # all of a channel or nothing
    assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (seen[1] == 1).all() and (seen[2] == 1).all()


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match="share"):
        Dropout(1.0)
    with pytest.raises(UserError, match="Sequential is none"):
        Dropout().on_train_start(None, SimpleNamespace(network=nn.Sequential()))
