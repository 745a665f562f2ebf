"""Prediction with a trained network: inference strategies, large images, calibration, export."""

from lightning_seg.inference.inferers import Inferer, MultiScale, SlidingWindow, UniformWindow, entropy
from lightning_seg.inference.predictor import ObjectPredictor, Predictor

__all__ = [
    "Inferer",
    "ObjectPredictor",
    "Predictor",
    "MultiScale",
    "SlidingWindow",
    "UniformWindow",
    "entropy",
]
