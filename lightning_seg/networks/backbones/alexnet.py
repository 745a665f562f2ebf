"""AlexNet for timm, which has none. Importing this module makes ``alexnet`` a timm model."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

default_cfgs = generate_default_cfgs(
    {
        "alexnet.tv_in1k": {
            "url": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "input_size": (3, 224, 224),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "classifier": "classifier.6",
            "first_conv": "features.0",
        }
    }
)


class AlexNet(nn.Module):
    """The convolutions of torchvision's AlexNet (arXiv:1404.5997), without its classifier.

    Padding differs from torchvision's, so that each map's size is that of the image divided by its stride.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 11, stride=4, padding=4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        taps = {1: (64, 4), 4: (192, 8), 11: (256, 16), 12: (256, 32)}
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"features.{i}"}
            for i, (channels, stride) in taps.items()
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return the deepest map (B, 256, H / 32, W / 32)."""
        out: Tensor = self.features(x)
        return out


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """AlexNet with torchvision's weights."""
    features = {"flatten_sequential": True, "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(
        AlexNet, "alexnet", pretrained, feature_cfg=features, kwargs_filter=("global_pool",), **kwargs
    )
