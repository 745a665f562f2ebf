"""Feature maps of a frozen backbone in a folder that all runs with the same backbone share."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_seg.data.cache_folder import cache_folder
from lightning_seg.networks.backbones.base import Backbone

_ALIGN = 64  # bytes that the head of a file is a multiple of


class FeatureFolder:
    """One memory-mapped file for the maps of each image; several processes may read and write at once.

    A file appears whole or not at all. Runs that read it at the same time share its pages in memory.

    Args:
        folder: Where the files are; it is made.
        gigabytes: How much they may take together; what comes later is not kept.
    """

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._left = gigabytes * 1e9 - sum(file.stat().st_size for file in folder.glob("*.maps"))

    def read(self, key: bytes) -> list[Tensor] | None:
        """Return the maps (h, w, C) of an image, None if they are not there."""
        try:
            whole = np.memmap(
                self.folder / f"{key.hex()}.maps", np.uint8, mode="c"
            )  # writes would go to a copy
        except (FileNotFoundError, ValueError):
            return None
        length = int(whole[:8].view(np.int64)[0])
        start, found = length, []
        for dtype, shape in json.loads(whole[8:length].tobytes()):
            kind: torch.dtype = getattr(torch, dtype)
            size = int(np.prod(shape)) * kind.itemsize
            found.append(torch.from_numpy(whole[start : start + size]).view(kind).reshape(shape))
            start += size + -size % _ALIGN
        return found

    def write(self, key: bytes, maps: list[Tensor]) -> bool:
        """Keep the maps of an image; say whether there was room."""
        head = json.dumps([(str(m.dtype).removeprefix("torch."), list(m.shape)) for m in maps]).encode()
        head += b" " * (-(8 + len(head)) % _ALIGN)
        parts = [np.int64(8 + len(head)).tobytes(), head]
        for m in maps:
            data = m.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            parts += [data, b"\0" * (-len(data) % _ALIGN)]
        size = sum(map(len, parts))
        if size > self._left:
            return False
        self._left -= size
        building = self.folder / f"{key.hex()}.{os.getpid()}"
        building.write_bytes(b"".join(parts))
        building.replace(self.folder / f"{key.hex()}.maps")
        return True


def folder_of(backbone: Backbone) -> Path:
    """Name the folder of a backbone's features: by weights, layers, normalization and the version of torch."""
    digest = hashlib.blake2b(f"{torch.__version__} hwc {backbone!r}".encode(), digest_size=12)
    # What is taken of the same layers, such as which blocks of a transformer, and whether with its norm.
    digest.update(f"{backbone.describe()} {backbone.mean} {backbone.std} {backbone.scaling}".encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return cache_folder() / "features" / digest.hexdigest()
