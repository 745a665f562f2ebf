"""The arithmetic of evaluation: float32, whatever a run trains in."""

import torch


def full_precision(device: torch.device) -> torch.autocast:
    """Return the context that validation, test, prediction and `load` run networks in.

    A run may train in bfloat16 because a probe of the machine found it faster. Its three digits change the labels of
    pixels near the boundaries of classes, and an exported file does not have them. In float32 a checkpoint gives the
    same labels in every command and on every machine, up to rounding.

    Args:
        device: The device of the network.
    """
    return torch.autocast(device.type, enabled=False)
