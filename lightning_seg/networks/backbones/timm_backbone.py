"""Any timm model as a backbone."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import (
    Translation,
    by_name,
    load_fitting,
    misfit,
    plain_state,
)
from lightning_seg.networks.backbones.weights import read_weights


class TimmBackbone(Backbone):
    """A timm model as a feature extractor.

    A plain vision transformer, whose blocks all have one resolution, gives the maps of four, evenly spaced.

    The constructor neither reads weights nor touches the network; `load_weights` does, so that a checkpoint
    can be evaluated where no hub can be reached.

    Args:
        name: A timm model with `features_only`, such as ``resnet50`` or ``resnet50.a1_in1k``.
        weights: True for timm's pretrained weights, False for random ones, the path of a ``.safetensors``,
            ``.pth`` or ``.ckpt`` file (``FILE#NAME`` chooses among several state dicts in it), ``package:NAME`` for a
            Python package that carries a ``.pth``, ``run:RUN`` for the network of another run, or
            ``backbone-of:RUN`` for its backbone.
        output_stride: Stride in pixels of the deepest feature map, reached by dilation: 8, 16 or 32.

    Raises:
        UserError: If timm does not know the name, or cannot build it with this output stride.
    """

    def __init__(self, name: str, weights: bool | str = True, output_stride: int = 32) -> None:
        config = _pretrained_config(name)
        net = _create(name, 32 if name.startswith("vgg") else output_stride)
        strides = net.feature_info.reduction()
        if name.startswith("vgg"):  # timm raises
            strides = _dilate_pools(net, output_stride)
        if len(strides) > 1 and len(set(strides)) == 1:
            blocks = _count_blocks(name)
            net = _create(name, out_indices=[blocks * i // 4 - 1 for i in range(1, 5)])
            strides = net.feature_info.reduction()
        if max(strides) > output_stride:
            raise UserError(
                f"{name} cannot have an output stride of {output_stride}: its strides are {strides}. Choose "
                "another backbone, such as resnet50, or a larger output_stride."
            )
        super().__init__(net.feature_info.channels(), strides, config.mean, config.std)
        self.name, self.weights = name, weights
        self.net: Any = net
        # Some transformers give (B, H, W, C).
        self._nhwc = str(getattr(net, "output_fmt", None)).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps (B, channels[i], H / strides[i], W / strides[i]) of normalized images."""
        features = list(self.net(x))
        return [f.permute(0, 3, 1, 2).contiguous() for f in features] if self._nhwc else features

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the parts that make each feature map from the one before (see `Backbone.stages`)."""
        taps = [_flat(name) for name in self.net.feature_info.module_name()]
        stages: list[tuple[str, nn.ModuleList]] = []
        stage = nn.ModuleList()
        for name, part in _parts(self.net, taps):
            stage.append(part)
            if name in taps:
                stages.append((f"stage{len(stages)}", stage))
                stage = nn.ModuleList()
        stages[-1][1].extend(stage)  # what follows the last tap, if anything, such as a final norm
        return [(name, stage) for name, stage in stages if any(True for _ in stage.parameters())]

    def checkpoint_gradients(self) -> None:
        """Turn on gradient checkpointing (see `Backbone`).

        BatchNorm inside the backbone then sees every batch twice, and its running statistics move twice as far.
        """
        try:
            getattr(self.net, "model", self.net).set_grad_checkpointing(True)  # transformers are wrapped
        except (AttributeError, AssertionError):
            super().checkpoint_gradients()

    def load_weights(self) -> str:
        """Load the pretrained weights named in the constructor; those of a run are the network's to load.

        Returns:
            What was loaded, in words.

        Raises:
            UserError: If they cannot be found, or are not this backbone's.
        """
        if self.weights is False:
            return super().load_weights()
        return self.set_weights(*read_weights(self.name, self.weights))

    def set_weights(self, state: Mapping[str, Any], source: str = "the state dict", choice: str = "") -> str:
        """Load a state dict with the names of timm, of a publisher that timm knows, or of one of our checkpoints.

        Args:
            state: The state dict, perhaps inside other dictionaries.
            source: Where it is from, for messages.
            choice: Which of several to take (see `load_fitting`).

        Returns:
            What was loaded, in words.

        Raises:
            UserError: If tensors are missing, left over or have other shapes; the backbone is as it was.
        """
        return "backbone " + load_fitting(self, state, source, self.name, self._translate, choice)

    def _translate(self, state: dict[str, Tensor]) -> Translation:
        """Find the backbone's tensors in a state dict: by its own names, by timm's, by those timm can convert."""
        own = plain_state(self)
        found = by_name(state, own)
        if not misfit(own, found)[0]:
            return found
        full = _full_model(self.name)
        found = self._by_timm_name(self._rename(state), full)
        convert = getattr(sys.modules[type(full).__module__], "checkpoint_filter_fn", None)
        if convert is None or not misfit(own, found)[0]:
            return found
        try:
            with _quiet("timm"):
                converted = self._by_timm_name(self._rename(convert(dict(state), full)), full)
        except Exception:  # it expects the names of certain publishers
            return found
        for key, value in converted.tensors.items():
            before = state.get(key.removeprefix("net.").removeprefix("model."))
            if before is not None and before.shape != value.shape:
                if not key.endswith(
                    "pos_embed"
                ):  # position embeddings are interpolated for other image sizes
                    return found
                converted.converted.append(
                    f"{key} resampled from {tuple(before.shape)} to {tuple(value.shape)}"
                )
        return converted if not misfit(own, converted)[0] else found

    def _rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change names that the architecture has in timm before they are looked up."""
        return state

    def _by_timm_name(self, state: dict[str, Tensor], full: nn.Module) -> Translation:
        """Find the backbone's tensors among those of the whole timm model, whose names differ in dots only."""
        own = {_flat(key.removeprefix("net.")): key for key in plain_state(self)}
        known = {key.replace(".", "_") for key in full.state_dict()}
        tops = tuple({f"{key.split('.')[0]}_" for key in full.state_dict() if key.replace(".", "_") in own})
        found = Translation({})
        for key, value in state.items():
            flat = key.replace(".", "_")
            if flat in own and own[flat] not in found.tensors:
                found.tensors[own[flat]] = value
            elif flat in own or (flat not in known and flat.startswith(tops) and not key.endswith(_DERIVED)):
                found.foreign.append(key)
            else:
                found.left_out.append(key)
        return found


# What some versions keep in the state dict although it follows from the architecture.
_DERIVED = ("relative_position_index", "attn_mask", "relative_coords_table", "num_batches_tracked")


@lru_cache(maxsize=4)
def _full_model(name: str) -> nn.Module:
    """Return timm's whole model without storage: names and shapes, and what timm's conversions ask of it."""
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, pretrained=False)
    return model


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Hold back a logger's warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pretrained_config(name: str) -> Any:
    """Return timm's description of a model, or say which names come close."""
    import difflib

    import timm

    from lightning_seg.networks.backbones import alexnet  # noqa: F401  (makes it known to timm)

    if not timm.is_model(name):
        known = timm.list_models()
        close = difflib.get_close_matches(name.split(".")[0], known, n=5, cutoff=0.5)
        raise UserError(
            f"Expected the name of a timm model, got {name!r}. "
            + (f"Did you mean {', '.join(close)}? " if close else "")
            + f"All names: python -c \"import timm; print(timm.list_models('*{name[:5]}*'))\""
        )
    architecture, _, tag = name.partition(".")
    tags = [n.partition(".")[2] for n in timm.list_models(architecture, pretrained=True, include_tags=True)]
    if tag and tag not in tags:
        raise UserError(f"{architecture} has no pretrained tag {tag!r}. It has: {', '.join(tags) or 'none'}.")
    return timm.get_pretrained_cfg(name)


def _create(name: str, output_stride: int = 32, **kwargs: Any) -> Any:
    """Create timm's feature extractor, for images of any size."""
    import timm

    # Which of these arguments a model has depends on its family; one that it has not is a TypeError.
    options: list[dict[str, Any]] = [{}]
    if _pretrained_config(name).fixed_input_size:
        options = [{"dynamic_img_size": True}, {"strict_img_size": False}]
    if output_stride != 32:
        options = [{**option, "output_stride": output_stride} for option in options] + options
    for option in options:
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **kwargs, **option)
        except TypeError as error:
            failure: Exception = error
        except (AssertionError, AttributeError, NotImplementedError, RuntimeError) as error:
            failure = error
            break
    raise UserError(
        f"timm cannot make {name} a feature extractor for any image size with output stride {output_stride}: "
        f"{failure or type(failure).__name__}. Choose another backbone, such as resnet50."
    ) from failure


def _count_blocks(name: str) -> int:
    full: Any = _full_model(name)
    return len(full.feature_info)


def _flat(name: str) -> str:
    """Name a module as timm's feature extractors do: ``layers.0`` flattened to ``layers_0``, or wrapped."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _parts(module: nn.Module, taps: list[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """List the modules in order of use, opening only those that have a tap inside."""
    own = list(module.parameters(recurse=False))
    if own:  # class tokens and position embeddings belong to no child
        yield prefix, nn.ParameterList(own)
    for key, child in module.named_children():
        name = f"{prefix}.{key}" if prefix else key
        flat = _flat(name)
        if flat not in taps and any(name in ("model", "body") or tap.startswith(f"{flat}_") for tap in taps):
            yield from _parts(child, taps, name)
        else:
            yield flat, child


class DensePool(nn.MaxPool2d):
    """A 2x2 max pooling that keeps the resolution: every second value is what the strided one gives."""

    def __init__(self, dilation: int) -> None:
        super().__init__(2, stride=1, dilation=dilation)
        self.pad = (0, dilation, 0, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Pool maps (B, C, H, W) of values that are not negative."""
        out: Tensor = super().forward(F.pad(x, self.pad))  # zeros change nothing after a ReLU
        return out


def _dilate_pools(net: Any, output_stride: int) -> list[int]:
    """Give a VGG a smaller output stride: its last pools lose their stride, and what follows is dilated.

    The feature maps then hold those of the strided network at every second (or fourth) position (the "hole
    algorithm" of DeepLab, arXiv:1412.7062), so pretrained weights keep their meaning.

    Returns:
        The stride of each feature map.
    """
    stride, dilation, strides = 1, 1, []
    for name, module in net.named_children():
        if isinstance(module, nn.MaxPool2d):
            if stride < output_stride:
                stride *= 2
            else:
                setattr(net, name, DensePool(dilation))
                dilation *= 2
        elif isinstance(module, nn.Conv2d):
            module.dilation = module.padding = (dilation, dilation)
        if _flat(name) in [_flat(tap) for tap in net.feature_info.module_name()]:
            strides.append(stride)
    return strides
