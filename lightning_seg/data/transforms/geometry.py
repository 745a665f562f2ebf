"""Random crops, scales and flips of image and mask together, on the CPU, as torchvision v2 transforms.

Images keep their type and the memory layout (H, W, C) from the decoder to the batch: nothing is transposed. Random
numbers are Python's: after decoding, with cold caches, a call into torch costs as much as cutting a mask.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_seg import IGNORE_INDEX

FILL = (124, 116, 104)  # the mean color of ImageNet: after normalization, padding is close to zero


def random_by_torch() -> Random:
    """Make a source of random numbers that follows from torch's generator, as the draws of all transforms do."""
    return Random(int(torch.randint(1 << 62, ())))


class Window(NamedTuple):
    """A rectangle to cut out, and where the part of it that lies inside the image goes in the result.

    Args:
        source: Rows and columns of the input.
        target: Rows and columns of the result.
        size: Height and width of the result, in pixels.
    """

    source: tuple[slice, slice]
    target: tuple[slice, slice]
    size: tuple[int, int]

    def cut(self, array: np.ndarray, fill: Sequence[int], nearest: bool) -> np.ndarray:
        """Cut, resize and pad an array (H, W) or (H, W, C)."""
        kept, (rows, columns) = array[self.source], self.target
        if nearest and kept.ndim == 3:
            return self._cut_maps(kept, fill[0])
        if kept.ndim == 3 and kept.shape[2] not in (1, 3):
            return self._cut_bands(kept, fill)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if nearest:  # "exact" takes the pixel whose center is nearest, so that the mask stays on the image
            how = cv2.INTER_NEAREST_EXACT
        else:  # bilinear looks at two pixels along each axis, and would miss most of what is shrunk further
            how = cv2.INTER_AREA if kept.shape[0] > 2.5 * height else cv2.INTER_LINEAR
        kept = cv2.resize(kept, (width, height), interpolation=how)
        if (height, width) == self.size:
            return kept if kept.ndim == array.ndim else kept[..., None]  # OpenCV drops a single channel
        room = (rows.start, self.size[0] - rows.stop, columns.start, self.size[1] - columns.stop)
        out = cv2.copyMakeBorder(kept, *room, cv2.BORDER_CONSTANT, value=fill)
        return out if out.ndim == array.ndim else out[..., None]

    def _cut_bands(self, kept: np.ndarray, fill: Sequence[int]) -> np.ndarray:
        """Resize and pad what was cut of an image (H, W, C) of any number of channels."""
        rows, columns = self.target
        height, width = rows.stop - rows.start, columns.stop - columns.start
        how = cv2.INTER_AREA if kept.shape[0] > 2.5 * height else cv2.INTER_LINEAR
        parts = [  # OpenCV takes four channels, in some versions more
            cv2.resize(kept[..., i : i + 4], (width, height), interpolation=how).reshape(height, width, -1)
            for i in range(0, kept.shape[2], 4)
        ]
        out = np.empty((*self.size, kept.shape[2]), kept.dtype)
        out[:] = np.asarray(fill[: kept.shape[2]], np.float64).astype(kept.dtype)
        out[rows, columns] = np.concatenate(parts, axis=2)
        return out

    def _cut_maps(self, kept: np.ndarray, fill: int) -> np.ndarray:
        """Resize and pad what was cut of masks (H, W, K), each of them as a mask alone."""
        rows, columns = self.target
        height, width = rows.stop - rows.start, columns.stop - columns.start
        places = [  # where OpenCV's "exact" nearest takes the rows and columns from, the same for all maps
            cv2.resize(
                np.arange(length, dtype=np.float32)[:, None], (1, new), interpolation=cv2.INTER_NEAREST_EXACT
            )
            for length, new in zip(kept.shape[:2], (height, width), strict=True)
        ]
        out = np.full((*self.size, kept.shape[2]), fill, np.uint8)
        out[rows, columns] = kept[np.ix_(*(place.ravel().astype(int) for place in places))]
        return out

    def move(self, boxes: torch.Tensor) -> torch.Tensor:
        """Move boxes (N, 4) and cut them at the edge of what is kept of the image."""
        source, target = (
            torch.tensor([[part.start, part.stop] for part in reversed(parts)], dtype=torch.float32)
            for parts in (self.source, self.target)
        )  # (2, 2): of x and y, the first and the end
        scale = (target[:, 1] - target[:, 0]) / (source[:, 1] - source[:, 0])
        corners = boxes.reshape(-1, 2, 2).float()
        inside = corners.maximum(source[:, 0]).minimum(source[:, 1])
        return ((inside - source[:, 0]) * scale + target[:, 0]).reshape(-1, 4)


class RandomScaleCrop(v2.Transform):
    """Cut a window of random size and position and resize it to `size`.

    The same as resizing the image by a random scale and cropping it, but only the pixels that are kept are
    resized. Where the window reaches over the image, the image is filled with a constant and the mask with
    `IGNORE_INDEX`.

    Args:
        size: Height and width of the result, in pixels.
        scale_range: Smallest and largest magnification; drawn uniformly. (1, 1) only crops.
        fill: Color of padding, a value for each channel.
        class_balanced_crops: Probability that the window is placed around a pixel of a class drawn evenly from those in
            the mask, or of an instance.
        large_scale_jitter: `scale_range` is relative to the magnification at which the image just fits into `size`, not
            to the image itself. With (0.1, 2) this is the large-scale jitter of Ghiasi et al., "Simple copy-paste",
            CVPR 2021.

    Examples:
        >>> from torchvision import tv_tensors
        >>> image = tv_tensors.Image(torch.zeros(3, 40, 60, dtype=torch.uint8))
        >>> mask = tv_tensors.Mask(torch.zeros(40, 60, dtype=torch.uint8))
        >>> [x.shape for x in RandomScaleCrop(size=(32, 32), scale_range=(0.5, 2))(image, mask)]
        [torch.Size([3, 32, 32]), torch.Size([32, 32])]
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale_range: tuple[float, float] = (0.5, 2.0),
        fill: tuple[int, ...] = FILL,
        class_balanced_crops: float = 0.0,
        large_scale_jitter: bool = False,
    ) -> None:
        super().__init__()
        self.class_balanced_crops = class_balanced_crops
        self.size = (size[0], size[1])
        self.scale_range = scale_range
        self.fill = fill
        self.large_scale_jitter = large_scale_jitter

    def arrays(
        self, image: np.ndarray, mask: np.ndarray, random: Random, classes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut an image and its mask; the same as for tensors, in half the time.

        Args:
            image: (H, W, C).
            mask: (H, W) or (H, W, K).
            random: Source of random numbers.
            classes: Class of each pixel (H, W), where the mask has other numbers, for `class_balanced_crops`.
        """
        maps: np.ndarray | None = mask if classes is None else classes
        if mask.ndim == 3:
            maps = None if self.class_balanced_crops == 0 else np.moveaxis(mask == 1, 2, 0)
            maps = None if maps is None else maps[maps.any((1, 2))]  # of the classes that are there
        window = self.draw(mask.shape[:2], random, maps)
        return window.cut(image, self.fill, nearest=False), window.cut(mask, (IGNORE_INDEX,), nearest=True)

    def make_params(self, flat_inputs: list[object]) -> dict[str, Window]:
        """Draw the window."""
        mask = next((part.numpy() for part in flat_inputs if isinstance(part, tv_tensors.Mask)), None)
        return {"window": self.draw(v2.query_size(flat_inputs), random_by_torch(), mask)}

    def transform(self, inpt: torch.Tensor, params: dict[str, Window]) -> torch.Tensor:
        """Cut an image (C, H, W), a mask (H, W), masks of instances (N, H, W) or boxes (N, 4)."""
        window = params["window"]
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            boxes = window.move(v2.functional.convert_bounding_box_format(inpt, new_format="XYXY"))
            moved: torch.Tensor = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=window.size)
            return moved
        if not isinstance(inpt, tv_tensors.Mask):
            return _from_numpy(window.cut(_to_numpy(inpt), self.fill, nearest=False), inpt)
        if inpt.ndim == 2:
            return _from_numpy(window.cut(inpt.numpy(), (IGNORE_INDEX,), nearest=True), inpt)
        out = np.zeros((len(inpt), *window.size), np.uint8)
        for mask, target in zip(inpt.numpy(), out, strict=True):
            target[:] = window.cut(mask, (0,), nearest=True)
        cut: torch.Tensor = tv_tensors.wrap(torch.from_numpy(out), like=inpt)
        return cut

    def draw(self, old: Sequence[int], random: Random, mask: np.ndarray | None = None) -> Window:
        """Draw the window.

        Args:
            old: Height and width of the image, in pixels.
            random: Source of random numbers.
            mask: Its mask (H, W), or masks of instances (N, H, W), for `class_balanced_crops`.
        """
        low, high = self.scale_range
        scale, *starts = low + random.random() * (high - low), random.random(), random.random()
        if self.large_scale_jitter:
            scale *= min(self.size[0] / old[0], self.size[1] / old[1])
        row, column = self._pixel_to_hold(mask, random)
        top, bottom, y0, y1 = _span(old[0], self.size[0], scale, starts[0], row)
        left, right, x0, x1 = _span(old[1], self.size[1], scale, starts[1], column)
        return Window((slice(top, bottom), slice(left, right)), (slice(y0, y1), slice(x0, x1)), self.size)

    def _pixel_to_hold(self, mask: np.ndarray | None, random: Random) -> tuple[int, int] | tuple[None, None]:
        """Row and column of a pixel of a random class or instance, if the window must hold one."""
        if mask is None or not self.class_balanced_crops or random.random() >= self.class_balanced_crops:
            return None, None
        which, where = random.random(), random.random()
        if mask.ndim == 3:
            inside = mask[int(which * len(mask))] if len(mask) else np.zeros(0)
        else:
            classes = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE_INDEX])
            inside = mask == classes[int(which * classes.size)] if classes.size else np.zeros(0)
        pixels = np.flatnonzero(inside)
        if not pixels.size:
            return None, None
        row, column = divmod(int(pixels[int(where * pixels.size)]), mask.shape[-1])
        return row, column


def _span(total: int, size: int, scale: float, start: float, pixel: int | None) -> tuple[int, int, int, int]:
    """Place a window along one axis.

    Args:
        total: Length of the image, in pixels.
        size: Length of the result, in pixels.
        scale: Magnification.
        start: Where the window begins, as a fraction of the places it may begin.
        pixel: A pixel that must be in the window, if any; `start` is then its place in the window.

    Returns:
        First and last+1 pixel of the image inside the window, and where they land in the result.
    """
    window = max(1, round(size / scale))
    room = total - window  # negative: the window is longer than the image, which then lies anywhere in it
    begin = math.floor(start * (abs(room) + 1)) * (1 if room >= 0 else -1)
    if pixel is not None and room > 0:
        begin = min(max(pixel - math.floor(start * window), 0), room)
    first, last = max(begin, 0), min(begin + window, total)
    end = max(1, round((last - begin) * size / window))
    return first, last, min(end - 1, round((first - begin) * size / window)), end


class RandomHorizontalFlip(v2.Transform):
    """Mirror left and right.

    Args:
        p: Probability.

    Examples:
        >>> from torchvision import tv_tensors
        >>> RandomHorizontalFlip(p=1)(tv_tensors.Mask(torch.tensor([[0, 1, 2]])))
        Mask([[2, 1, 0]])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def arrays(self, image: np.ndarray, mask: np.ndarray, random: Random) -> tuple[np.ndarray, np.ndarray]:
        """Flip an image (H, W, C) and its mask (H, W) or (H, W, K), or neither."""
        if random.random() >= self.p:
            return image, mask
        return _mirrored(image), _mirrored(mask)

    def make_params(self, flat_inputs: list[object]) -> dict[str, bool]:
        """Draw whether to flip."""
        return {"flip": torch.rand(()).item() < self.p}

    def transform(self, inpt: torch.Tensor, params: dict[str, bool]) -> torch.Tensor:
        """Flip an image (C, H, W), masks or boxes if so drawn."""
        flipped: torch.Tensor = v2.functional.horizontal_flip(inpt) if params["flip"] else inpt
        return flipped


def _mirrored(array: np.ndarray) -> np.ndarray:
    """Flip an array (H, W) or (H, W, C); OpenCV, which is faster, drops a single channel, and takes four at most."""
    return cv2.flip(array, 1) if array.shape[2:] in ((), (3,)) else np.ascontiguousarray(array[:, ::-1])


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """See an image (C, H, W) as (H, W, C), a mask (H, W) as it is, without a copy."""
    array = tensor.numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)


def _from_numpy(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    wrapped: torch.Tensor = tv_tensors.wrap(
        tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1), like=like
    )
    return wrapped
