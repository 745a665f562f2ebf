"""Reading JSON files that list a data set, strictly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_seg.errors import UserError


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        UserError: It cannot be read, is cut off or otherwise no JSON, has a key twice, or holds something else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in found if keys.count(key) > 1)
            raise UserError(f"{path}: the key {twice!r} stands twice in one mapping. Remove one of them.")
        return found

    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or cut off: {error}.") from None
    if not isinstance(contents, dict):
        raise UserError(
            f"{path} should hold a mapping with images, annotations and categories; it is a list or value."
        )
    return contents
