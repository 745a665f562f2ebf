"""Any timm model as a backbone."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones import plain_transformer as plain
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.dilated_vgg import dilate_pools, flat_name
from lightning_seg.networks.backbones.inflation import Inflate, inflate_first
from lightning_seg.networks.backbones.pyramid import SimplePyramid
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

    A plain vision transformer, whose blocks all have one resolution, gives the maps of some of its blocks, without
    class and register tokens. Its position embeddings are resampled to the size of the images by timm; where a model
    has them for one size only, so are the images that it takes.

    The constructor neither reads weights nor touches the network; `load_weights` does, so that a checkpoint
    can be evaluated where no hub can be reached.

    Args:
        name: A timm model with `features_only`, such as ``resnet50`` or ``resnet50.a1_in1k``.
        weights: True for timm's pretrained weights, False for random ones, the path of a ``.safetensors``,
            ``.pth`` or ``.ckpt`` file (``FILE#NAME`` chooses among several state dicts in it), ``package:NAME`` for a
            Python package that carries a ``.pth``, ``run:RUN`` for the network of another run, or
            ``backbone-of:RUN`` for its backbone.
        output_stride: Stride in pixels of the deepest feature map, reached by dilation: 8, 16 or 32. Plain vision
            transformers keep that of their patches.
        backbone_args: Settings of timm's for this model, such as ``drop_path_rate``, ``img_size``, ``patch_size``.
            Pretrained patch and position embeddings are resampled to them (FlexiViT, arXiv:2212.08013).
        out_indices: Of a plain vision transformer, how many last blocks are taken, or which, counted from 0; four,
            evenly spaced, unless given. Of other models, which of their maps.
        norm: Whether the norm after the last block is applied to the maps that are taken. Unless given, as the
            models' authors do: to all in DINOv2 and DINOv3, and else to the last block's where only that is taken.
        pyramid: What gives a decoder that reads several strides its maps of a plain vision transformer: `BEiTPyramid`,
            the default of semantic networks, or `ViTDetPyramid`, that of Mask R-CNN.
        in_channels: Number of channels of an image; comes from the data where the backbone is given by name.
        inflate: How pretrained filters of red, green and blue become filters of other channels, see `inflated`.

    Raises:
        UserError: If timm does not know the name, or cannot build it with these settings.

    Examples:
        >>> backbone = TimmBackbone("resnet18", weights=False, output_stride=16)
        >>> backbone.strides, [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 64))][-1]
        ([2, 4, 8, 16, 16], (1, 512, 4, 4))
    """

    def __init__(
        self,
        name: str,
        weights: bool | str = True,
        output_stride: int = 32,
        backbone_args: dict[str, Any] | None = None,
        out_indices: int | list[int] | None = None,
        norm: bool | None = None,
        pyramid: Callable[[Backbone, int, Sequence[int]], SimplePyramid] | None = None,
        in_channels: int = 3,
        inflate: Inflate = "repeat",
    ) -> None:
        config = _pretrained_config(name)
        args = dict(backbone_args or {})
        plain.check_args(name, args)
        if in_channels != 3:
            args["in_chans"] = in_channels
        blocks = plain.count_blocks(name, args)
        words = ""
        net: Any
        if blocks:
            net, strides, words = _create_plain(name, args, blocks, out_indices, norm)
            channels = net.channels
        else:
            if norm is not None:
                raise UserError(f"norm is for plain vision transformers, which {name} is not: leave it out.")
            if out_indices is not None:
                args["out_indices"] = _maps_of(name, args, out_indices)
            net = _create(name, 32 if name.startswith("vgg") else output_stride, **args)
            strides, channels = net.feature_info.reduction(), net.feature_info.channels()
            if name.startswith("vgg"):  # timm raises
                strides = dilate_pools(net, output_stride)
            if max(strides) > output_stride:
                raise UserError(
                    f"{name} cannot have an output stride of {output_stride}: its strides are {strides}. Choose "
                    "another backbone, such as resnet50, or a larger output_stride."
                )
        super().__init__(channels, strides, config.mean, config.std, in_channels)
        self.name, self.weights, self.plain = name, weights, bool(blocks)
        self.inflate = inflate
        self.pyramid = pyramid
        self.backbone_args = dict(backbone_args or {})
        self.image_size = _fixed_size(name, self.backbone_args)
        self.net = net
        self._words = words
        # Some transformers give (B, H, W, C).
        self._nhwc = str(getattr(net, "output_fmt", None)).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps (B, channels[i], H / strides[i], W / strides[i]) of normalized images."""
        if self.image_size and tuple(x.shape[-2:]) != self.image_size:
            high, wide = self.image_size
            raise UserError(
                f"{self.name} takes images of {high}x{wide} pixels only, for which its position embeddings are made, "
                f"and got {x.shape[-2]}x{x.shape[-1]}. Train with data.init_args.crop_size=[{high}, {wide}] and "
                f"evaluate with model.inference SlidingWindow of size [{high}, {wide}], or choose another size by "
                "backbone_args.img_size."
            )
        features = list(self.net(x))
        return [f.permute(0, 3, 1, 2).contiguous() for f in features] if self._nhwc else features

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the parts that make each feature map from the one before (see `Backbone.stages`).

        Those of a plain vision transformer are its embeddings, its blocks and, where it is applied, the final norm.
        """
        if self.plain:
            return plain.parts(self.net.model)
        taps = [flat_name(name) for name in self.net.feature_info.module_name()]
        stages: list[tuple[str, nn.ModuleList]] = []
        stage = nn.ModuleList()
        for name, part in _parts(self.net, taps):
            stage.append(part)
            if name in taps:
                stages.append((f"stage{len(stages)}", stage))
                stage = nn.ModuleList()
        stages[-1][1].extend(stage)  # what follows the last tap, if anything, such as a final norm
        return [(name, stage) for name, stage in stages if any(True for _ in stage.parameters())]

    def describe(self) -> str:
        """Say what is taken of the model, and how."""
        words = f"{self.name}, {self._words or f'maps of strides {self.strides}'}"
        given = ", ".join(f"{key} {value}" for key, value in self.backbone_args.items())
        return words + (f"; {given}" if given else "")

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

    def set_weights(self, state: object, source: str = "the state dict", choice: str = "") -> str:
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
        found = inflate_first(by_name(state, own), own, self.inflate)
        if not misfit(own, found)[0]:
            return found
        full = plain.full_model(self.name, self.backbone_args)
        found = inflate_first(self._by_timm_name(self._rename(state), full), own, self.inflate)
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
                patches = key.endswith("patch_embed.proj.weight") and "patch_size" in self.backbone_args
                if not (patches or key.endswith(_POSITIONS)):
                    return found
                converted.converted.append(
                    f"{key} resampled from {tuple(before.shape)} to {tuple(value.shape)}"
                )
        converted = inflate_first(converted, own, self.inflate)
        return converted if not misfit(own, converted)[0] else found

    def _rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change names that the architecture has in timm before they are looked up."""
        return state

    def _by_timm_name(self, state: dict[str, Tensor], full: nn.Module) -> Translation:
        """Find the backbone's tensors among those of the whole timm model, whose names differ in dots only."""
        own = {flat_name(key.removeprefix("net.")): key for key in plain_state(self)}
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


def is_plain(name: str) -> bool:
    """Whether a timm model is a plain vision transformer: all its blocks have one resolution."""
    _pretrained_config(name)  # raises if there is no such model
    return plain.count_blocks(name, {}) > 0


# Position embeddings, which timm interpolates for other image sizes.
_POSITIONS = ("pos_embed", "relative_position_bias_table", "rel_pos_h", "rel_pos_w")


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


def _create(name: str, output_stride: int = 32, **args: Any) -> Any:
    """Create timm's feature extractor, for images of any size where the model can."""
    import timm

    options = _size_options(name)
    if output_stride != 32:
        options = [{**option, "output_stride": output_stride} for option in options] + options
    for option in options:
        try:
            return timm.create_model(name, pretrained=False, features_only=True, **option | args)
        except TypeError as error:
            failure: Exception = error
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            failure = error
            break
    raise UserError(
        f"timm cannot make {name} a feature extractor with output stride {output_stride}: "
        f"{failure or type(failure).__name__}. Choose another backbone, such as resnet50."
    ) from failure


def _size_options(name: str) -> list[dict[str, Any]]:
    """List what makes a model take images of any size; which it has depends on its family, others are a TypeError."""
    if _pretrained_config(name).fixed_input_size:
        return [{"dynamic_img_size": True}, {"strict_img_size": False}, {}]
    return [{}]


def _create_plain(
    name: str, args: dict[str, Any], blocks: int, out_indices: int | list[int] | None, norm: bool | None
) -> tuple[plain.PlainTransformer, list[int], str]:
    """Create a plain vision transformer that gives the maps of some blocks.

    Returns:
        The network, the strides of its maps, and what is taken, in words.
    """
    import timm

    taken = plain.taken_blocks(name, blocks, out_indices)
    for option in _size_options(name):
        try:
            model = timm.create_model(name, pretrained=False, **option | args)
            break
        except TypeError:  # the settings themselves were tried before
            continue
    normed = plain.applies_norm(name, model, taken, blocks, norm)
    after = plain.final_norm(name, model)
    words = f"block{'s' if len(taken) > 1 else ''} {', '.join(map(str, taken))} of 0 to {blocks - 1}, "
    words += f"{'with' if normed else 'without'} its final {after}" if after else "which has no final norm"
    net = plain.PlainTransformer(model, taken, normed)
    return net, net.strides, f"{words}, patches of {net.strides[-1]}"


def _maps_of(name: str, args: dict[str, Any], out_indices: int | list[int]) -> list[int]:
    """Return which maps of a pyramid are taken, from how many last ones or from their numbers."""
    count = len(_create_meta(name, args).feature_info.reduction())
    chosen = list(range(count - out_indices, count)) if isinstance(out_indices, int) else out_indices
    if not chosen or sorted(set(chosen)) != chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise UserError(
            f"out_indices of {name}: expected the number of deepest maps, 1 to {count}, or a rising list of maps from "
            f"0 to {count - 1}; got {out_indices}."
        )
    return chosen


def _create_meta(name: str, args: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return _create(name, **args)


def _fixed_size(name: str, args: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width of the images that a model takes, if they are fixed."""
    if not _pretrained_config(name).fixed_input_size:
        return None
    size = args.get("img_size", _pretrained_config(name).input_size[-2:])
    fixed = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    for option in _size_options(name):
        if option == {}:
            embed = getattr(plain.full_model(name, args), "patch_embed", None)
            return fixed if getattr(embed, "strict_img_size", True) else None
        setting = option | args
        try:
            plain.full_model(name, setting)
        except UserError:  # it has no such setting
            continue
        free = setting.get("dynamic_img_size") or setting.get("strict_img_size") is False
        return None if free else fixed
    return None


def _parts(module: nn.Module, taps: list[str], prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """List the modules in order of use, opening only those that have a tap inside."""
    own = list(module.parameters(recurse=False))
    if own:  # class tokens and position embeddings belong to no child
        yield prefix, nn.ParameterList(own)
    for key, child in module.named_children():
        name = f"{prefix}.{key}" if prefix else key
        flat = flat_name(name)
        if flat not in taps and any(name in ("model", "body") or tap.startswith(f"{flat}_") for tap in taps):
            yield from _parts(child, taps, name)
        else:
            yield flat, child
