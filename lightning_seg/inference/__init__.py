"""Prediction with a trained network: inference strategies, large images, calibration, export."""

from lightning_seg.inference.inferers import Inferer, MultiScale, SlidingWindow, entropy
from lightning_seg.inference.predictor import Predictor

__all__ = ["Inferer", "Predictor", "MultiScale", "SlidingWindow", "entropy"]
