"""Dense conditional random fields: similar pixels near each other tend to have the same label.

Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.

Pixels are connected pairwise by two Gaussian kernels: one of their distance, which smooths, and one of their distance
and color difference, which aligns labels with the edges of the image. Each iteration of mean-field inference filters
the probabilities with both kernels and adds the result to the logarithm of the network's probabilities.
"""

from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from lightning_seg.errors import UserError
from lightning_seg.postprocess.chain import ProbabilityStep
from lightning_seg.postprocess.filtering import Exact, GaussianFilter, Lattice

_LEAST = 1e-5  # a probability of 0 would rule a class out for good


@dataclass
class DenseCRF(ProbabilityStep):
    """Mean-field inference in torch, on any device; parameters as in the authors' code and in pydensecrf.

    As in the authors' code, kernels are evaluated on the permutohedral lattice and normalized symmetrically.

    Args:
        iterations: Number of mean-field iterations; about ten suffice to converge.
        gaussian_weight: Weight of the distance kernel; 0 leaves it out.
        gaussian_std: Its standard deviation in pixels.
        bilateral_weight: Weight of the distance and color kernel; 0 leaves it out.
        position_std: Its standard deviation of distance, in pixels; at least 1.
        color_std: Its standard deviation of color, in units of 0..255; at least 1.
        exact: Evaluate the kernels for every pair of pixels, for small images: time is quadratic in their number.
        device: For example ``cpu`` or ``cuda``. None means the GPU if there is one.

    Raises:
        UserError: A parameter is out of its range.

    Examples:
        >>> probabilities = np.full((2, 32, 32), 0.5, np.float32)
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> DenseCRF(iterations=2)(probabilities, image).shape
        (2, 32, 32)
    """

    iterations: int = 10
    gaussian_weight: float = 3.0
    gaussian_std: float = 3.0
    bilateral_weight: float = 10.0
    position_std: float = 80.0
    color_std: float = 13.0
    exact: bool = False
    device: str | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("iterations", 1),
            ("gaussian_weight", 0),
            ("gaussian_std", 0.1),
            ("bilateral_weight", 0),
            ("position_std", 1),
            ("color_std", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"DenseCRF.{name} must be at least {least}; got {getattr(self, name)}.")

    @torch.inference_mode()
    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the probabilities (C, H, W) after mean-field inference."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        start = torch.from_numpy(probabilities).to(device).flatten(1).clamp(min=_LEAST).log_()  # (C, H * W)
        kernels = self._kernels(torch.from_numpy(np.ascontiguousarray(image)).to(device))
        q = start.softmax(0)
        for _ in range(self.iterations if kernels else 0):
            values = q.T.contiguous()
            message = reduce(torch.add, (kernel(values) for kernel in kernels))
            q = (start + message.T).softmax(0)
        return q.view(probabilities.shape).cpu().numpy()

    def _kernels(self, image: Tensor) -> list[GaussianFilter]:
        height, width, _ = image.shape
        rows, columns = torch.meshgrid(
            torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
        )
        place = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()
        color = image.flatten(0, 1).float()
        make = Exact if self.exact else Lattice
        kernels: list[GaussianFilter] = []
        for weight, features in (
            (self.gaussian_weight, place / self.gaussian_std),
            (self.bilateral_weight, torch.cat([place / self.position_std, color / self.color_std], dim=1)),
        ):
            if weight:
                kernel = make(features)
                sums = kernel(torch.ones(len(features), 1, device=image.device)).squeeze(1)
                kernel.scale((weight / sums.clamp(min=1e-20)).sqrt())
                kernels.append(kernel)
        return kernels


@dataclass
class PydenseCRF(ProbabilityStep):
    """The authors' code in C++, through pydensecrf2: the reference that `DenseCRF` is checked against.

    Args:
        iterations: Number of mean-field iterations.
        gaussian_weight: Weight of the distance kernel.
        gaussian_std: Its standard deviation in pixels.
        bilateral_weight: Weight of the distance and color kernel.
        position_std: Its standard deviation of distance, in pixels.
        color_std: Its standard deviation of color, in units of 0..255.

    Raises:
        UserError: pydensecrf2 is not installed.

    Examples:
        >>> probabilities = np.full((2, 32, 32), 0.5, np.float32)
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> PydenseCRF(iterations=2)(probabilities, image).shape
        (2, 32, 32)
    """

    iterations: int = 10
    gaussian_weight: float = 3.0
    gaussian_std: float = 3.0
    bilateral_weight: float = 10.0
    position_std: float = 80.0
    color_std: float = 13.0

    def __post_init__(self) -> None:
        if find_spec("pydensecrf") is None:
            raise UserError(
                "PydenseCRF needs pydensecrf2, which is not installed: uv pip install 'lightning-seg[crf]'. "
                "lightning_seg.postprocess.crf.DenseCRF does the same without it."
            )

    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the probabilities (C, H, W) after mean-field inference."""
        from pydensecrf.densecrf import DenseCRF2D

        classes, height, width = probabilities.shape
        crf = DenseCRF2D(width, height, classes)
        energy = -np.log(probabilities.clip(_LEAST)).reshape(classes, -1)
        crf.setUnaryEnergy(np.ascontiguousarray(energy, np.float32))
        crf.addPairwiseGaussian(sxy=self.gaussian_std, compat=self.gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=self.position_std,
            srgb=self.color_std,
            rgbim=np.ascontiguousarray(image),
            compat=self.bilateral_weight,
        )
        return np.asarray(crf.inference(self.iterations), np.float32).reshape(probabilities.shape)
