"""A small image, and what a network might make of it."""

import numpy as np
from scipy import ndimage

CRF_SETTINGS = (
    {"gaussian_std": 2.0, "position_std": 12.0},
    {
        "gaussian_weight": 2.0,
        "gaussian_std": 1.0,
        "bilateral_weight": 4.0,
        "position_std": 20.0,
        "color_std": 5.0,
    },
)


def problem(seed=0, classes=4, height=30, width=41, noise=1.5):
    """Draw colored regions, and probabilities that are right more often than not.

    Returns:
        Probabilities (C, H, W) float32, the image (H, W, 3) uint8, the truth (H, W) uint8.
    """
    rng = np.random.default_rng(seed)
    regions = ndimage.gaussian_filter(rng.normal(size=(classes, height, width)), (0, 4, 4), mode="wrap")
    truth = regions.argmax(0).astype(np.uint8)
    colors = rng.integers(30, 220, (classes, 3))
    image = (colors[truth] + rng.normal(0, 4, (height, width, 3))).clip(0, 255).astype(np.uint8)
    logits = noise * rng.normal(size=regions.shape) + 2 * (np.arange(classes)[:, None, None] == truth)
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    return probabilities.astype(np.float32), image, truth
