"""Which architecture works on which backbone: a table made by trying, ``python docs/scripts/architectures.py``."""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import lightning_seg.networks
from lightning_seg.errors import UserError
from lightning_seg.networks.base import Network

BACKBONES = (
    "resnet50",
    "resnet101",
    "vgg16",
    "vgg19_bn",
    "alexnet",
    "tf_efficientnet_lite0",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b2",
    "vit_small_patch16_224",
    "vit_small_patch14_dinov2",
)
SIZE = (97, 129)  # pixels, of one image


def architectures() -> list[type[Network]]:
    """Return every architecture that takes a backbone, in the order of their names."""
    found: dict[str, type[Network]] = {}
    for module in pkgutil.iter_modules(lightning_seg.networks.__path__):
        content = importlib.import_module(f"lightning_seg.networks.{module.name}")
        cls: Any
        for name, cls in inspect.getmembers(content, inspect.isclass):
            own = issubclass(cls, Network) and cls.__module__ == content.__name__
            arguments = set(inspect.signature(cls).parameters) if own else set()
            if {"backbone", "num_classes"} <= arguments and "module" not in arguments:
                found[name] = cls
    return [found[name] for name in sorted(found)]


def attempt(build: type[Network], backbone: str) -> tuple[str, str]:
    """Build a network for 21 classes and run one image forward and backward.

    Args:
        build: The architecture.
        backbone: Name of the backbone, which gets random weights.

    Returns:
        Millions of parameters, or a dash where the combination is refused; and the reason for that.
    """
    torch.manual_seed(0)
    try:
        network = build(num_classes=21, backbone=backbone, weights=False).train()  # type: ignore[call-arg]
    except UserError as error:
        return "–", str(error)
    logits = network(torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8))
    outputs = list(logits) if isinstance(logits, tuple) else [logits]
    target = torch.randint(0, 21, (1, *SIZE))
    sum(F.cross_entropy(output, target) for output in outputs).backward()  # type: ignore[union-attr]
    broken = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    if outputs[0].shape != (1, 21, *SIZE) or broken:
        raise RuntimeError(f"{build.__name__} on {backbone}: {outputs[0].shape}, no gradient in {broken}")
    return f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}", ""


def table(builds: list[type[Network]], backbones: tuple[str, ...]) -> str:
    """Try every combination and render the outcome as Markdown."""
    lines = [f"| | {' | '.join(backbones)} |", f"|---|{'---|' * len(backbones)}"]
    reasons: dict[str, list[str]] = {}
    for build in builds:
        cells = []
        for backbone in backbones:
            cell, reason = attempt(build, backbone)
            cells.append(cell)
            if reason:
                reasons.setdefault(reason, []).append(f"{build.__name__} on {backbone}")
        lines.append(f"| {build.__name__} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "Refused, before any data is read:", ""]
    lines += [f"- {', '.join(who)}: {reason}" for reason, who in reasons.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        "# Architectures and backbones\n\n"
        "Written by `python docs/scripts/architectures.py FILE`, which builds every combination with its default\n"
        f"settings and 21 classes and runs one image of {SIZE[0]}x{SIZE[1]} pixels forward and backward. Cells are\n"
        "millions of parameters, a dash is a combination that is refused. Other models of timm work like those of\n"
        "their family.\n\n" + table(architectures(), BACKBONES) + "\n"
    )
