"""What images belong together, such as those of a patient, and must not be divided between splits or folds."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_seg.data.files import composed, is_image, without_ending
from lightning_seg.data.lists import read_lines
from lightning_seg.errors import UserError

_COLUMN = re.compile(r"(.+\.(?:csv|tsv|txt)):([^:/\\]+)")


class Groups:
    """Names the group of an image.

    Args:
        setting: ``folder``, a regular expression, or the column of a table, as in ``patients.csv:patient``.
        root: Folder of the data set, in which the table lies.

    Raises:
        UserError: It is none of these.
    """

    def __init__(self, setting: str, root: Path) -> None:
        self.setting = setting
        self._of_name: dict[str, str] | None = None
        if not setting.strip():
            raise UserError(
                "data.init_args.groups is empty. Leave it out, or give `folder` or a regular expression."
            )
        if column := _COLUMN.fullmatch(setting):
            self.table: Path | None = root / column[1]
            self.column = column[2]
            return
        self.table = None
        try:
            re.compile(setting)
        except re.error as error:
            raise UserError(
                f"data.init_args.groups is no regular expression: {setting!r} ({error})."
            ) from None

    def of(self, name: str) -> str:
        """Name the group of an image.

        Args:
            name: Its path below the folder of images, without ending.

        Raises:
            UserError: It has none.
        """
        if self.table is not None:
            return self._in_table(name, self.table)
        if self.setting == "folder":
            return Path(name).parent.as_posix()
        found = re.search(self.setting, name)
        if found is None:
            raise UserError(
                f"data.init_args.groups is {self.setting!r}, which does not occur in the name {name!r}. Every image "
                "needs a group."
            )
        return "/".join(part or "" for part in found.groups() or [found.group()])

    def _in_table(self, name: str, table: Path) -> str:
        if self._of_name is None:
            self._of_name = self._read(table)
        for known in (name, Path(name).name):
            if known in self._of_name:
                return self._of_name[known]
        raise UserError(f"{table} has no line for the image {name!r}. Every image needs a group.")

    def _read(self, table: Path) -> dict[str, str]:
        if not table.is_file():
            raise UserError(f"data.init_args.groups: {table} does not exist.")
        lines = read_lines(table)
        separator = max("\t,;", key=lines[0].count) if lines else ","
        rows = list(csv.DictReader(lines, delimiter=separator))
        columns = [] if not rows else [name for name in rows[0] if name is not None]
        if self.column not in columns[1:]:
            raise UserError(
                f"{table} has no column {self.column!r} after its first, which names the images. Its first line should "
                f"name the columns; they are {columns}."
            )
        found: dict[str, str] = {}
        for row in rows:
            name, group = composed(row[columns[0]] or ""), (row[self.column] or "").strip()
            key = without_ending(Path(name)).as_posix() if is_image(Path(name)) else name
            if not key or not group or found.get(key, group) != group:
                raise UserError(f"{table}: the image {name!r} has no group, or two.")
            found[key] = group
        return found


def group_numbers(groups: Sequence[str | None]) -> np.ndarray | None:
    """Number the groups of images (N,): a group's name may be a path, or a patient's, and is not told.

    Args:
        groups: Of each image; one without a group is a group by itself.

    Returns:
        The numbers; None if no image has a group.
    """
    if all(group is None for group in groups):
        return None
    each = [f"image {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    return np.unique(each, return_inverse=True)[1]
