"""The upsampling operators side by side: what they make of an image that was pooled, and of a constant map."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from docs.scripts.learn.common import panels, save, scene, show
from lightning_seg import (
    BedOfNails,
    Bicubic,
    Bilinear,
    InterpolationConvolution,
    MaxUnpooling,
    Nearest,
    PixelShuffle,
    TransposedConvolution,
    Upsampling,
)

OPERATORS = {
    "BedOfNails": BedOfNails,
    "Nearest": Nearest,
    "Bilinear": Bilinear,
    "Bicubic": Bicubic,
    "MaxUnpooling": MaxUnpooling,
    "TransposedConv.": TransposedConvolution,
    "  bilinear: true": partial(TransposedConvolution, bilinear=True),
    "PixelShuffle": PixelShuffle,
    "Interpol.Conv.": InterpolationConvolution,
}
LEARNED = ("TransposedConv.", "  bilinear: true", "PixelShuffle", "Interpol.Conv.")
STEPS = 50


def draw(folder: Path) -> list[str]:
    """Draw both pictures; return what the page says of them in numbers."""
    train = _images(range(8), "train")
    test = _images(range(73, 89), "val")
    figure, axes = panels("ABC DEF GHI JKL", 7)
    show(axes[0], _picture(test[0]), "image, detail")
    show(axes[1], _picture(F.max_pool2d(test, 2)[0], 1), "max-pooled by 2")
    axes[2].set_axis_off()
    axes[2].text(0, 0.1, "enlarged again by:", fontsize=10)
    flat, patterns = panels("ABCD", 1.35)
    said = ["operator          error    on a constant map, before training"]
    for one, (name, make) in zip(axes[3:], OPERATORS.items(), strict=True):
        torch.manual_seed(0)
        up: Upsampling = make(3, 3)
        uneven = "–"
        if name in LEARNED:
            out = up(torch.ones(1, 3, 8, 8))[0, :, 2:-2, 2:-2].detach()
            uneven = f"{float(out.std((1, 2)).mean()):.2f}"
            place = patterns[LEARNED.index(name)]
            show(place, _stretched(out), name.strip().removesuffix("Conv."))
            learn(up, train)
        found = enlarge(up, test).detach()
        error = float((found - test).square().mean().sqrt()) * 255
        show(one, _picture(found[0]), name.strip())
        said.append(f"{name:17} {error:4.1f}     {uneven}")
    save(figure, folder, "upsampling")
    save(flat, folder, "checkerboard")
    return said


def enlarge(up: Upsampling, images: Tensor) -> Tensor:
    """Enlarge max-pooled images (B, 3, H, W) to their size."""
    found: Tensor = up(F.max_pool2d(images, 2), images)
    return found


def learn(up: Upsampling, images: Tensor) -> None:
    """Train an operator to undo the pooling of images (B, 3, H, W)."""
    optimizer = torch.optim.Adam(up.parameters(), 0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (enlarge(up, images) - images).square().mean().backward()
        optimizer.step()


def _images(numbers: range, split: str) -> Tensor:
    images = np.stack([scene(n, split=split)[0] for n in numbers])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _picture(image: Tensor, shrunk: int = 0) -> np.ndarray:
    """Return a detail of an image (3, H, W), whose coordinates are halved if it is `shrunk`."""
    rows, columns = (slice(a >> shrunk, b >> shrunk) for a, b in ((40, 72), (4, 36)))
    return (image[:, rows, columns].permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()


def _stretched(image: Tensor) -> np.ndarray:
    """Show values (3, H, W) around their means, made stronger."""
    around = (image - image.mean((1, 2), keepdim=True)) / 2 + 0.5
    return (around.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()
