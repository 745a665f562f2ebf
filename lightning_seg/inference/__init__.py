"""From a trained network to labels: in Python, for folders and very large images, in ensembles, and as a file."""

from lightning_seg.inference.inferers import Inference, MultiScale, SlidingWindow, entropy
from lightning_seg.inference.predictor import Model, load

__all__ = ["Inference", "Model", "MultiScale", "SlidingWindow", "entropy", "load"]
