"""Files of predictions: folders and values of their pixels."""

from pathlib import Path

import numpy as np
from torch import Tensor

from lightning_seg.errors import UserError


def as_bytes(values: Tensor) -> np.ndarray:
    """Turn values (H, W) in 0..1 into 0..255."""
    return (255 * values).round().byte().cpu().numpy()


def make_folders(output: Path, names: list[str]) -> None:
    """Create folders to write to.

    Raises:
        UserError: They cannot be created.
    """
    try:
        for name in names:
            (output / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}; choose another --output") from error
