"""Feature maps of a frozen backbone, computed once for each image."""

import hashlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_seg.networks.backbones.base import Backbone
from lightning_seg.networks.backbones.feature_folder import FeatureFolder, folder_of


class FeatureCache:
    """Keep the feature maps of images by their content, in the processor's memory.

    An image that comes again with identical pixels gets the maps computed before: validation images, and training
    images that augmentation leaves as they are (mirroring gives two variants). The values are those of the batch in
    which the image came first; in another batch the last bit may be rounded differently.

    Args:
        gigabytes: How much memory the maps may take; what comes later is not kept.
        backbone: Whose maps they are, to keep them in a folder that runs share instead of in memory.
    """

    def __init__(self, gigabytes: float, backbone: Backbone | None = None) -> None:
        self.gigabytes = gigabytes
        self.backbone = backbone
        self._folder: FeatureFolder | None = None
        self.hits = 0
        self._left = gigabytes * 1e9
        self._kept: dict[bytes, list[Tensor]] = {}

    def __call__(
        self,
        images: Tensor,
        compute: Callable[[Tensor], list[Tensor]],
        size: tuple[int, int] | None = None,
    ) -> list[Tensor]:
        """Return the feature maps of a batch.

        Args:
            images: Images (B, 3, H, W) as they come to the network.
            compute: Returns the maps, each (N, C, h, w), of the images at N positions (N,) of the batch.
            size: Height and width that the images are padded to, which networks on one backbone do differently.
        """
        keys = [self._key(image, size) for image in images]
        kept = {i: maps for i, key in enumerate(keys) if (maps := self._found(key)) is not None}
        new = [i for i in range(len(keys)) if i not in kept]
        self.hits += len(keys) - len(new)
        computed = compute(torch.tensor(new, device=images.device)) if new else []
        # kept as (h, w, C), which is channels-last again once they are put together
        fresh = {i: [maps[position].movedim(0, -1) for maps in computed] for position, i in enumerate(new)}
        for i, maps in fresh.items():
            self._keep(keys[i], maps)
        if len(new) == len(keys):
            return computed
        found = [fresh[i] if i in fresh else kept[i] for i in range(len(keys))]
        together = [torch.stack([m.to(images.device) for m in maps]) for maps in zip(*found, strict=True)]
        return [maps.movedim(-1, 1) for maps in together]

    def _found(self, key: bytes) -> list[Tensor] | None:
        if self.backbone is None:
            return self._kept.get(key)
        if self._folder is None:  # by now the weights are those that stay
            self._folder = FeatureFolder(folder_of(self.backbone), self.gigabytes)
        return self._folder.read(key)

    def _keep(self, key: bytes, maps: list[Tensor]) -> None:
        size = sum(m.nbytes for m in maps)
        if self._folder is not None and self._folder.write(key, maps):
            return
        if size > self._left or self._folder is not None:
            if not self.hits:
                warnings.warn(
                    f"{self.gigabytes:g} GB of features are kept, and no image came twice so far. Where augmentation"
                    " changes every image, leave cache_gb away; else give it more.",
                    stacklevel=2,
                )
                self.hits = 1  # say it once
            return
        self._left -= size
        with torch.inference_mode(False):  # what validation keeps, training may need
            self._kept[key] = [m.detach().cpu().clone() for m in maps]

    def _key(self, image: Tensor, size: tuple[int, int] | None) -> bytes:
        """Tell images, their padding and arithmetics apart."""
        device = image.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        kind = f"{tuple(image.shape)} {image.dtype} {autocast} {size}"
        rows = image.permute(1, 2, 0).contiguous().cpu().numpy()
        digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=16)
        digest.update(rows.tobytes())
        return digest.digest()
