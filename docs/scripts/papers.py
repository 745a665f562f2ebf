"""Three networks as the repositories of their papers write them: nothing in them knows of this package.

Each has a habit that is common there: `UNet` has no part that is its backbone, `ERFNet` calls `forward` of its parts
and keeps a layer for pre-training, `BiSeNet` returns its auxiliary logits in evaluation, too, and wants a stride of 32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Up(nn.Module):
    """Doubles a map, pads it to the size of the skipped one, and joins them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, 2)
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        """Join both."""
        x = self.up(x)
        dy, dx = skipped.shape[2] - x.shape[2], skipped.shape[3] - x.shape[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skipped, x], dim=1))


class UNet(nn.Module):
    """U-Net with padding (https://arxiv.org/abs/1505.04597)."""

    def __init__(self, n_channels: int, n_classes: int, width: int = 64) -> None:
        super().__init__()
        self.inc = DoubleConv(n_channels, width)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(width, 2 * width))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(2 * width, 4 * width))
        self.down3 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(4 * width, 8 * width))
        self.down4 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(8 * width, 16 * width))
        self.up1 = Up(16 * width, 8 * width)
        self.up2 = Up(8 * width, 4 * width)
        self.up3 = Up(4 * width, 2 * width)
        self.up4 = Up(2 * width, width)
        self.outc = nn.Conv2d(width, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, n_classes, H, W)."""
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up3(self.up2(x, x3), x2)
        logits: Tensor = self.outc(self.up4(x, x1))
        return logits


class DownsamplerBlock(nn.Module):
    """A convolution of stride 2 beside a pooling."""

    def __init__(self, ninput: int, noutput: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ninput, noutput - ninput, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2, stride=2)
        self.bn = nn.BatchNorm2d(noutput, eps=1e-3)

    def forward(self, input: Tensor) -> Tensor:
        """Halve a map."""
        return F.relu(self.bn(torch.cat([self.conv(input), self.pool(input)], 1)))


class NonBottleneck1d(nn.Module):
    """A residual block of convolutions of one dimension."""

    def __init__(self, chann: int, dropprob: float, dilated: int) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(chann, chann, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(chann, chann, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(chann, eps=1e-3)
        self.conv3x1_2 = nn.Conv2d(chann, chann, (3, 1), padding=(dilated, 0), dilation=(dilated, 1))
        self.conv1x3_2 = nn.Conv2d(chann, chann, (1, 3), padding=(0, dilated), dilation=(1, dilated))
        self.bn2 = nn.BatchNorm2d(chann, eps=1e-3)
        self.dropout = nn.Dropout2d(dropprob)

    def forward(self, input: Tensor) -> Tensor:
        """Add to a map."""
        output = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(input)))))
        output = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(output))))
        if self.dropout.p != 0:
            output = self.dropout(output)
        return F.relu(output + input)


class Encoder(nn.Module):
    """Three downsamplings; `output_conv` is for training it alone, on small masks."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.initial_block = DownsamplerBlock(3, 16)
        self.layers = nn.ModuleList([DownsamplerBlock(16, 64)])
        for _ in range(5):
            self.layers.append(NonBottleneck1d(64, 0.03, 1))
        self.layers.append(DownsamplerBlock(64, 128))
        for _ in range(2):
            for dilated in (2, 4, 8, 16):
                self.layers.append(NonBottleneck1d(128, 0.3, dilated))
        self.output_conv = nn.Conv2d(128, num_classes, 1)

    def forward(self, input: Tensor, predict: bool = False) -> Tensor:
        """Return features, or logits at an eighth."""
        output = self.initial_block(input)
        for layer in self.layers:
            output = layer(output)
        return self.output_conv(output) if predict else output


class UpsamplerBlock(nn.Module):
    """A transposed convolution of stride 2."""

    def __init__(self, ninput: int, noutput: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(ninput, noutput, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(noutput, eps=1e-3)

    def forward(self, input: Tensor) -> Tensor:
        """Double a map."""
        return F.relu(self.bn(self.conv(input)))


class Decoder(nn.Module):
    """Three upsamplings."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for ninput, noutput in ((128, 64), (64, 16)):
            self.layers.append(UpsamplerBlock(ninput, noutput))
            for _ in range(2):
                self.layers.append(NonBottleneck1d(noutput, 0, 1))
        self.output_conv = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def forward(self, input: Tensor) -> Tensor:
        """Return logits."""
        output = input
        for layer in self.layers:
            output = layer(output)
        logits: Tensor = self.output_conv(output)
        return logits


class ERFNet(nn.Module):
    """ERFNet (https://doi.org/10.1109/TITS.2017.2750080)."""

    def __init__(self, num_classes: int, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = Encoder(num_classes) if encoder is None else encoder
        self.decoder = Decoder(num_classes)

    def forward(self, input: Tensor, only_encode: bool = False) -> Tensor:
        """Return logits (B, num_classes, H, W)."""
        if only_encode:
            logits: Tensor = self.encoder.forward(input, predict=True)
            return logits
        return self.decoder.forward(self.encoder.forward(input))


class ConvBNReLU(nn.Module):
    """A convolution, BatchNorm and ReLU."""

    def __init__(self, in_chan: int, out_chan: int, ks: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chan, out_chan, ks, stride, ks // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_chan)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class BiSeNetOutput(nn.Module):
    """Logits of a map, as large as the image."""

    def __init__(self, in_chan: int, mid_chan: int, n_classes: int, up_factor: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_chan, mid_chan)
        self.conv_out = nn.Conv2d(mid_chan, n_classes, 1)
        self.up = nn.Upsample(scale_factor=up_factor, mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.up(self.conv_out(self.conv(x)))
        return logits


class AttentionRefinementModule(nn.Module):
    """Weighs the channels of a map by its mean."""

    def __init__(self, in_chan: int, out_chan: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(in_chan, out_chan)
        self.conv_atten = nn.Conv2d(out_chan, out_chan, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_chan)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh a map."""
        feat = self.conv(x)
        atten = self.bn_atten(self.conv_atten(torch.mean(feat, dim=(2, 3), keepdim=True)))
        weighed: Tensor = torch.mul(feat, atten.sigmoid())
        return weighed


class ContextPath(nn.Module):
    """Five halvings, whose last two maps are refined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = (width, width, 2 * width, 4 * width, 8 * width)
        self.stages = nn.ModuleList([ConvBNReLU(i, o, 3, 2) for i, o in zip((3, *wide), wide, strict=False)])
        self.arm16 = AttentionRefinementModule(4 * width, 2 * width)
        self.arm32 = AttentionRefinementModule(8 * width, 2 * width)
        self.conv_avg = ConvBNReLU(8 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps at an eighth and a sixteenth."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        avg = self.conv_avg(torch.mean(x, dim=(2, 3), keepdim=True))
        feat32 = F.interpolate(self.arm32(x) + avg, scale_factor=2.0)
        feat16 = F.interpolate(self.arm16(maps[3]) + feat32, scale_factor=2.0)
        return feat16, feat32


class BiSeNet(nn.Module):
    """BiSeNet (https://arxiv.org/abs/1808.00897), on a smaller context path."""

    def __init__(self, n_classes: int, aux_mode: str = "train", width: int = 32) -> None:
        super().__init__()
        self.cp = ContextPath(width)
        self.sp = nn.Sequential(
            ConvBNReLU(3, width, 7, 2), ConvBNReLU(width, width, 3, 2), ConvBNReLU(width, width, 3, 2)
        )
        self.ffm = ConvBNReLU(3 * width, 4 * width, 1)
        self.conv_out = BiSeNetOutput(4 * width, 4 * width, n_classes, up_factor=8)
        self.aux_mode = aux_mode
        if self.aux_mode == "train":
            self.conv_out16 = BiSeNetOutput(2 * width, width, n_classes, up_factor=8)
            self.conv_out32 = BiSeNetOutput(2 * width, width, n_classes, up_factor=16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, n_classes, H, W), and auxiliary ones of the same size."""
        feat_cp8, feat_cp16 = self.cp(x)
        feat_out = self.conv_out(self.ffm(torch.cat([self.sp(x), feat_cp8], dim=1)))
        if self.aux_mode == "train":
            return feat_out, self.conv_out16(feat_cp8), self.conv_out32(feat_cp16)
        return (feat_out,)
