"""Networks of other libraries and of papers, used as they are."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.data.pixels import for_bands
from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import (
    Translation,
    by_name,
    load_fitting,
    read_tree,
    split_choice,
)
from lightning_seg.networks.backbones.weights import FLAG, load_weights_of_run, names_a_run
from lightning_seg.networks.base import BackboneNetwork, Network, crop, resize
from lightning_seg.networks.foreign import IMAGENET, Mean, build, normalization
from lightning_seg.networks.probe import Seen, as_map, probe, tensors, units

# Where libraries and papers keep the backbone; models of transformers say it themselves.
_USUAL = ("encoder", "backbone", "base_model", "model.encoder", "model.backbone")


class Adapter(Network):
    """Any module from images to logits, such as those of segmentation-models-pytorch, torchvision or a paper.

    A YAML names the module itself, and beside it what else there is to say:

        network:
          class_path: segmentation_models_pytorch.Unet
          init_args: {encoder_name: resnet18, encoder_weights: null}
          backbone: encoder

    The module gets normalized images, padded to a size that it takes. It returns logits (B, C, h, w) of any size; a
    list of them, a dictionary with ``out`` and perhaps ``aux`` (torchvision), or an object with ``logits``
    (transformers). What comes after the first is for further losses in training.

    Args:
        num_classes: Number of classes; handed to the module, too, if it is given by its class path.
        module: The module, or its class path.
        arguments: Those of a module that is given by its class path; the number of classes may be left out.
        backbone: Name of the part of the module that fine-tuning policies freeze and slow down, such as ``encoder``, or
            names of parts from the image on. The usual names are found; a module without any has no backbone.
        weights: False for the module as it is, a file of weights of the whole module under its own names, or
            ``run:RUN``.
        mean: Mean of each input channel that the module expects to be subtracted, for images in 0..1. Unless given that
            of an encoder of smp, or ImageNet's.
        std: Standard deviation of each input channel that it expects, likewise.
        stride: Images are padded, right and below, to a multiple of so many pixels. Unless given the smallest that the
            module takes.
        in_channels: Number of channels of an image; comes from the data, and is handed to the module, too.

    Raises:
        UserError: The module or its backbone is not found, or it gives no logits of so many classes.

    Examples:
        >>> module = torch.nn.Conv2d(3, 2, 3, padding=1)
        >>> network = Adapter(num_classes=2, module=module, stride=1)
        >>> network(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        num_classes: int,
        module: str | nn.Module,
        arguments: dict[str, Any] | None = None,
        backbone: str | list[str] | None = None,
        weights: bool | str = False,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        stride: int | None = None,
        in_channels: int = 3,
    ) -> None:
        usual = (
            IMAGENET
            if not isinstance(module, str) or mean and std
            else normalization(module, arguments or {})
        )
        if isinstance(module, str):
            module = build(module, arguments or {}, num_classes, in_channels)
        elif arguments:
            raise UserError("Adapter: arguments are those of a module that is given by its class path.")
        subtracted, scale = (for_bands(values, in_channels) for values in (mean or usual[0], std or usual[1]))
        names = [backbone] if isinstance(backbone, str) else backbone or _usual_backbone(module)
        parts = dict(module.named_modules())
        if unknown := [name for name in names if name not in parts or not name]:
            raise UserError(f"{type(module).__name__} has no part {unknown[0]!r}. {_parts(module)}")
        seen = probe(module, in_channels, stride)
        _check_output(module, seen, num_classes)
        original = {key: f"decoder.{key}" for key in module.state_dict()}
        for i, name in enumerate(names):
            inside = [key for key in original if key.startswith(f"{name}.")]
            original |= {key: f"backbone.parts.{i}{key.removeprefix(name)}" for key in inside}
        whole = _Parts(names, [parts[name] for name in names], subtracted, scale, seen)
        super().__init__(whole, output_stride=max(whole.strides), in_channels=in_channels)
        for name in names:
            _unregister(module, name)
        self.stride, self._least, self._square = seen.stride, seen.least, seen.square
        self.num_classes, self.weights = num_classes, weights
        self.decoder: nn.Module = module
        self.head = nn.Identity()  # the module has its own
        self._names = original
        own = dict(self.named_parameters())
        for name in seen.unused:
            own[original[name]].requires_grad_(False)
        self._said = _describe(module, names, not backbone, seen, subtracted, scale)
        self._maps = seen.last_of_each_stride(bool)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return logits (B, classes, H, W) for images (B, C, H, W), of any type, with the values of their files.

        In training, and where the module has auxiliary logits, these after the logits in a tuple.

        Raises:
            UserError: The module returns something else.
        """
        height, width = images.shape[-2:]
        x = self._pad(self.backbone.normalize(images))
        logits, *auxiliary = tensors(self.decoder(x))
        whole = crop(resize(logits, x), height, width)
        fitting = [a for a in auxiliary if a.shape[1] == self.num_classes] if self.training else []
        return (whole, *(crop(resize(a, x), height, width) for a in fitting)) if fitting else whole

    @property
    def title(self) -> str:
        """The name of the module's class."""
        return type(self.decoder).__name__

    def describe(self) -> str:
        """Say what the module is given, and what its backbone is."""
        return self._said

    cache_features = BackboneNetwork.cache_features  # the module computes them itself

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return the last map of each stride of the backbone, or of a module without one, and the logits."""
        kept: dict[str, Tensor | None] = {}
        x = self._pad(self.backbone.normalize(images))

        def keep(title: str, stride: int) -> Callable[[nn.Module, object, object], None]:
            sides = [-(-length // stride) for length in x.shape[-2:]]
            return lambda module, args, output: kept.update({title: as_map(output, sides)})

        parts = self.backbone
        assert isinstance(parts, _Parts)  # as the constructor made it
        taps = [(f"backbone, stride {s}", parts.part(name), s) for s, name in parts.taps.items()]
        if not taps:
            taps = [(f"stride {s}", self.decoder.get_submodule(name), s) for s, name in self._maps.items()]
        handles = [module.register_forward_hook(keep(title, stride)) for title, module, stride in taps]
        try:
            logits = tensors(self.decoder(x))[0]
        finally:
            for handle in handles:
                handle.remove()
        return {title: map_ for title, map_ in kept.items() if map_ is not None} | {"logits": logits}

    def load_weights(self, find_checkpoint: Callable[[str], Path] = Path) -> str:
        """Load the weights of the whole module.

        Returns:
            What was loaded, in words.

        Raises:
            UserError: They cannot be read or do not fit; the network is as it was.
        """
        if not isinstance(self.weights, str):
            return f"as {self.title} was made"
        if names_a_run(self.weights):
            return load_weights_of_run(self, self.weights, find_checkpoint)
        file, choice = split_choice(self.weights)
        return load_fitting(self, read_tree(file, FLAG), str(file), self.title, self._translate, choice)

    def _pad(self, x: Tensor) -> Tensor:
        x = super()._pad(x)
        if self._least == 1 and not self._square:  # the size may stay free in exports
            return x
        height, width = (max(self._least, length) for length in x.shape[-2:])
        if self._square:
            height = width = max(height, width)
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    def _translate(self, state: dict[str, Tensor]) -> Translation:
        own = self.state_dict()
        found = by_name({self._names.get(key, key): value for key, value in state.items()}, own)
        for key, value in found.tensors.items():  # the last layer, for other classes
            here = own[key]
            if (
                here.shape != value.shape
                and here.shape[1:] == value.shape[1:]
                and len(here) == self.num_classes
            ):
                found.tensors[key] = here
                found.converted.append(f"{key} at random, as it is of {len(value)} classes there")
        return replace(found, foreign=found.foreign + found.left_out, left_out=[])


class _Parts(Backbone):
    """The parts of a module that make up its backbone; they are called where they stand in the module."""

    def __init__(
        self,
        names: list[str],
        parts: list[nn.Module],
        mean: Mean,
        std: Mean,
        seen: Seen,
    ) -> None:
        inside = tuple(f"{name}." for name in names)
        taps = seen.last_of_each_stride(lambda name: name in names or name.startswith(inside))
        channels = [seen.channels[n] for n in taps.values()]
        super().__init__(channels, [*taps] or [seen.stride], mean, std, len(mean))
        self.names = names
        self.name = " + ".join(names) or "no backbone"
        self.parts = nn.ModuleList(parts)
        self.taps = taps
        # As names, not modules: layers may be replaced, as by SyncBatchNorm.
        self._units = [(i, "") for i in range(len(parts))]
        if len(parts) == 1:
            self._units = [(0, unit) for unit in units(parts[0], names[0], seen)]

    def forward(self, x: Tensor) -> list[Tensor]:
        raise UserError("The backbone of a foreign module is called by that module alone.")

    def part(self, name: str) -> nn.Module:
        """Return a part of the backbone by its name in the module."""
        i = next(i for i, n in enumerate(self.names) if f"{name}.".startswith(f"{n}."))
        return self.parts[i].get_submodule(name.removeprefix(self.names[i]).removeprefix("."))

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        stages: list[tuple[str, nn.ModuleList]] = []
        for i, name in self._units:
            place, star, _ = name.partition("*")
            unit = self.parts[i].get_submodule(place.removesuffix("."))
            if star:  # its own parameters only, such as class tokens and position embeddings
                unit = nn.ParameterList(unit.parameters(recurse=False))
            # A single layer, such as a norm, belongs to what is before it; so does all that follows such parameters.
            before = [*stages[-1][1]] if stages else []
            layer = not any(True for _ in unit.children())
            if stages and (layer or all(isinstance(one, nn.ParameterList) for one in before)):
                stages[-1][1].append(unit)
            else:
                stages.append((place.removesuffix(".") or self.names[i], nn.ModuleList([unit])))
        return stages


def _check_output(module: nn.Module, seen: Seen, num_classes: int) -> None:
    found = tensors(seen.output)
    if not found or found[0].shape[1] != num_classes:
        given = f"{tuple(found[0].shape)}" if found else type(seen.output).__name__
        raise UserError(
            f"{type(module).__name__} must return logits (B, {num_classes}, h, w), for the {num_classes} classes of the"
            f" data, and returned {given}. Give it that number of classes in init_args."
        )


def _describe(module: nn.Module, names: list[str], found: bool, seen: Seen, mean: Mean, std: Mean) -> str:
    name = type(module).__name__
    part = f"{' + '.join(names)}{' (found)' * found} of {name}" if names else f"none is known in {name}"
    padded = f"padded to multiples of {seen.stride}" if seen.stride > 1 else "of any size"
    padded += f", at least {seen.least}" if seen.least > seen.stride else ""
    padded += ", to squares" if seen.square else ""
    values = [", ".join(f"{value:g}" for value in values) for values in (mean, std)]
    words = f"{part}; images less ({values[0]}) by ({values[1]}), {padded}"
    if seen.unused:
        more = f" and {len(seen.unused) - 1} more" if len(seen.unused) > 1 else ""
        words += f"; {seen.unused[0]}{more} have no part in the logits and do not train"
    return words


def _usual_backbone(module: nn.Module) -> list[str]:
    stated = getattr(module, "base_model_prefix", "")  # transformers
    known = {name: part for name, part in module.named_modules() if any(True for _ in part.parameters())}
    return [name for name in (stated, *_USUAL) if name and name in known][:1]


def _parts(module: nn.Module) -> str:
    names = [name for name, part in module.named_children() if any(True for _ in part.parameters())]
    return f"Name it in backbone; the parts of the module are {', '.join(names)}. A list names several."


def _unregister(module: nn.Module, name: str) -> None:
    """Let a module call a part as before, but count it as somebody else's: of the backbone, and of it alone."""
    parent, _, attribute = name.rpartition(".")
    holder = module.get_submodule(parent)
    if isinstance(holder, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise UserError(
            f"{name} is an item of a {type(holder).__name__} and cannot be the backbone: name {parent}."
        )
    part = getattr(holder, attribute)
    delattr(holder, attribute)
    object.__setattr__(holder, attribute, part)  # in the instance, not among its modules
