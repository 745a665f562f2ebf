"""A backbone of plain convolutional stages with a pooling between them."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_seg.networks.backbones.base import Backbone


class PlainBackbone(Backbone):
    """Convolutional stages, each at half the resolution of the one before.

    Args:
        blocks: The stages, finest first.
        channels: Channels of each stage's output.
        pooling: Makes the pooling between two stages from its kernel size, 2: ``torch.nn.MaxPool2d``,
            ``torch.nn.AvgPool2d``, or the latter with ``divisor_override: 1`` for sum pooling.
        in_channels: Number of channels of an image.

    Examples:
        >>> blocks = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 16, 3, padding=1)]
        >>> backbone = PlainBackbone(blocks, channels=[8, 16], pooling=torch.nn.MaxPool2d)
        >>> [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 32, 32))]
        [(1, 8, 32, 32), (1, 16, 16, 16)]
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        channels: Sequence[int],
        pooling: Callable[[int], nn.Module],
        in_channels: int = 3,
    ) -> None:
        super().__init__(channels, [2**i for i in range(len(blocks))], in_channels=in_channels)
        self.blocks = nn.ModuleList(blocks)
        self.pool = pooling(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps (B, channels[i], H / 2**i, W / 2**i) of normalized images."""
        maps: list[Tensor] = []
        for block in self.blocks:
            maps.append(block(self.pool(maps[-1]) if maps else x))
        return maps

    def stages(self) -> list[tuple[str, nn.ModuleList]]:
        """Return the convolutional stages (see `Backbone.stages`)."""
        return [(f"stage{i}", nn.ModuleList([block])) for i, block in enumerate(self.blocks)]


def convolutions(
    channels: Sequence[int], kernel: int = 3, norm: bool = True, relu: bool = True
) -> nn.Sequential:
    """Chain convolutions from one number of channels to the next, each with BatchNorm and ReLU if wanted."""
    layers: list[nn.Module] = []
    for wide, narrow in zip(channels[:-1], channels[1:], strict=True):
        conv = nn.Conv2d(wide, narrow, kernel, padding=kernel // 2, bias=not norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if relu else "linear")
        layers += [conv] + [nn.BatchNorm2d(narrow)] * norm + [nn.ReLU(inplace=True)] * relu
    return nn.Sequential(*layers)
