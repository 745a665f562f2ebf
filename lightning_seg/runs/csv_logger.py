"""The logger that needs nothing: metrics.csv in the run directory."""

import csv
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.runs.directory import ENVIRONMENT, METRICS, JsonObject, write_whole

Kind = TypeVar("Kind", bound=Logger)


class RunLogger(Logger):
    """Append every logged value to ``metrics.csv``, one row a call, as Lightning's CSVLogger lays it out.

    Unlike CSVLogger, an existing file is continued, so that a resumed run keeps its history. Its name, version and
    save directory are what make Lightning put checkpoints into the run directory.

    Args:
        run: The run directory, ``<root>/<experiment>/<id>``.
        curves: Write curves; scores of a finished run are no part of them.
    """

    def __init__(self, run: Path, curves: bool = True) -> None:
        super().__init__()
        self.run = run
        self.curves = curves
        self.file = run / METRICS
        self._columns: list[str] = []
        if self.file.exists():
            with self.file.open(newline="") as lines:
                self._columns = next(csv.reader(lines), [])

    @property
    def name(self) -> str:
        """The experiment."""
        return self.run.parent.name

    @property
    def version(self) -> str:
        """The run's id."""
        return self.run.name

    @property
    def save_dir(self) -> str:
        """The folder of all runs; absolute, as a checkpoint's record of the best one is tied to its path."""
        return str(self.run.absolute().parent.parent)

    @property
    def log_dir(self) -> str:
        """The run directory."""
        return str(self.run)

    @rank_zero_only
    def log_hyperparams(self, params: JsonObject | Namespace, *args: object, **kwargs: object) -> None:
        """Add to environment.json what the data decided, such as class weights; config.yaml holds all settings."""
        file = self.run / ENVIRONMENT
        known = json.loads(file.read_text()) if file.exists() else {}
        write_whole(file, json.dumps(known | dict(params), indent=2) + "\n")

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        if not self.curves:
            return
        row: dict[str, float | None] = {"step": step, **metrics}
        new = [key for key in row if key not in self._columns]
        if new:
            self._rewrite(self._columns + new, self.rows())
        with self.file.open("a", newline="") as lines:
            csv.DictWriter(lines, self._columns, restval="").writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """Read back all rows."""
        if not self.file.exists():
            return []
        with self.file.open(newline="") as lines:
            return list(csv.DictReader(lines))

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows from a step on: a killed run logged them, and its continuation will log them again."""
        kept = [row for row in self.rows() if float(row["step"] or -math.inf) < step]
        if self._columns:
            self._rewrite(self._columns, kept)

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self._columns = columns
        temporary = self.file.with_suffix(".tmp")
        with temporary.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self.file)


def loggers_of(trainer: Trainer, kind: type[Kind]) -> list[Kind]:
    """Return the loggers of a trainer that are of a kind.

    Callbacks are built from settings before the loggers are, so that they find them by the trainer.
    """
    return [logger for logger in trainer.loggers if isinstance(logger, kind)]
