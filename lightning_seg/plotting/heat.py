"""Numbers as colors."""

import numpy as np

# Evenly spaced anchors of viridis (Smith and van der Walt, 2015): even steps look even, in gray too.
_ANCHORS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64
)


def heat(values: np.ndarray) -> np.ndarray:
    """Paint values (H, W) in 0..1 from dark violet to yellow, (H, W, 3) uint8; what lies outside is clipped."""
    place = np.nan_to_num(values).clip(0, 1) * (len(_ANCHORS) - 1)
    steps = np.arange(len(_ANCHORS))
    channels = [np.interp(place, steps, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


HEAT = [tuple(color) for color in heat(np.linspace(0, 1, 256)[None])[0].tolist()]
"""Palette of 256 colors, from violet to yellow."""
