"""From a trained network to labels: in Python, for folders and very large images, in ensembles, and as a file."""

from lightning_seg.inference.logits import Inference, MultiScale, SlidingWindow, entropy
from lightning_seg.inference.model import Model, load

__all__ = ["Inference", "Model", "MultiScale", "SlidingWindow", "entropy", "load"]
