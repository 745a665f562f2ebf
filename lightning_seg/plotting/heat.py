"""Numbers as colors."""

import cv2
import numpy as np


def heat(values: np.ndarray) -> np.ndarray:
    """Paint values (H, W) in 0..1 by viridis, dark violet to yellow, (H, W, 3) uint8; what lies outside is clipped."""
    steps = (255 * np.nan_to_num(values).clip(0, 1)).round().astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS)[..., ::-1])


HEAT = [tuple(color) for color in heat(np.linspace(0, 1, 256)[None])[0].tolist()]
"""Palette of 256 colors, from violet to yellow."""
