"""Prediction for single images from Python.

from lightning_seg import load

model = load("runs/unet_camvid/20261121-075311-3f2a")
labels = model("street.jpg")  # (H, W) uint8; an array (H, W, 3) or a PIL image will do as well
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_seg.data.bands import as_pixels
from lightning_seg.data.io import read_image, to_pixels
from lightning_seg.data.pixels import RGB, Pixels
from lightning_seg.errors import UserError
from lightning_seg.inference.inferers import Inferer
from lightning_seg.inference.precision import full_precision
from lightning_seg.inference.segments import SegmentRules
from lightning_seg.metrics.instance import arrays
from lightning_seg.metrics.multi_label import decide
from lightning_seg.networks.mask_network import MaskNetwork

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray


class Predictor:
    """A trained network that maps an image (file, PIL image or array) to labels or probabilities as arrays.

    Args:
        network: Maps images (B, C, H, W) in the values of their files to logits; it is set to evaluation mode.
        class_names: The classes in label order.
        palette: The color of each class.
        inference: Inference strategy; whole image by default.
        temperature: Divisor of the logits that calibrates the probabilities (see `lightning-seg calibrate`).
        postprocess: Maps logits (C, H, W), divided by the temperature, and a picture of the image (3, H, W) to labels;
            the most probable class by default.
        pixels: Which bands are read, and which values are expected.

    Examples:
        >>> predict = load("runs/demo")
        >>> labels = predict("street.jpg")
        >>> labels.shape, labels.dtype, predict.probabilities("street.jpg").shape
        ((48, 64), dtype('uint8'), (6, 48, 64))
    """

    def __init__(
        self,
        network: torch.nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        inference: Inferer | None = None,
        temperature: float = 1.0,
        postprocess: Callable[[Tensor, Tensor], Tensor] | None = None,
        pixels: Pixels = RGB,
    ) -> None:
        self.network = network.eval()
        self.class_names = class_names
        self.palette = palette
        self.inference = inference
        self.temperature = temperature
        self.postprocess = postprocess
        self.pixels = pixels

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Return the label of each pixel, (H, W) uint8.

        Args:
            image: A file, a PIL image, or an array (H, W) or (H, W, C) of the bands and the numbers that the run was
                trained on.
        """
        values = as_image(image, self.pixels)
        logits = self._logits(values)
        if self.postprocess is None:
            return logits.max(0)[1].byte().cpu().numpy()
        picture = torch.from_numpy(self.pixels.picture(values)).permute(2, 0, 1)
        return self.postprocess(logits / self.temperature, picture).cpu().numpy()

    def probabilities(self, image: ImageLike) -> np.ndarray:
        """Return the class probabilities (C, H, W) float32, calibrated if the run is calibrated."""
        return (self.logits(image) / self.temperature).softmax(0).cpu().numpy()

    def logits(self, image: ImageLike) -> Tensor:
        """Return the uncalibrated logits (C, H, W) float32 on the network's device."""
        return self._logits(as_image(image, self.pixels))

    def _logits(self, values: np.ndarray) -> Tensor:
        images = torch.from_numpy(values).permute(2, 0, 1)[None].to(self.device)
        with torch.inference_mode(), full_precision(self.device):
            predict = self.network if self.inference is None else partial(self.inference, self.network)
            return predict(images)[0].float()


class MultiLabelPredictor:
    """A trained network that maps an image (file, PIL image or array) to a mask for each class; they may overlap.

    Args:
        network: Maps images (B, C, H, W) to logits (B, K, H, W); it is set to evaluation mode.
        class_names: The classes in label order, the background, which has no mask, first.
        palette: The color of each class.
        thresholds: Least logit (K,) at which a class is there.
        inference: Inference strategy; whole image by default.
        pixels: Which bands are read, and which values are expected.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        thresholds: Tensor,
        inference: Inferer | None = None,
        pixels: Pixels = RGB,
    ) -> None:
        self.class_names = class_names[1:]
        self.palette = palette
        self.thresholds = thresholds
        self._predictor = Predictor(network, class_names, palette, inference, pixels=pixels)

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Return where each of `class_names` is, (K, H, W) bool.

        Args:
            image: As for `Predictor`.
        """
        logits = self.logits(image)
        return decide(logits[None], self.thresholds.to(logits.device))[0].cpu().numpy()

    def probabilities(self, image: ImageLike) -> np.ndarray:
        """Return the probability of each class (K, H, W) float32."""
        return self.logits(image).sigmoid().cpu().numpy()

    def logits(self, image: ImageLike) -> Tensor:
        """Return the logits (K, H, W) float32 on the network's device."""
        return self._predictor.logits(image)


class ObjectPredictor:
    """A trained network that maps an image (file, PIL image or array) to the objects in it, as arrays.

    Args:
        network: Maps images (B, C, H, W) to the objects of each; it is set to evaluation mode.
        class_names: The classes in label order, the background first.
        palette: The color of each class.
        score_threshold: Lowest score at which an object is returned.
        pixels: Which bands are read, and which values are expected.

    Examples:
        >>> network = MaskRCNN(2, "test_resnet", weights=False, hidden=64)
        >>> predict = ObjectPredictor(network, ("background", "cell"), ((0, 0, 0), (230, 25, 75)))
        >>> sorted(predict(np.zeros((64, 64, 3), np.uint8)))
        ['boxes', 'classes', 'labels', 'masks', 'scores']
    """

    def __init__(
        self,
        network: torch.nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        score_threshold: float = 0.5,
        pixels: Pixels = RGB,
    ) -> None:
        self.network = network.eval()
        self.class_names = class_names
        self.palette = palette
        self.score_threshold = score_threshold
        self.pixels = pixels

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
        pixels = torch.from_numpy(as_image(image, self.pixels)).permute(2, 0, 1)
        with torch.inference_mode(), full_precision(self.device):
            found = arrays(self.network(pixels[None].to(self.device))[0])
        return _named(_surest(found, self.score_threshold), self.class_names)


class SegmentPredictor:
    """A network of queries that maps an image (file, PIL image or array) to its segments, or to its objects, as arrays.

    Args:
        network: Gives queries; it is set to evaluation mode.
        class_names: The classes in label order.
        palette: The color of each class.
        rules: How queries become segments and objects.
        things: Classes that have objects.
        objects: Return objects, which may overlap, instead of segments.
        pixels: Which bands are read, and which values are expected.

    Examples:
        >>> network = EoMT(2, "test_vit", weights=False, queries=10, blocks=1)
        >>> palette = ((0, 0, 0), (230, 25, 75))
        >>> predict = SegmentPredictor(network, ("ground", "star"), palette, SegmentRules(), things=(1,))
        >>> found = predict(np.zeros((64, 64, 3), np.uint8))
        >>> sorted(found), found["segments"].shape
        (['classes', 'labels', 'scores', 'segments'], (64, 64))
    """

    def __init__(
        self,
        network: MaskNetwork,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        rules: SegmentRules,
        things: tuple[int, ...],
        objects: bool = False,
        pixels: Pixels = RGB,
    ) -> None:
        self.network = network.eval()
        self.class_names, self.palette = class_names, palette
        self.rules, self.things, self.objects = rules, things, objects
        self.pixels = pixels

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, image: ImageLike) -> dict[str, np.ndarray]:
        """Return the segments of an image, or its objects, the most confident first.

        Args:
            image: As for `Predictor`.

        Returns:
            "segments" (H, W) int32, the number of the segment at each pixel from 1 on, 0 for none, or for objects
            "masks" (N, H, W) bool and "boxes" (N, 4) as left, top, right, bottom in pixels; and of each "labels" (N,)
            int64, "classes" (N,), their names, and "scores" (N,) float32 in 0..1. Objects are those from the score
            threshold of the rules on.
        """
        pixels = torch.from_numpy(as_image(image, self.pixels)).permute(2, 0, 1)
        with torch.inference_mode(), full_precision(self.device):
            queries = self.network.queries(pixels[None].to(self.device))
            if self.objects:
                found = _surest(self.rules.instances(queries, self.things), self.rules.score_threshold)
            else:
                view, labels, scores = self.rules.found(queries, self.things)
                found = {"segments": view.parts, "labels": labels, "scores": scores}
        return _named(found, self.class_names)


def _surest(objects: dict[str, np.ndarray], threshold: float) -> dict[str, np.ndarray]:
    """Return the objects from a score on, those of the highest first."""
    order = np.argsort(-objects["scores"], kind="stable")
    order = order[objects["scores"][order] >= threshold]
    return {name: values[order] for name, values in objects.items()}


def _named(found: dict[str, np.ndarray], class_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {**found, "classes": np.array(class_names)[found["labels"]]}


def as_image(image: ImageLike, pixels: Pixels = RGB) -> np.ndarray:
    """Convert an image file, a PIL image or an array to an image (H, W, C).

    Args:
        image: The image.
        pixels: Which bands are taken, and which values are expected.

    Raises:
        UserError: It is none of these, or see `lightning_seg.data.io.read_image`.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image, pixels)
    if isinstance(image, Image.Image):
        return to_pixels(image, "the image", pixels)
    if not isinstance(image, np.ndarray):
        raise UserError(f"expected a file, a PIL image or an array, got {type(image).__name__}.")
    expected = "(H, W), (H, W, 3) or (H, W, 4)"
    channels = [(), (1,), (3,), (4,)]
    if pixels.bands is not None:  # chosen already, in the order of the run
        expected, channels = f"(H, W, {pixels.count})", [(pixels.count,)] + [()] * (pixels.count == 1)
        pixels = replace(pixels, bands=tuple(range(pixels.count)))
    if image.ndim not in (2, 3) or image.shape[2:] not in channels:
        raise UserError(
            f"expected an image as an array {expected}, got shape {image.shape} of {image.dtype}. "
            "Put the channels last."
        )
    if image.dtype != np.uint8 and not pixels.takes_any_values:
        raise UserError(f"expected an image as an array of uint8, got {image.dtype}. Scale it to 0..255.")
    if pixels.bands is None and image.shape[2:] == (4,):
        image = image[..., :3]  # without transparency
    return np.array(as_pixels(image, pixels, "the image"))  # a copy, which torch may own
