"""Choose the precision that trains a network fastest on this device, by a short measurement."""

import copy
import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.data.cache_folder import cache_folder
from lightning_seg.networks.base import channels_of
from lightning_seg.networks.detection.detector import Detector

PROBE_SIDE = 128  # pixels: enough for a ViT-S of patches of 14 to show its gain, which it does not at 96
MARGIN = 1.1  # bfloat16 must be this much faster to make up for its fewer digits


class Choice(NamedTuple):
    """A precision for the trainer and the reason for it."""

    precision: str
    reason: str


def choose_precision(network: nn.Module, device: torch.device, probe: bool = True) -> Choice:
    """Choose between ``32-true`` and ``bf16-mixed``.

    A GPU that has bfloat16 trains in it, untried. Steps so small that the processor is the limit, which starts the
    device's kernels, were 4 to 12 % slower in it than in 32 bits (docs/speed.md).

    On a CPU it depends on both the processor and the network (ResNets gain 1.6 to 1.9 times where the processor
    multiplies bfloat16 matrices, depthwise convolutions lose): a few small training steps of a copy are timed, once for
    each network and machine. The answer is kept in the user's cache folder, so that all runs of a comparison have the
    same one.

    Args:
        network: Maps images (B, C, H, W) to logits (B, C, H, W), or to several; it is not changed. A
            `Detector` is not measured.
        device: Where it will train.
        probe: Whether to measure; several processes, which must choose alike without communicating, must not.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bf16-mixed", "the GPU has it")
        return Choice("32-true", "the GPU has no bfloat16")
    if device.type != "cpu" or not probe or isinstance(network, Detector):
        return Choice("32-true", "not tried")
    file = _cache_file(network)
    if file.is_file():
        gain = float(json.loads(file.read_text())["gain"])
    else:
        gain = _gain(network)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"gain": gain, "network": type(network).__name__}))
        part.replace(file)  # another run may be reading it
    reason = f"bf16 trains this network at {gain:.2f} times the speed of 32 bits here"
    return Choice("bf16-mixed" if gain > MARGIN else "32-true", reason)


def _cache_file(network: nn.Module) -> Path:
    parts = (
        repr(network),
        torch.__version__,
        platform.processor(),
        torch.backends.cpu.get_cpu_capability(),
        str(PROBE_SIDE),
    )
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"precision-{key}.json"


def _gain(network: nn.Module) -> float:
    """Return how many times faster a small training step is in bfloat16."""
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(network).train()
        # In turns: what else the machine does comes and goes.
        each = [(_step_time(trial, None), _step_time(trial, torch.bfloat16)) for _ in range(2)]
        return min(full for full, _ in each) / min(half for _, half in each)


def _step_time(network: nn.Module, dtype: torch.dtype | None) -> float:
    """Return the seconds of a training step, the faster of two."""
    images = torch.randint(0, 256, (2, channels_of(network), PROBE_SIDE, PROBE_SIDE), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    fastest = float("inf")
    for _ in range(2):  # the first also chooses kernels
        start = time.perf_counter()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            logits = network(images)
            outputs: list[Tensor] = list(logits) if isinstance(logits, tuple) else [logits]
            target = images[:, 0].long() % outputs[0].shape[1]
            loss = sum(F.cross_entropy(output, target) for output in outputs)
        loss.backward()  # type: ignore[union-attr]
        seconds = time.perf_counter() - start
        network.zero_grad()
        fastest = min(fastest, seconds)
    return fastest
