"""A W&B run as the trainer's logger: what it sends, when, and what becomes of it if the server does not answer."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_seg.runs.directory import BEST_CHECKPOINT, LAST_CHECKPOINT
from lightning_seg.runs.records import Record
from lightning_seg.tracking.naming import short_settings

if TYPE_CHECKING:
    from wandb import Artifact, Run

SAMPLES = "trainer/samples"  # images seen so far
ANSWER_TIMEOUT = 3  # seconds that W&B's questions about an artifact may take
_SLOW = "the server took too long to answer"


class WandbRunLogger(WandbLogger):
    """A WandbLogger of one run directory for which training never waits, and whose W&B process may die.

    Values and pictures are written to W&B's log on disk at once. Artifacts, and tables are such, are not: online W&B
    asks the server about each, and forgets those that it could not upload. So the newest are kept here, for
    `log_again`.

    Args:
        record: The run directory and the configuration.
        project: W&B project.
        run: The open W&B run; None where another process has it.
        overrides: The arguments by which the run differs from its experiment.
        checkpoints: Whether to upload checkpoints.
        code: Whether to upload the patches of what was not committed.

    Attributes:
        missing: Why not all tables and artifacts are logged; None if they are.
    """

    def __init__(
        self,
        record: Record,
        project: str,
        run: "Run | None",
        overrides: Sequence[str] = (),
        checkpoints: bool = True,
        code: bool = False,
    ) -> None:
        super().__init__(project=project, save_dir=record.path, id=record.id, experiment=run)
        self.run_dir = record.path
        self._record = record
        self._overrides = overrides
        self.missing: str | None = None
        self._images_seen: Callable[[], int] | None = None
        self._lost = False
        self._use: threading.Thread | None = None
        self._used = False
        self._checkpoints = [BEST_CHECKPOINT, LAST_CHECKPOINT] if checkpoints else []
        self._code = code
        self._artifacts: dict[str, Callable[[], object]] = {}  # logs the newest of each name

    @rank_zero_only
    def begin_training(
        self,
        environment: Mapping[str, object],
        data: str,
        data_version: Mapping[str, object],
        images_seen: Callable[[], int],
    ) -> None:
        """Tell what is known when the training begins.

        Args:
            environment: What the run depends on besides its configuration, in plain types.
            data: Name of the data set. It becomes an input of the run; equal versions are one artifact for all runs.
            data_version: What tells this version of the data from others, in plain types; the files themselves stay
                where they are.
            images_seen: Counts the images trained on so far, of all processes: an axis of the curves.
        """
        self._images_seen = images_seen
        record = replace(self._record, environment=dict(environment))
        self.log_hyperparams({"environment": environment, **short_settings(record, self._overrides)})
        self._add("data", partial(self._use_data, data, data_version))
        patches = sorted(self.run_dir.glob("*.patch")) if self._code else []
        if patches:
            self._add("code", partial(self._upload, f"code-{self.version}", "code", patches))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, or pictures, at a step."""
        if self._images_seen:
            metrics = {**metrics, SAMPLES: self._images_seen()}
        self._send(lambda: super(WandbRunLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add to the run's configuration."""
        self._send(lambda: super(WandbRunLogger, self).log_hyperparams(anonymous(params)))

    @rank_zero_only
    def add_table(self, name: str, table: Callable[[], Any], step: int) -> None:
        """Log a table, or a chart made of one.

        Args:
            name: Of the panel.
            table: Makes the table; called once more if it is to be logged again.
            step: Optimizer step.
        """
        self._add(name, lambda: super(WandbRunLogger, self).log_metrics({name: table()}, step))

    def _use_data(self, name: str, version: Mapping[str, object]) -> None:
        import wandb

        artifact = wandb.Artifact(_artifact_name(name), "dataset", metadata=dict(version))
        with artifact.new_file("version.json") as file:
            json.dump(version, file, indent=2, sort_keys=True)
        if self.experiment.offline:  # there W&B knows outputs only; `lightning-seg sync` makes it an input
            self.experiment.log_artifact(artifact)
        else:  # this waits until the artifact is uploaded
            self._use = threading.Thread(target=self._use_artifact, args=(artifact,), daemon=True)
            self._use.start()

    def _use_artifact(self, artifact: "Artifact") -> None:
        with suppress(Exception):
            self.experiment.use_artifact(artifact)
            self._used = True

    def settle(self) -> None:
        """Wait before the run is ended until its data is declared, which a very short one may be ahead of."""
        if self._use is not None:
            self._use.join(3 * ANSWER_TIMEOUT)
            self.missing = self.missing or (None if self._used else _SLOW)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Upload the checkpoints of a training that came to its end."""
        for name in self._checkpoints if status == "success" else []:
            file = self.run_dir / name
            if name not in self._artifacts and file.is_file():  # the test that follows ends here, too
                self._add(name, partial(self._upload, f"model-{self.version}", "model", [file], [file.stem]))

    def log_again(self, run: "Run") -> None:
        """Log the newest artifact of each name once more.

        Args:
            run: The same run, opened offline.
        """
        self._experiment = run
        for artifact in self._artifacts.values():
            artifact()

    def _add(self, name: str, artifact: Callable[[], object]) -> None:
        import wandb

        self._artifacts[name] = artifact
        if self.missing:
            return  # training waits for a silent server once
        start = time.monotonic()
        try:
            self._send(artifact)
        except wandb.Error as error:
            self.missing = one_line(error)
        # Offline nobody was asked: if that took long, the machine is busy.
        slow = time.monotonic() - start > ANSWER_TIMEOUT * 0.9
        if slow and not self._lost and not self.experiment.offline:
            self.missing = self.missing or _SLOW

    def _upload(self, name: str, kind: str, files: list[Path], aliases: list[str] | None = None) -> None:
        import wandb

        artifact = wandb.Artifact(_artifact_name(name), kind)
        for file in files:
            # Neither copied before the upload nor cached after it: nothing changes it any more.
            artifact.add_file(str(file), policy="immutable", skip_cache=True)
        self.experiment.log_artifact(artifact, aliases=aliases)

    def _send(self, message: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            message()
        except OSError as error:  # say W&B's process was killed for its memory
            self._lost = True
            print(f"W&B: lost ({one_line(error)}); the run goes on without it", flush=True)


def anonymous(value: Any) -> Any:
    """Replace the home folder by ``~`` and the user's name in paths by ``USER``, in all strings of a tree."""
    if isinstance(value, Mapping):
        return {key: anonymous(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(item) for item in value]
    if not isinstance(value, str):
        return value
    home, user = os.path.expanduser("~"), os.environ.get("USER")
    if len(home) > 1:  # a container's may be /
        value = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value)
    return re.sub(rf"(?<=/){re.escape(user)}(?![\w.-])", "USER", value) if user else value


def one_line(error: BaseException | None) -> str:
    """Return an error's class and the first line of what it says."""
    first = str(error).strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}"


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)
