"""EoMT: a plain vision transformer that is the whole segmentation network."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.plain_transformer import PlainTransformer
from lightning_seg.networks.backbones.timm_backbone import TimmBackbone
from lightning_seg.networks.backbones.weights import read_weights
from lightning_seg.networks.eomt_weights import load_published
from lightning_seg.networks.mask_network import MaskNetwork, Queries


class EoMT(MaskNetwork):
    """Encoder-only mask transformer (Kerssies et al., CVPR 2025, arXiv:2503.19108).

    Queries join the tokens of the last blocks of a plain vision transformer. In these blocks a query attends to the
    patches of the mask that it has so far; while training goes on this masking ends, block by block, so that the
    finished network needs none.

    Args:
        num_classes: Number of classes.
        backbone: The name of one of timm's plain vision transformers, or a `TimmBackbone` of one, with ``norm: true``
            and ``out_indices: 1``.
        weights: Pretrained weights of a backbone given by name (see `TimmBackbone`).
        queries: Number of queries.
        blocks: How many last blocks have them.
        pretrained: File of a whole EoMT as its authors or transformers publish it, instead of `weights`. A classifier
            for another number of classes is left out.
        in_channels: Number of channels of an image; comes from the data.

    Raises:
        UserError: The backbone is no such transformer, or has no more blocks than that.

    Examples:
        >>> network = EoMT(num_classes=3, backbone="test_vit", weights=False, queries=10, blocks=1).eval()
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    attn_mask_probs: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone = "vit_small_patch14_reg4_dinov2",
        weights: bool | str = True,
        queries: int = 100,
        blocks: int = 4,
        pretrained: str | None = None,
        in_channels: int = 3,
    ) -> None:
        if isinstance(backbone, str):
            backbone = TimmBackbone(
                backbone,
                False if pretrained else weights,
                out_indices=1,
                norm=True,
                in_channels=in_channels,
            )
        super().__init__(backbone, weights, in_channels=in_channels)
        self.pretrained = pretrained
        model = _checked(backbone, blocks)
        width, patch = int(model.embed_dim), max(backbone.strides)
        self.count, self.blocks, self._model = queries, blocks, [model]  # in a list: it is the backbone's
        self.queries_embedding = nn.Embedding(queries, width)
        steps = max(1, int(math.log2(patch)) - 2)
        self.decoder = nn.Sequential(*(UpscaleBlock(width) for _ in range(steps)))
        self.head = QueryHead(width, num_classes)
        self.register_buffer("attn_mask_probs", torch.ones(blocks))
        self._probs = [1.0] * blocks  # the same, known without waiting for the device
        # Whether it is above 0, all that changes what is computed: a compiled network follows it.
        self._masked = [True] * blocks
        self.register_load_state_dict_post_hook(_recall)  # type: ignore[no-untyped-call]

    def recall(self) -> None:
        """Take note of the probabilities of masks that were loaded."""
        self._probs = [float(p) for p in self.attn_mask_probs.tolist()]
        self._masked = [p > 0 for p in self._probs]

    def anneal(self, progress: float) -> None:
        """Set the probability that a query's attention is masked, which falls to 0 in one block after the other.

        Each takes a sixth of the training, as a polynomial of power 0.9; the first begins after a sixth, the last ends
        a sixth before the end, and the others begin at even distances, as in the authors' settings for 3 and 4 blocks.
        """
        begins = [1 + 3 * i / max(1, self.blocks - 1) for i in range(self.blocks)]
        done = [min(1.0, max(0.0, 6 * progress - begin)) for begin in begins]
        probs = [(1 - share) ** 0.9 for share in done]
        if probs != self._probs:
            self._probs, self._masked = probs, [p > 0 for p in probs]
            self.attn_mask_probs.copy_(torch.tensor(probs), non_blocking=True)

    def layers(self, x: Tensor) -> list[Queries]:
        """Return the queries before each of the last blocks and after the last; in evaluation where they are needed."""
        model = self._model[0]
        first = len(model.blocks) - self.blocks
        prefixed = model.num_prefix_tokens > 0
        (tokens,) = model.forward_intermediates(
            x,
            indices=[first - 1],
            return_prefix_tokens=prefixed,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        patches, prefix = tokens if prefixed else (tokens, tokens[:, :0])
        grid = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        start = prefix.shape[1]
        # At the end, so that the places of all other tokens stay; attention does not depend on the order.
        # The batch's length as a shape says it: len() would fix it in exports.
        added = self.queries_embedding.weight[None].expand(x.shape[0], -1, -1).to(patches.dtype)
        tokens = torch.cat([prefix, patches, added], 1)
        options = _rotation(model, grid, self.count)
        found: list[Queries] = []
        for i, block in enumerate(model.blocks[first:]):
            mask = None
            if self.training or self._masked[i]:
                found.append(self._predict(model.norm(tokens), start, grid))
                if self._masked[i]:
                    mask = self._attention(found[-1].masks, start, grid, self.attn_mask_probs[i])
            tokens = block(tokens, attn_mask=mask, **options)
        found.append(self._predict(model.norm(tokens), start, grid))
        return found

    def _predict(self, tokens: Tensor, start: int, grid: tuple[int, int]) -> Queries:
        patches = tokens[:, start : -self.count].transpose(1, 2).unflatten(2, grid)
        out: Queries = self.head(self.decoder(patches), tokens[:, -self.count :])
        return out

    def _attention(self, masks: Tensor, start: int, grid: tuple[int, int], prob: Tensor) -> Tensor:
        """Say which token attends to which, (B, 1, N, N): a query to the patches of its mask, others to all."""
        small = F.interpolate(masks.detach().float(), grid, mode="bilinear", align_corners=False)
        seen = small.flatten(2) > 0
        if self.training:
            seen |= (torch.rand(*seen.shape[:2], device=seen.device) > prob)[..., None]
        size = start + seen.shape[2] + self.count
        attends = torch.ones(seen.shape[0], size, size, dtype=torch.bool, device=seen.device)
        attends[:, -self.count :, start : -self.count] = seen
        return attends[:, None]

    def load_weights(self, find_checkpoint: Callable[[str], Path] = Path) -> str:
        """Load those of the backbone, or those of a whole network that `pretrained` names."""
        if self.pretrained is None:
            return super().load_weights(find_checkpoint)
        tree, source, _ = read_weights("EoMT", self.pretrained)
        return load_published(self, tree, source)


class UpscaleBlock(nn.Module):
    """Doubles the resolution of a map (B, C, h, w)."""

    def __init__(self, width: int) -> None:
        from timm.layers import LayerNorm2d

        super().__init__()
        self.conv1 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = LayerNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, 2h, 2w)."""
        out: Tensor = self.norm(self.conv2(self.act(self.conv1(x))))
        return out


class QueryHead(nn.Module):
    """The mask and the class of each query."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.masks = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.classes = nn.Linear(width, num_classes + 1)

    def forward(self, pixels: Tensor, queries: Tensor) -> Queries:
        """Return them for the features of pixels (B, D, h, w) and queries (B, Q, D)."""
        return Queries(torch.einsum("bqd,bdhw->bqhw", self.masks(queries), pixels), self.classes(queries))


def _checked(backbone: Backbone, blocks: int) -> Any:
    """Return timm's model if it can have queries in its last blocks.

    Raises:
        UserError: It cannot; it says why.
    """
    from timm.models import Eva, VisionTransformer

    net = getattr(backbone, "net", None)
    if not isinstance(backbone, TimmBackbone) or not isinstance(net, PlainTransformer):
        raise UserError(
            "EoMT needs one of timm's plain vision transformers as its backbone, such as "
            f"vit_base_patch14_reg4_dinov2, not {getattr(backbone, 'name', type(backbone).__name__)}."
        )
    model = net.model
    if not isinstance(model, VisionTransformer | Eva) or getattr(model, "rope_mixed", False):
        raise UserError(
            f"EoMT cannot put queries among the tokens of {backbone.name} ({type(model).__name__}): its attention is "
            "made for a grid of patches. Choose a ViT, DeiT, DINOv2 or DINOv3."
        )
    if not net.norm or isinstance(model.norm, nn.Identity) or net.taken != [len(model.blocks) - 1]:
        raise UserError(
            f"EoMT needs all blocks of {backbone.name} and its final norm: give the backbone out_indices: 1 and "
            "norm: true."
        )
    if not 0 < blocks < len(model.blocks):
        raise UserError(
            f"EoMT: blocks must be 1 to {len(model.blocks) - 1} for {backbone.name}, got {blocks}."
        )
    return model


def _recall(network: EoMT, _: object) -> None:
    network.recall()


def _rotation(model: Any, grid: tuple[int, int], queries: int) -> dict[str, Tensor]:
    """Return the rotary position embeddings of patches, where a model has them, and none for queries."""
    if getattr(model, "rope", None) is None:
        return {}
    patches: Tensor = model.rope.get_embed(shape=grid)
    half = patches.shape[-1] // 2  # sines, then cosines: nothing is rotated by 0 and 1
    unturned = torch.cat([patches.new_zeros(queries, half), patches.new_ones(queries, half)], 1)
    return {"rope": torch.cat([patches, unturned])}
