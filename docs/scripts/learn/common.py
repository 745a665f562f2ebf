"""What the pictures of docs/learn share: one width, one palette, scenes of `Shapes`, small files."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lightning_seg.data.datasets.shapes import Shapes

FOLDER = Path(__file__).parents[2] / "learn/img"
# Okabe and Ito's colors as the comparison page has them: distinct for color-blind readers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c48a00", "#56b4e9")
RIGHT, MISSED, EXTRA = (0, 114, 178), (213, 94, 0), (240, 190, 60)
SHAPES = Shapes(batch_size=1, crop_size=(96, 96))


def scene(number: int, size: int = 96, split: str = "val") -> tuple[np.ndarray, np.ndarray]:
    """Return an image (size, size, 3) of `Shapes` and its mask (size, size)."""
    return SHAPES.read((split, number, (size, size)))


def panels(layout: str, height: float, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """Make a figure as wide as a phone can show with legible words, 4.8 inches, and its axes.

    Args:
        layout: Letters, a row of axes a word, as ``"AB CC"``: a letter that comes again spans.
        height: Of the figure, in inches.
        ratios: Heights of the rows, relative to one another.
    """
    figure = Figure((4.8, height), dpi=150, layout="constrained", facecolor="white")
    rows = [list(row) for row in layout.split()]
    axes = figure.subplot_mosaic(rows, height_ratios=ratios)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.04)
    for one in axes.values():
        one.tick_params(labelsize=9)
    return figure, list(axes.values())


def show(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    """Show a picture (H, W, 3) uint8, or values (H, W) in 0..1 as gray, pixel by pixel."""
    axes.imshow(picture, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10, pad=3)
    axes.set(xticks=[], yticks=[])


def chart(axes: Axes, title: str, x_label: str = "", y_label: str = "") -> None:
    """Give a diagram its words, and a grid."""
    axes.set_title(title, fontsize=10.5)
    axes.set_xlabel(x_label, fontsize=10)
    axes.set_ylabel(y_label, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a picture as a PNG of at most 256 colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    picture = (
        Image.open(buffer)
        .convert("RGB")
        .quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    colors = picture.getpalette() or []
    paper = 3 * picture.getpixel((picture.width - 1, picture.height - 1))
    colors[paper : paper + 3] = [255, 255, 255]  # which the fewer bits of an octree make a shade darker
    picture.putpalette(colors)
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png", optimize=True)
