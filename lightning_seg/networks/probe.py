"""What a module does with images, found by showing it some: which sizes it takes, which parts follow one another."""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError

# Images are padded to a multiple of the first of these that is enough; the last ones are those of fixed sizes.
_STRIDES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 224, 256, 320, 384, 448, 512)
_LEAST = 128  # side of the images that are shown, in pixels
_MOST_EXTRA = 8


@dataclass(frozen=True)
class Seen:
    """What was found.

    Attributes:
        stride: Images must be padded to a multiple of so many pixels.
        size: Height and width of the image, in pixels.
        output: What the module returned for it.
        least: The smallest side that was taken, in pixels.
        square: Whether it takes only images as wide as high.
        order: The modules in the order in which they were first called, by name.
        strides: For those that returned a map (B, C, h, w), or tokens (B, N, C) of one: pixels of the image in a cell.
        channels: Likewise C.
        unused: Names of parameters that have no part in the output, in training either.
    """

    stride: int
    size: tuple[int, int]
    output: object = None
    least: int = 1
    square: bool = False
    order: list[str] = field(default_factory=list)
    strides: dict[str, int] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def last_of_each_stride(self, wanted: Callable[[str], bool]) -> dict[int, str]:
        """Return the last modules to return a map of each stride, the finest first."""
        names = {self.strides[name]: name for name in self.strides if wanted(name)}
        return dict(sorted(names.items()))

    def first(self, name: str) -> int:
        """Return when a module, or the first one within it, was called; those come last that never were."""
        inside = (i for i, key in enumerate(self.order) if f"{key}.".startswith(f"{name}."))
        return next(inside, len(self.order))


def probe(module: nn.Module, channels: int, stride: int | None = None) -> Seen:
    """Show images to a copy of a module.

    Args:
        module: Maps normalized images (B, C, H, W) to logits, in one of the forms that `tensors` knows.
        channels: C.
        stride: What to pad to, if it is known.

    Raises:
        UserError: It takes images of none of the sizes.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        copied = copy.deepcopy(module).cpu().float().eval()
        reasons = []
        for square, by in itertools.product((False, True), (stride,) if stride else _STRIDES):
            side = by if by > _LEAST else _LEAST + by if by < _LEAST else 2 * by
            images = torch.randn(1, channels, side, side if square else side + 2 * by)
            seen = Seen(by, (side, images.shape[-1]), square=square)
            handles = [*_watch(copied, seen)]
            try:
                with torch.no_grad():
                    output = copied(images)
            except Exception as error:  # of any kind
                text = " ".join(str(error).split())[:200]
                reasons.append(f"{side}x{images.shape[-1]}: {type(error).__name__}: {text}")
                continue
            finally:
                for handle in handles:
                    handle.remove()
            # A network that drops rows which do not fill a cell would answer for a smaller image.
            if stride or all(_divides(map_.shape, images.shape) for map_ in tensors(output)):
                least = _least(copied, by, images[..., :side])
                small = max(least, by * -(-64 // by))
                unused = _unused(copied.train(), images[..., :small, :small])
                return replace(seen, output=output, least=least, unused=unused)
            reasons.append(f"{side}x{images.shape[-1]}: its logits are no whole fraction of that")
        name = type(module).__name__
        raise UserError(
            f"{name} takes images of none of the sizes that were tried.\n  " + "\n  ".join(reasons[-3:])
        )


def tensors(output: object) -> list[Tensor]:
    """Return the maps (B, C, h, w) in what a network returns: the logits, then those for further losses in training.

    Known are a tensor, a list or tuple of them, a dictionary with ``out`` and perhaps ``aux`` (torchvision), one with a
    single map, and an object with ``logits`` (transformers).
    """
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        output = logits
    elif isinstance(output, dict):
        output = [output["out"], output.get("aux")] if "out" in output else list(output.values())[:2]
        output = output if output[1:] != [None] else output[:1]
    found = (
        [output] if isinstance(output, Tensor) else list(output) if isinstance(output, list | tuple) else []
    )
    return [part for part in found if isinstance(part, Tensor) and part.ndim == 4]


def _watch(module: nn.Module, seen: Seen) -> Iterator[torch.utils.hooks.RemovableHandle]:
    for name, part in module.named_modules():

        def enter(part: nn.Module, args: object, name: str = name) -> None:
            if name not in seen.order:
                seen.order.append(name)

        def leave(part: nn.Module, args: object, output: object, name: str = name) -> None:
            if isinstance(output, tuple) and output:
                output = output[0]
            maps = [
                as_map(output, [_cells(length, by) for length in seen.size])
                for by in {*seen.strides.values(), 1}
            ]
            map_ = next((one for one in maps if one is not None), None)
            if (
                map_ is None or len(map_) != 1 or not 2 <= map_.shape[-2] <= seen.size[0]
            ):  # pooled to nothing, or none
                return
            if stride := _stride(seen.size, map_.shape[-2:], {*seen.strides.values()}):
                seen.strides[name] = stride
                seen.channels[name] = map_.shape[1]

        yield part.register_forward_pre_hook(enter)
        yield part.register_forward_hook(leave)


def as_map(output: object, sides: Sequence[int]) -> Tensor | None:
    """Return a map (B, C, h, w) as it is, and tokens (B, N, C) as a map; None for anything else.

    Args:
        output: What a module returned.
        sides: h and w of the map that tokens were made of.
    """
    if isinstance(output, Tensor) and output.ndim == 4:
        return output
    if not isinstance(output, Tensor) or output.ndim != 3:
        return None
    height, width = sides
    extra = output.shape[1] - height * width  # class token and registers, which come first
    if not 0 <= extra <= _MOST_EXTRA:
        return None
    map_: Tensor = output[:, extra:].transpose(1, 2).unflatten(2, (height, width))
    return map_


def _divides(maps: torch.Size, images: torch.Size) -> bool:
    return all(m and length % m == 0 for m, length in zip(maps[-2:], images[-2:], strict=True))


def _cells(length: int, stride: int) -> int:
    return -(-length // stride)


def _stride(size: Sequence[int], cells: Sequence[int], before: set[int]) -> int | None:
    """Return the pixels in a cell of a map: a power of two, or seven times one, as of some vision transformers."""
    sevens: tuple[int, ...] = () if before & {2, 4, 8, 16, 32} else (7, 14, 28)
    for stride in (1 << max(0, round(math.log2(size[0] / cells[0]))), *sevens):
        if all(c in (n // stride, _cells(n, stride)) for n, c in zip(size, cells, strict=True)):
            return stride
    return None


def _takes(module: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            module(images)
        return True
    except Exception:  # of any kind
        return False


def _least(module: nn.Module, stride: int, images: Tensor) -> int:
    """Find the smallest side of an image that the module takes, of some."""
    side = stride * -(-32 // stride)
    while side < images.shape[-1] and not _takes(module, images[..., :side, :side]):
        side *= 2
    return min(side, images.shape[-1]) if side > 32 else 1


def _unused(module: nn.Module, images: Tensor) -> list[str]:
    """Find the parameters without a gradient in training; none if the module cannot be trained on these images."""
    try:
        maps = tensors(module(images.expand(2, -1, -1, -1)))
        torch.stack([map_.float().square().mean() for map_ in maps]).sum().backward()
    except Exception:  # its training will show it
        return []
    wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return [name for name, parameter in wanted.items() if parameter.grad is None]


def units(part: nn.Module, name: str, seen: Seen) -> list[str]:
    """Divide a part of a module into those that follow one another, from the image on.

    What works at several strides is divided further, and so is a list, such as that of a vision transformer's blocks.

    Args:
        part: The part.
        name: Its name in the module.
        seen: What `probe` saw.

    Returns:
        Names within the part; one that ends with ``*`` is of the parameters alone that a part has beside its own parts.
    """
    found = [(seen.first(name), "*")] if any(True for _ in part.parameters(recurse=False)) else []
    _divide(part, name, "", seen, found)
    return [unit for _, unit in sorted(found, key=lambda pair: pair[0])]


def _divide(part: nn.Module, whole: str, within: str, seen: Seen, found: list[tuple[int, str]]) -> None:
    children = _with_parameters(part)
    for key, child in children.items():
        inner = _with_parameters(child)
        name = f"{within}{key}"
        full = f"{whole}.{name}"
        strides = {seen.strides[f"{full}.{i}"] for i in inner if f"{full}.{i}" in seen.strides}
        lists = [c for c in inner.values() if isinstance(c, nn.ModuleList) and len(c) > 1]
        several = len(strides) > 0 and max(strides) >= 4 * min(
            strides
        )  # more than a stage and the one before it
        if inner and (len(children) == 1 or full not in seen.order or several or len(lists) == len(inner)):
            if any(True for _ in child.parameters(recurse=False)):
                found.append((seen.first(full), f"{name}.*"))
            _divide(child, whole, f"{name}.", seen, found)
        else:
            found.append((seen.first(full), name))


def _with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
