"""Networks of other libraries and of papers, used as they are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import (
    Translation,
    by_name,
    load_fitting,
    read_tree,
    split_choice,
)
from lightning_seg.networks.backbones.weights import FLAG, load_run, names_a_run
from lightning_seg.networks.base import Network, crop, resize

# Where libraries keep the backbone: smp, torchvision, transformers, mmsegmentation.
_USUAL = ("encoder", "backbone", "base_model", "model.encoder")


class Adapter(Network):
    """Any module from images to logits, such as those of segmentation-models-pytorch, torchvision or a paper.

    In a YAML it wraps the class path of the module:

        network:
          class_path: lightning_seg.networks.adapters.Adapter
          init_args:
            module:
              class_path: segmentation_models_pytorch.Unet
              init_args: {encoder_name: resnet18, encoder_weights: null, classes: 11}

    The module gets normalized images, padded to a multiple of `stride`. It returns logits (B, C, h, w) of any size, a
    dictionary with ``out`` and perhaps ``aux`` (torchvision), or an object with ``logits`` (transformers).

    Args:
        num_classes: Number of classes; the module must be made for as many.
        module: The module; it brings its pretrained weights itself, or starts from random ones.
        backbone: Name of the part of the module that fine-tuning policies freeze and slow down, such as ``encoder``, or
            names of parts from the image on. The usual names are found.
        weights: False for the module as it is, or a file of weights of the whole module under its own names.
        mean: Mean of each input channel that the module expects to be subtracted, for images in 0..1.
        std: Standard deviation of each input channel that it expects, for images in 0..1.
        stride: Images are padded, right and below, to a multiple of so many pixels.

    Raises:
        UserError: The backbone is not found.
    """

    def __init__(
        self,
        num_classes: int,
        module: nn.Module,
        backbone: str | list[str] | None = None,
        weights: bool | str = False,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        stride: int = 32,
    ) -> None:
        names = [backbone] if isinstance(backbone, str) else backbone or _usual_backbone(module)
        parts = dict(module.named_modules())
        if unknown := [name for name in names if name not in parts or not name]:
            raise UserError(f"{type(module).__name__} has no part {unknown[0]!r}. {_parts(module)}")
        original = {key: f"decoder.{key}" for key in module.state_dict()}
        for i, name in enumerate(names):
            inside = [key for key in original if key.startswith(f"{name}.")]
            original |= {key: f"backbone.parts.{i}{key.removeprefix(name)}" for key in inside}
        super().__init__(
            _Parts(names, [parts[name] for name in names], mean, std, stride), output_stride=stride
        )
        for name in names:
            _unregister(module, name)
        self.num_classes, self.weights = num_classes, weights
        self.decoder: nn.Module = module
        self.head = nn.Identity()  # the module has its own
        self._names = original

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (B, C, H, W) for images (B, 3, H, W), uint8 or float, in 0..255.

        In training, and where the module has auxiliary logits, a pair of both.

        Raises:
            UserError: The module returns something else.
        """
        height, width = images.shape[-2:]
        x = self._pad(self.backbone.normalize(images))
        logits, auxiliary = self._logits(self.decoder(x))
        whole = crop(resize(logits, x), height, width)
        if auxiliary is None or not self.training:
            return whole
        return whole, crop(resize(auxiliary, x), height, width)

    def cache_features(self, gigabytes: float) -> None:
        """Refuse to cache features: the module does not show them.

        Raises:
            UserError: More than 0 GB are asked for.
        """
        if gigabytes:
            raise UserError("Adapter cannot cache the features of a foreign module: leave cache_gb away.")

    def load_weights(self, find_checkpoint: Any = Path) -> str:
        """Load the weights of the whole module.

        Returns:
            What was loaded, in words.

        Raises:
            UserError: They cannot be read or do not fit; the network is as it was.
        """
        if not isinstance(self.weights, str):
            return f"as {type(self.decoder).__name__} was made"
        if names_a_run(self.weights):
            return load_run(self, self.weights, find_checkpoint)
        file, choice = split_choice(self.weights)
        name = type(self.decoder).__name__
        return load_fitting(self, read_tree(file, FLAG), str(file), name, self._translate, choice)

    def _translate(self, state: dict[str, Tensor]) -> Translation:
        found = by_name({self._names.get(key, key): value for key, value in state.items()}, self.state_dict())
        return replace(found, foreign=found.foreign + found.left_out, left_out=[])

    def _logits(self, found: Any) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        if isinstance(found, Mapping) and "out" in found:
            found, auxiliary = found["out"], found.get("aux")
        found = getattr(found, "logits", found)
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] != self.num_classes:
            given = f"{tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"{type(self.decoder).__name__} must return logits (B, {self.num_classes}, h, w), for the"
                f" {self.num_classes} classes of the data, and returned {given}. Give it that number of classes."
            )
        return found, auxiliary


class _Parts(Backbone):
    """The parts of a module that make up its backbone; they are called where they stand in the module."""

    def __init__(
        self,
        names: list[str],
        parts: list[nn.Module],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        stride: int,
    ) -> None:
        super().__init__([], [stride], mean, std)
        self.names = names
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        raise UserError("Adapter does not know the feature maps of a foreign module.")

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        if len(self.names) > 1:
            return [(name, nn.ModuleList([part])) for name, part in zip(self.names, self.parts, strict=True)]
        whole = self.parts[0]
        while len(children := _with_parameters(whole)) == 1 and not [*whole.parameters(recurse=False)]:
            whole = next(iter(children.values()))
        stages = [(name, nn.ModuleList([child])) for name, child in children.items()]
        own = nn.ParameterList(whole.parameters(recurse=False))  # class tokens and position embeddings
        if not stages:
            return [("stage0", nn.ModuleList([whole]))]
        if len(own):
            stages[0][1].insert(0, own)
        return stages


def _with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}


def _usual_backbone(module: nn.Module) -> list[str]:
    known = dict(module.named_modules())
    found = [name for name in _USUAL if name in known and any(True for _ in known[name].parameters())]
    if not found:
        raise UserError(
            f"{type(module).__name__} has no part of a usual name for a backbone. {_parts(module)}"
        )
    return found[:1]


def _parts(module: nn.Module) -> str:
    names = ", ".join(_with_parameters(module))
    return (
        f"Name it in backbone; the parts of the module are {names}. A list names several, from the image on."
    )


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
