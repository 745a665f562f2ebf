"""Weights of whole networks as torchvision, segmentation-models-pytorch and mmsegmentation save them.

An architecture says in `LibraryLayouts` how a library names its decoder and head; where it does not, or the library's
architecture differs, the error says so.
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.tensor_file import by_name, misfit, nested_states
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone

# Prefix of the backbone, and of a part that shows that the file is of a whole network.
_LIBRARIES = {
    "smp": ("encoder.", "segmentation_head."),
    "torchvision": ("backbone.", "classifier."),
    "mmsegmentation": ("backbone.", "decode_head."),
}
_WRAPPERS = ("module.", "model.", "network.")
# What mmsegmentation calls the three convolutions in place of the first one (ResNetV1c, timm's resnet50c).
_STEM = {r"^stem\.([0-6])\.": r"conv1.\1.", r"^stem\.7\.": "bn1."}


class LibraryLayouts(nn.Module):
    """A network that knows how libraries save the like of it.

    Attributes:
        layouts: How libraries name what is here in `decoder`, `head` and `auxiliary`: patterns and names.
        strides_of: The output stride of a library's network of the same architecture.
        differs: Why a library's network is another architecture, in words.
    """

    backbone: Backbone
    layouts: ClassVar[Mapping[str, Mapping[str, str]]] = {"smp": {r"^segmentation_head\.": "head."}}
    strides_of: ClassVar[Mapping[str, int]] = {}
    differs: ClassVar[Mapping[str, str]] = {}


def load_whole(network: LibraryLayouts, tree: object, source: str) -> str | None:
    """Load a whole network in a library's layout: backbone, decoder, and the head if it has as many classes.

    Args:
        network: The network.
        tree: What the file holds.
        source: Its name, for messages.

    Returns:
        What was loaded, in words; None if the file holds no whole network of such a layout.

    Raises:
        UserError: It holds another architecture; the network is as it was.
    """
    found = next(_found(tree), None)
    if found is None:
        return None
    library, state = found
    kind, prefix = type(network).__name__, _LIBRARIES[library][0]
    alone = f"Its backbone alone: {source}#{prefix.removesuffix('.')}"
    if why := network.differs.get(library):
        raise UserError(
            f"{source} holds a network in the layout of {library}, whose {kind} differs: {why}. {alone}; or take that"
            " library's class as it is, with `weights` beside its class_path."
        )
    rules = network.layouts.get(library)
    if rules is None:
        raise UserError(
            f"{source} holds a network in the layout of {library}, which has none like {kind}. {alone}"
        )
    stride = network.strides_of.get(library)
    if stride is not None and network.backbone.strides[-1] != stride:
        raise UserError(
            f"{source} is of {library}, whose {kind} has an output stride of {stride}, and this one has"
            f" {network.backbone.strides[-1]}: set output_stride: {stride} for the same logits. {alone}"
        )
    rest = {_renamed(key, rules): value for key, value in state.items() if not key.startswith(prefix)}
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("backbone.")}
    taken: dict[str, Tensor] = {}
    words = []
    for part in dict.fromkeys(key.split(".")[0] for key in own):
        ours, theirs = (
            {k: v for k, v in tensors.items() if k.startswith(f"{part}.")} for tensors in (own, rest)
        )
        why, _ = misfit(ours, by_name(theirs, ours))
        if not why:
            taken |= theirs
            words.append(f"{part} {len(theirs)} tensors")
        elif part == "decoder":
            raise UserError(f"{source} ({library}) is not the {kind} of these settings: {why}. {alone}")
        else:
            words.append(f"{part} at random ({why})")
    left = sorted({key.split(".")[0] for key in rest} - {key.split(".")[0] for key in own})
    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not isinstance(network.backbone, TimmBackbone):
        raise UserError(
            f"{source} ({library}) is for a backbone of timm, not {type(network.backbone).__name__}."
        )
    loaded = network.backbone.set_weights({_renamed(k, _STEM): v for k, v in inner.items()}, source)
    network.load_state_dict(taken, strict=False)
    said = f"{library}'s {kind}: {loaded}; {', '.join(words)}" + (
        f"; left out: {', '.join(left)}" if left else ""
    )
    return said + "; smp enlarges small logits with align_corners, here without" * (library == "smp")


def _found(tree: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for _, state in nested_states(tree):
        for wrapper in ("", *_WRAPPERS):
            inner = {
                key.removeprefix(wrapper): value for key, value in state.items() if key.startswith(wrapper)
            }
            for library, marks in _LIBRARIES.items():
                if all(any(key.startswith(mark) for key in inner) for mark in marks):
                    yield library, inner


def _renamed(key: str, rules: Mapping[str, str]) -> str:
    for pattern, name in rules.items():
        new, count = re.subn(pattern, name, key)
        if count:
            return new
    return key
