"""An ensemble: networks that vote."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_seg.data.pixels import Measurement, Pixels, Scaling
from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.base import Network


class Ensemble(Network):
    """The mean probability over trained networks of any architecture (Lakshminarayanan et al., arXiv:1612.01474).

    It is a network: its backbone holds the members, its feature maps are their logits, and its own
    logits are the logarithm of the mean probability. `lightning-seg ensemble` makes one of finished runs.

    Args:
        num_classes: Number of classes, the same for all members.
        networks: The members.
        sources: The runs that they come from, for the record.
    """

    def __init__(self, num_classes: int, networks: list[Network], sources: Sequence[str] = ()) -> None:
        super().__init__(_Members(networks, num_classes), in_channels=networks[0].backbone.in_channels)
        self.decoder = nn.Identity()
        self.head = nn.Identity()

    def decode(self, x: Tensor, features: list[Tensor]) -> Tensor:
        """Average the members."""
        out: Tensor = self.decoder(mean_logits(logits.float().softmax(1) for logits in features))
        return out


class _Members(Backbone):
    """Gives each member the image as it is: normalizing by mean 0 and deviation 1 changes nothing."""

    def __init__(self, networks: list[Network], num_classes: int) -> None:
        count = len(networks)
        channels = networks[0].backbone.in_channels
        super().__init__([num_classes] * count, [1] * count, in_channels=channels)
        self.normalize_as(Scaling((0.0,) * channels, (1.0,) * channels))
        self.members = nn.ModuleList(networks)

    def expect(self, pixels: Pixels, measured: Measurement | None = None) -> None:
        """Leave the normalization to the members, each of which has its own."""
        for member in self.members:
            assert isinstance(member, Network)
            member.backbone.expect(pixels, measured)

    def train(self, mode: bool = True) -> "_Members":
        """Stay in evaluation: the members have been trained."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [member(x) for member in self.members]


def mean_logits(probabilities: Iterable[Tensor]) -> Tensor:
    """Average probabilities (B, C, H, W) and return the logits that stand for the mean: its logarithm."""
    count, total = 0, torch.zeros(())
    for count, one in enumerate(probabilities, start=1):
        total = one if count == 1 else total + one
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()
