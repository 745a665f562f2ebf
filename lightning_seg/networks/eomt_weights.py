"""Weights of whole EoMTs as they are published: by its authors, and by transformers."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.tensor_file import Translation, misfit

# From the names of the authors' repository, which has timm's for the backbone.
_AUTHORS = {
    r"^encoder\.backbone\.": "backbone.net.model.",
    r"^q\.": "queries_embedding.",
    r"^class_head\.": "head.classes.",
    r"^mask_head\.": "head.masks.",
    r"^upscale\.": "decoder.",
}
# From those of transformers' EomtForUniversalSegmentation.
_BLOCK = r"^layers\.(\d+)\."
_NEW = r"backbone.net.model.blocks.\1."
_TRANSFORMERS = {
    r"^embeddings\.cls_token": "backbone.net.model.cls_token",
    r"^embeddings\.register_tokens": "backbone.net.model.reg_token",
    r"^embeddings\.position_embeddings\.weight": "backbone.net.model.pos_embed",
    r"^embeddings\.patch_embeddings\.projection\.": "backbone.net.model.patch_embed.proj.",
    r"^layernorm\.": "backbone.net.model.norm.",
    _BLOCK + r"attention\.qkv\.": _NEW + "attn.qkv.",
    _BLOCK + r"attention\.out_proj\.": _NEW + "attn.proj.",
    _BLOCK + r"layer_scale(\d)\.lambda1": _NEW + r"ls\2.gamma",
    _BLOCK: _NEW,
    r"^query\.": "queries_embedding.",
    r"^class_predictor\.": "head.classes.",
    r"^mask_head\.fc1\.": "head.masks.0.",
    r"^mask_head\.fc2\.": "head.masks.2.",
    r"^mask_head\.fc3\.": "head.masks.4.",
    r"^upscale_block\.block\.(\d+)\.layernorm2d\.": r"decoder.\1.norm.",
    r"^upscale_block\.block\.": "decoder.",
}
_UNUSED = re.compile(r"^(encoder\.pixel_(mean|std)|criterion\.|embeddings\.(position_ids|mask_token))")


def load_published(network: nn.Module, tree: object, source: str) -> str:
    """Give an EoMT the weights of one that was published.

    Args:
        network: The EoMT.
        tree: What the file holds: a state dict, or a checkpoint with one as ``state_dict``.
        source: The file, for messages.

    Returns:
        What was loaded, in words.

    Raises:
        UserError: Tensors are missing, left over, of other shapes or not finite; the network is as it was.
    """
    state = tree.get("state_dict", tree) if isinstance(tree, Mapping) else {}
    found = _translated({k: v for k, v in state.items() if isinstance(v, Tensor)})
    own = network.state_dict()
    other_classes = [
        key
        for key in ("head.classes.weight", "head.classes.bias")
        if key in found and found[key].shape != own[key].shape
    ]
    for key in other_classes:
        found[key] = own[key]
    wrong = [f"{key} is missing" for key in own if key not in found]
    wrong += [f"{key} is not of this network" for key in found if key not in own]
    wrong += [
        f"{key} is {tuple(found[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in found and found[key].shape != value.shape
    ]
    if wrong:
        raise UserError(
            f"{source} does not hold the weights of this EoMT: {'; '.join(wrong[:3])}; {len(wrong)} tensors in all. "
            "Choose its backbone, with img_size and patch_size as backbone_args, its queries and its blocks."
        )
    if why := misfit(own, Translation(found))[0]:  # of another kind, NaN or infinite
        raise UserError(f"{source} does not hold the weights of this EoMT: {why}.")
    network.load_state_dict(found)
    left = "; at random: the classifier, which is for other classes" if other_classes else ""
    return f"EoMT {len(found) - len(other_classes)} tensors of {source}{left}"


def _translated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("network.").removeprefix("_orig_mod."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not _UNUSED.match(key)}
    rules = _AUTHORS
    if any(key.startswith("layers.") for key in state):
        rules = _TRANSFORMERS
        state = _joined(state)
    found = {}
    for key, value in state.items():
        for pattern, name in rules.items():
            new, count = re.subn(pattern, name, key)
            if count:
                key = new
                break
        found[key] = value[None] if key.endswith("pos_embed") and value.ndim == 2 else value
    return found


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put queries, keys and values into one tensor, as timm has them."""
    joined = {}
    for key, value in state.items():
        if ".q_proj." in key:
            parts = [state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            joined[key.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            joined[key] = value
    return joined
