"""Augmentations that torchvision has not, or not for masks; they go into the argument `transforms`.

There the mask is inverted (255 - label), so that 0, with which all of torchvision fills in, means `ignore_index`. The
masks of instances are not: there 0 means that the instance is not here.
"""

from collections.abc import Callable

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lightning_seg.errors import UserError

Operation = Callable[[torch.Tensor, float], torch.Tensor]


def _affine(
    angle: float = 0, right: float = 0, down: float = 0, shear: tuple[float, float] = (0, 0)
) -> Operation:
    """An affine map: degrees, fractions of the size, and degrees at full strength."""

    def apply(inpt: torch.Tensor, strength: float) -> torch.Tensor:
        height, width = inpt.shape[-2:]
        moved: torch.Tensor = F.affine(
            inpt,
            angle=angle * strength,
            translate=[right * width * strength, down * height * strength],
            scale=1.0,
            shear=[part * strength for part in shear],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        return moved

    return apply


MOVING: list[Operation] = [
    _affine(angle=30),
    _affine(right=0.45),
    _affine(down=0.45),
    _affine(shear=(17, 0)),
    _affine(shear=(0, 17)),
]
COLORING: list[Operation] = [
    lambda image, strength: image,
    lambda image, strength: F.adjust_brightness(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_contrast(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_saturation(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_sharpness(image, 1 + 0.9 * strength),
    lambda image, strength: F.posterize(image, 8 - round(4 * abs(strength))),
    lambda image, strength: F.solarize(image, 255 * (1 - abs(strength))),
    lambda image, strength: F.autocontrast(image),
    lambda image, strength: F.equalize(image),
]


class RandAugment(v2.Transform):
    """Random operations of one strength, of those that make sense for masks.

    Cubuk et al., "RandAugment", NeurIPS 2020. With `operations=1, strength=None` it is Müller and Hutter,
    "TrivialAugment", ICCV 2021. Rotation, shift and shear move image and mask; the others only change the colors of the
    image.

    Args:
        operations: Number of operations, one after the other.
        strength: Between 0 and 1; None draws it for every image.

    Raises:
        UserError: If the strength is out of range.

    Examples:
        >>> from torchvision import tv_tensors
        >>> image = tv_tensors.Image(torch.zeros(3, 32, 32, dtype=torch.uint8))
        >>> mask = tv_tensors.Mask(torch.zeros(32, 32, dtype=torch.uint8))
        >>> [x.shape for x in RandAugment(operations=2, strength=0.3)(image, mask)]
        [torch.Size([3, 32, 32]), torch.Size([32, 32])]
    """

    def __init__(self, operations: int = 2, strength: float | None = 0.3) -> None:
        super().__init__()
        if strength is not None and not 0 <= strength <= 1:
            raise UserError(f"RandAugment's strength must be between 0 and 1, or null; got {strength}.")
        self.operations = operations
        self.strength = strength

    def make_params(self, flat_inputs: list[object]) -> dict[str, list[tuple[int, float]]]:
        """Draw operations, their strength and its sign."""
        which = torch.randint(len(MOVING) + len(COLORING), (self.operations,)).tolist()
        strengths = torch.rand(self.operations)
        if self.strength is not None:
            strengths.fill_(self.strength)
        signs = torch.randint(2, (self.operations,)) * 2 - 1
        return {"steps": list(zip(which, (strengths * signs).tolist(), strict=True))}

    def transform(self, inpt: torch.Tensor, params: dict[str, list[tuple[int, float]]]) -> torch.Tensor:
        """Apply the drawn operations to an image (3, H, W), masks (..., H, W) or boxes."""
        for which, strength in params["steps"]:
            if which < len(MOVING):
                inpt = MOVING[which](inpt, strength)
            elif isinstance(inpt, tv_tensors.Image):
                inpt = COLORING[which - len(MOVING)](inpt, strength)
        return inpt


class Cutout(v2.Transform):
    """Cut square holes into the image, which training ignores: of inverted masks, as in `transforms`, 0 is void.

    DeVries and Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017.

    Args:
        holes: Number of holes.
        size: Side of a hole, as a fraction of the shorter side of the image.
        p: Probability.

    Examples:
        >>> from torchvision import tv_tensors
        >>> image = tv_tensors.Image(torch.ones(3, 64, 64, dtype=torch.uint8))
        >>> bool(Cutout(size=0.5, p=1)(image).sum() < image.sum())
        True
    """

    def __init__(self, holes: int = 1, size: float = 0.25, p: float = 0.5) -> None:
        super().__init__()
        self.holes = holes
        self.size = size
        self.p = p

    def make_params(self, flat_inputs: list[object]) -> dict[str, list[list[slice]]]:
        """Draw the holes; they may reach over the edge."""
        size = v2.query_size(flat_inputs)
        side = max(1, round(self.size * min(size)))
        holes = self.holes if torch.rand(()).item() < self.p else 0
        corners = (torch.rand(holes, 2) * torch.tensor(size) - side / 2).round().int().tolist()
        return {
            "holes": [[slice(max(0, start), max(0, start + side)) for start in corner] for corner in corners]
        }

    def transform(self, inpt: torch.Tensor, params: dict[str, list[list[slice]]]) -> torch.Tensor:
        """Blank the holes in an image (3, H, W) or masks (..., H, W); boxes stay."""
        if not params["holes"] or isinstance(inpt, tv_tensors.BoundingBoxes):
            return inpt
        out = inpt.clone()
        for rows, columns in params["holes"]:
            out[..., rows, columns] = 0
        cut: torch.Tensor = tv_tensors.wrap(out, like=inpt)
        return cut
