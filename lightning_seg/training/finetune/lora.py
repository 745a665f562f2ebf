"""Low-rank adapters: fine-tuning a backbone by few parameters, as a fine-tuning policy."""

from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.backbones.low_rank import add_low_rank
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.training.finetune.policies import Full


class LoRA(Full):
    """Freeze the backbone and train a change of low rank to each linear layer and 1x1 convolution (arXiv:2106.09685).

    A layer's weight W becomes W + alpha / rank * up @ down, where only `up` (out, rank), zero at first, and `down`
    (rank, in) train; so do decoder and head. BatchNorm, if any, stays as pretrained. Export, ensembles and
    `weights: run:RUN` merge the change into the weights.

    Args:
        rank: Rank of the change.
        alpha: Factor on the change, relative to its rank.
        layers: Only layers with this in their name, such as ``attn`` or ``qkv``; all unless given.
        backbone_lr_mult: Factor on the learning rate of the adapters.

    Raises:
        UserError: `rank` is below 1, or `alpha` not above 0.

    Examples:
        >>> network = Linear(2, "test_vit", weights=False)
        >>> LoRA(rank=4, layers="qkv").apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        6144
    """

    magnitude = False

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, layers: str = "", backbone_lr_mult: float = 1.0
    ) -> None:
        super().__init__(backbone_lr_mult, batch_norm="frozen")
        if rank < 1:
            raise UserError(f"{type(self).__name__} needs a rank of 1 or more, such as 8; got {rank}.")
        if not alpha > 0:
            raise UserError(
                f"{type(self).__name__} needs an alpha above 0, such as 16, or nothing changes; got {alpha}."
            )
        self.rank, self.alpha, self.layers = rank, alpha, layers

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze the backbone and put adapters into it.

        Raises:
            UserError: It has no such layers, or all are smaller than `rank`.
        """
        network.backbone.requires_grad_(False)
        modules = network.backbone.named_modules()
        chosen = [part for name, part in modules if _is_matrix(part) and self.layers in name]
        if not chosen:
            raise UserError(
                f"{type(self).__name__} changes linear layers and 1x1 convolutions"
                f"{f' named {self.layers!r}' if self.layers else ''}, and the backbone"
                f" {getattr(network.backbone, 'name', '')} has none. Choose a transformer, such as"
                " swin_tiny_patch4_window7_224, or the policy FrozenStages."
            )
        largest = max(min(layer.get_parameter("weight").shape[:2]) for layer in chosen)
        if self.rank > largest:
            raise UserError(
                f"{type(self).__name__}(rank={self.rank}): the layers that it changes have ranks up to {largest}."
                f" Choose a rank of at most that, such as {min(8, largest)}."
            )
        for layer in chosen:
            add_low_rank(layer, self.rank, self.alpha / self.rank, self.magnitude)


class DoRA(LoRA):
    """As `LoRA`, and the length of each row of a weight trains, too, apart from its direction (arXiv:2402.09353).

    Args:
        rank: Rank of the change of directions.
        alpha: Factor on the change, relative to its rank.
        layers: Only layers with this in their name (see `LoRA`).
        backbone_lr_mult: Factor on the learning rate of the adapters.

    Raises:
        UserError: `rank` is below 1, or `alpha` not above 0.

    Examples:
        >>> network = Linear(2, "test_vit", weights=False)
        >>> DoRA(rank=4, layers="qkv").apply(network)
        >>> sum(p.numel() for p in network.backbone.parameters() if p.requires_grad)
        7296
    """

    magnitude = True


def _is_matrix(part: nn.Module) -> bool:
    """Whether a layer multiplies by a matrix at each place."""
    if isinstance(part, nn.Conv2d):
        return part.kernel_size == (1, 1) and part.groups == 1
    return isinstance(part, nn.Linear)
