"""Upsampling operators, interchangeable in every decoder that takes one.

A decoder takes one of these classes and makes ``upsampling(in_channels, out_channels, scale)`` where it needs
one. In an experiment:

    upsampling:
      class_path: lightning_seg.networks.upsampling.TransposedConvolution
      init_args: {bilinear: true}
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_seg.errors import UserError


class Upsampling(nn.Module):
    """Turns maps (B, in_channels, H, W) into maps (B, out_channels, scale * H, scale * W).

    Where the number of channels changes, operators without parameters are preceded by a 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: Factor by which height and width grow.

    Examples:
        >>> issubclass(Bilinear, Upsampling), Bilinear(8, 4, scale=2)(torch.zeros(1, 8, 3, 5)).shape
        (True, torch.Size([1, 4, 6, 10]))
    """

    mode: str = "nearest"

    def __init__(self, in_channels: int, out_channels: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        same = in_channels == out_channels
        self.project = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Upsample.

        Args:
            x: Maps (B, in_channels, H, W).
            pooled: The encoder's maps (B, out_channels, scale * H, scale * W) from before the pooling that
                this undoes. Only `MaxUnpooling` looks at them.
        """
        return self.upsample(self.project(x))

    def upsample(self, x: Tensor) -> Tensor:
        """Resize maps (B, C, H, W) to (B, C, scale * H, scale * W) by interpolation (`mode`)."""
        corners = None if self.mode == "nearest" else False
        return F.interpolate(x, scale_factor=self.scale, mode=self.mode, align_corners=corners)


class BedOfNails(Upsampling):
    """Each value in the upper left corner of its cell, zeros elsewhere.

    Examples:
        >>> BedOfNails(1, 1)(torch.tensor([[[[1.0, 2.0]]]]))[0, 0]
        tensor([[1., 0., 2., 0.],
                [0., 0., 0., 0.]])
    """

    def upsample(self, x: Tensor) -> Tensor:
        """Spread maps (B, C, H, W) over (B, C, scale * H, scale * W)."""
        batch, channels, height, width = x.shape
        x = F.pad(x[:, :, :, None, :, None], (0, self.scale - 1, 0, 0, 0, self.scale - 1))
        return x.reshape(batch, channels, self.scale * height, self.scale * width)


class Nearest(Upsampling):
    """Each value repeated over its cell.

    Examples:
        >>> Nearest(1, 1)(torch.tensor([[[[1.0, 2.0]]]]))[0, 0]
        tensor([[1., 1., 2., 2.],
                [1., 1., 2., 2.]])
    """


class Bilinear(Upsampling):
    """Linear interpolation between the centers of cells.

    Examples:
        >>> Bilinear(1, 1)(torch.tensor([[[[1.0, 2.0]]]]))[0, 0]
        tensor([[1.0000, 1.2500, 1.7500, 2.0000],
                [1.0000, 1.2500, 1.7500, 2.0000]])
    """

    mode = "bilinear"


class Bicubic(Upsampling):
    """Cubic interpolation between the centers of cells; it can overshoot the range of its input.

    Examples:
        >>> Bicubic(1, 1)(torch.tensor([[[[1.0, 2.0]]]]))[0, 0]
        tensor([[0.8945, 1.2266, 1.7734, 2.1055],
                [0.8945, 1.2266, 1.7734, 2.1055]])
    """

    mode = "bicubic"


class MaxUnpooling(Upsampling):
    """Each value where the encoder's maximum was, zeros elsewhere (SegNet, arXiv:1511.00561).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, and of the encoder's maps.
        scale: Must be 2.

    Raises:
        UserError: If the scale is not 2.

    Examples:
        >>> pooled = torch.tensor([[[[0.0, 5.0], [0.0, 0.0]]]])  # the map that the encoder pooled
        >>> MaxUnpooling(1, 1)(torch.tensor([[[[7.0]]]]), pooled)[0, 0]
        tensor([[0., 7.],
                [0., 0.]])
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 2) -> None:
        if scale != 2:
            raise UserError(
                f"MaxUnpooling undoes one 2x2 pooling, but here maps grow by a factor of {scale} at once. "
                "Choose another operator, such as lightning_seg.networks.upsampling.Bilinear."
            )
        super().__init__(in_channels, out_channels, scale)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Put each value where `pooled` (B, out_channels, 2 * H, 2 * W) has the maximum of the cell."""
        if pooled is None:
            raise UserError(
                "MaxUnpooling needs the encoder's maps from before a pooling; this decoder has none."
            )
        # The pooling is repeated to learn its indices: cheap beside a convolution, and any encoder will do.
        indices = F.max_pool2d(pooled.detach(), 2, return_indices=True)[1]
        return F.max_unpool2d(self.project(x), indices, (2, 2), output_size=pooled.shape[-2:])


class TransposedConvolution(Upsampling):
    """A learned transposed convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: Factor by which height and width grow.
        bilinear: Begin as `Bilinear`, as FCN does, with kernels of twice the scale. Otherwise kernels begin
            at random and have the size of a cell, so that they do not overlap.

    Examples:
        >>> TransposedConvolution(8, 4, scale=2)(torch.zeros(1, 8, 3, 5)).shape
        torch.Size([1, 4, 6, 10])
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 2, bilinear: bool = False) -> None:
        nn.Module.__init__(self)
        self.border = int(
            bilinear
        )  # repeated border cells, so that the kernel meets no zeros outside the image
        if not bilinear:
            self.conv = nn.ConvTranspose2d(in_channels, out_channels, scale, scale)
            return
        size, padding = 2 * scale - scale % 2, scale + scale // 2
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, size, scale, padding)
        line = 1 - (torch.arange(size) - (size - 1) / 2).abs() / scale
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            for channel in range(out_channels):
                self.conv.weight[channel % in_channels, channel] = line[:, None] * line

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Upsample maps (B, in_channels, H, W) with the learned kernel."""
        out: Tensor = self.conv(F.pad(x, (self.border,) * 4, mode="replicate") if self.border else x)
        return out


class PixelShuffle(Upsampling):
    """A 3x3 convolution to scale * scale times the channels, rearranged into the cell (arXiv:1609.05158).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: Factor by which height and width grow.

    Examples:
        >>> PixelShuffle(8, 4, scale=4)(torch.zeros(1, 8, 3, 5)).shape
        torch.Size([1, 4, 12, 20])
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 2) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(in_channels, out_channels * scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Upsample maps (B, in_channels, H, W)."""
        return F.pixel_shuffle(self.conv(x), self.scale)


class InterpolationConvolution(Upsampling):
    """Interpolation, then a 3x3 convolution: learned, without the checkerboards of `TransposedConvolution`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        scale: Factor by which height and width grow.
        mode: How to interpolate.

    Examples:
        >>> InterpolationConvolution(8, 4, mode="nearest")(torch.zeros(1, 8, 3, 5)).shape
        torch.Size([1, 4, 6, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int = 2,
        mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
    ) -> None:
        super().__init__(in_channels, in_channels, scale)
        self.mode = mode
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Upsample maps (B, in_channels, H, W)."""
        out: Tensor = self.conv(self.upsample(x))
        return out
