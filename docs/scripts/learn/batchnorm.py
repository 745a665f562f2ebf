"""BatchNorm in training, in evaluation and frozen: what moves while a pretrained backbone is fine-tuned."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn import functional as F

from docs.scripts.learn.common import COLORS, chart, panels, save, scene
from docs.scripts.learn.dilation import NAME, WEIGHTS
from lightning_seg import CrossEntropy, FCN8s, Full, TimmBackbone
from lightning_seg.training.finetune.policies import batch_norms

STEPS = 4


def draw(folder: Path) -> list[str]:
    """Draw the picture; return what the page says of it in numbers."""
    images, masks = _batch(range(4))
    others, _ = _batch(range(100, 103))
    first = TimmBackbone(NAME, WEIGHTS)
    first.load_weights()
    pretrained = {name: value.clone() for name, value in first.state_dict().items()}
    figure, (means, scales, values) = panels("A B C", 7.2)
    said = [
        "batch_norm   statistics moved   scales moved   logits of an image, if the batch around it changes"
    ]
    for mode, color, style in zip(("train", "eval", "frozen"), COLORS, ("-", "--", ":"), strict=False):
        torch.manual_seed(0)
        network = FCN8s(6, NAME, False).double()  # in float32, Adam makes of roundings a fifth of the answer
        network.backbone.load_state_dict(pretrained)
        policy = Full(batch_norm=mode)
        policy.apply(network)
        norms = list(batch_norms(network.backbone))
        optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-3)
        before = _state(norms)
        if mode == "train":
            _histogram(values, network, norms[0], images)
        moved = [(0.0, 0.0)]
        for _ in range(STEPS):
            network.train()
            policy.set_mode(network)
            optimizer.zero_grad()
            CrossEntropy()(network(images), masks).backward()
            optimizer.step()
            moved.append(
                tuple(float((b - a).abs().mean()) for a, b in zip(before, _state(norms), strict=True))
            )
        with torch.no_grad():
            beside = [network(torch.cat([images[:1], rest]))[0] for rest in (images[1:], others)]
        apart = float((beside[0] - beside[1]).abs().mean())
        for axes, line in zip((means, scales), zip(*moved, strict=True), strict=True):
            axes.plot(line, style, color=color, label=mode, linewidth=2.5)
        said.append(
            f"{mode:12} {moved[-1][0]:.3f}              {moved[-1][1]:.4f}         differ by {apart:.3f}"
        )
    chart(means, "running means: how far they moved", "", "mean |change|")
    chart(scales, "scales (weight): how far they moved", "training step", "mean |change|")
    chart(values, "first layer, before training: mean by channel", "channel", "mean, normalized")
    values.set_ylim(-1, 1.4)
    for axes in (means, scales, values):
        axes.legend(fontsize=9, ncols=2 if axes is values else 1)
    save(figure, folder, "batchnorm")
    return said


def _histogram(axes: Axes, network: FCN8s, norm: nn.Module, images: Tensor) -> None:
    """Draw how the first BatchNorm layer's channels lie with the batch's statistics, and with the pretraining's."""
    kept: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        network.eval()(images)
    handle.remove()
    x = kept[0]
    stored = F.batch_norm(x, norm.running_mean, norm.running_var).mean((0, 2, 3))
    own = F.batch_norm(x, None, None, training=True).mean((0, 2, 3))
    axes.plot(own, "o", color=COLORS[0], markersize=4, label="train")
    axes.bar(range(len(stored)), stored, 0.7, color=COLORS[1], label="eval, frozen")


def _state(norms: list[nn.Module]) -> tuple[Tensor, Tensor]:
    """Return the running means of all layers, and their scales."""
    means = torch.cat([norm.running_mean for norm in norms])
    return means.clone(), torch.cat([norm.weight.detach() for norm in norms]).clone()


def _batch(numbers: range) -> tuple[Tensor, Tensor]:
    pairs = [scene(n, 64, "train") for n in numbers]
    images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return images.permute(0, 3, 1, 2), masks
