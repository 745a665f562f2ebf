"""From a trained network to labels: in Python, for folders and very large images, in ensembles, and as a file."""

from lightning_seg.inference.inferers import Inferer, MultiScale, SlidingWindow, entropy
from lightning_seg.inference.predictor import Predictor, load

__all__ = ["Inferer", "Predictor", "MultiScale", "SlidingWindow", "entropy", "load"]
