"""Prediction for single images from Python.

from lightning_seg import load

model = load("runs/unet_camvid/20261121-075311-3f2a")
labels = model("street.jpg")  # (H, W) uint8; an array (H, W, 3) or a PIL image will do as well
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_seg.data.io import read_image, scale, to_rgb
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.precision import full_precision
from lightning_seg.metrics.instance import arrays

ImageLike = str | Path | Image.Image | np.ndarray


class Predictor:
    """A trained network that maps an image (file, PIL image or array) to labels or probabilities as arrays.

    Args:
        network: Maps images (B, 3, H, W) in 0..255 to logits (B, C, H, W); it is set to evaluation mode.
        class_names: The classes in label order.
        palette: The color of each class.
        inference: Inference strategy; whole image by default.
        temperature: Divisor of the logits that calibrates the probabilities (see `lightning-seg calibrate`).
        postprocess: Maps logits (C, H, W), divided by the temperature, and the image (3, H, W) to labels; the most
            probable class by default.
        value_range: Values of images that become 0 and 255 before the network; see
            `lightning_seg.data.io.read_image`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        inference: Inferer | None = None,
        temperature: float = 1.0,
        postprocess: Callable[[Tensor, Tensor], Tensor] | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.network = network.eval()
        self.class_names = class_names
        self.palette = palette
        self.inference = inference
        self.temperature = temperature
        self.postprocess = postprocess
        self.value_range = value_range

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Return the label of each pixel, (H, W) uint8.

        Args:
            image: A file, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4): of uint8, or of any numbers where
                there is a `value_range`.
        """
        pixels = self._read(image)
        logits = self._logits(pixels)
        if self.postprocess is None:
            return logits.max(0)[1].byte().cpu().numpy()
        return self.postprocess(logits / self.temperature, pixels).cpu().numpy()

    def probabilities(self, image: ImageLike) -> np.ndarray:
        """Return the class probabilities (C, H, W) float32, calibrated if the run is calibrated."""
        return (self.logits(image) / self.temperature).softmax(0).cpu().numpy()

    def logits(self, image: ImageLike) -> Tensor:
        """Return the uncalibrated logits (C, H, W) float32 on the network's device."""
        return self._logits(self._read(image))

    def _read(self, image: ImageLike) -> Tensor:
        """Return an image (3, H, W) uint8."""
        return torch.from_numpy(as_rgb(image, self.value_range)).permute(2, 0, 1)

    def _logits(self, pixels: Tensor) -> Tensor:
        images = pixels[None].to(self.device)
        with torch.inference_mode(), full_precision(self.device):
            predict = self.network if self.inference is None else partial(self.inference, self.network)
            return predict(images)[0].float()


class ObjectPredictor:
    """A trained network that maps an image (file, PIL image or array) to the objects in it, as arrays.

    Args:
        network: Maps images (B, 3, H, W) in 0..255 to the objects of each; it is set to evaluation mode.
        class_names: The classes in label order, the background first.
        palette: The color of each class.
        score_threshold: Lowest score at which an object is returned.
        value_range: Values of images that become 0 and 255 before the network; see
            `lightning_seg.data.io.read_image`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        score_threshold: float = 0.5,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.network = network.eval()
        self.class_names = class_names
        self.palette = palette
        self.score_threshold = score_threshold
        self.value_range = value_range

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, image: ImageLike) -> dict[str, np.ndarray]:
        """Return the objects of an image, those of the highest score first.

        Args:
            image: As for `Predictor`.

        Returns:
            "masks" (N, H, W) bool, "boxes" (N, 4) float32 as left, top, right, bottom in pixels, "labels" (N,) int64,
            "classes" (N,) their names, and "scores" (N,) float32 in 0..1.
        """
        pixels = torch.from_numpy(as_rgb(image, self.value_range)).permute(2, 0, 1)
        with torch.inference_mode(), full_precision(self.device):
            found = arrays(self.network(pixels[None].to(self.device))[0])
        order = np.argsort(-found["scores"], kind="stable")
        order = order[found["scores"][order] >= self.score_threshold]
        kept = {name: found[name][order] for name in ("masks", "boxes", "labels", "scores")}
        return {**kept, "classes": np.array(self.class_names)[kept["labels"]]}


def as_rgb(image: ImageLike, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Convert an image file, a PIL image or an array to RGB (H, W, 3) uint8.

    Args:
        image: The image.
        value_range: Values that become 0 and 255; see `lightning_seg.data.io.read_image`.

    Raises:
        UserError: It is none of these, or has more than 8 bits a channel and there is no `value_range`.
    """
    if isinstance(image, str | Path):
        return read_image(image, value_range)
    if isinstance(image, np.ndarray):
        known = image.dtype == np.uint8 or (value_range is not None and image.dtype.kind in "iuf")
        if not known or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise UserError(
                "expected an image as an array (H, W), (H, W, 3) or (H, W, 4) of uint8, got shape "
                f"{image.shape} of {image.dtype}. Scale it to 0..255 and put the channels last."
            )
        if value_range is not None:
            image = scale(image, value_range, "the image")
        return np.array(Image.fromarray(image).convert("RGB"))
    if not isinstance(image, Image.Image):
        raise UserError(f"expected a file, a PIL image or an array, got {type(image).__name__}.")
    return to_rgb(image, "the image", value_range)
