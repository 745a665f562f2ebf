"""Logging a run to Weights & Biases, without ever making it wait, ask or fail.

The run directory is the truth and W&B a copy of it, so all that can go wrong here (no account, no network, a
server that is down or silent) costs a printed line: the run goes on offline, its log complete in the run
directory, and the last line says how to upload it later.
"""

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.runs.provenance import package_commit
from lightning_seg.runs.records import Record, read
from lightning_seg.tracking.naming import SETTINGS, run_name, short_settings
from lightning_seg.tracking.wandb_logger import ANSWER_TIMEOUT, SAMPLES, WandbRunLogger, anonymous, one_line

if TYPE_CHECKING:
    from wandb import Run, Settings

# Modes as WANDB_MODE spells them; "run" and "dryrun" are their names of old.
MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}

_LONGEST_NAME = 128  # characters that W&B takes
_LONGEST_TAG = 64
_NOT_IN_NAMES = "/\\#?%:"

# Which value of a curve speaks for the run.
BEST = {"val/miou": "max", "val/mask_ap": "max", "val/pq": "max", "val/loss": "min", "train/loss": "min"}


@dataclass
class WandbSettings:
    """Whether and where a run is logged to Weights & Biases.

    Args:
        project: W&B project.
        entity: W&B user or team; the account's default if not given.
        mode: auto and online log online if there is an account and a server that answers, else offline;
            offline looks for neither; disabled logs nothing to W&B. The environment's WANDB_MODE goes first.
        group: Name of the runs that belong together; the experiment's, unless given.
        job_type: Kind of run within its group.
        tags: Words to filter runs by.
        notes: Free text shown with the run.
        watch: Log histograms of the gradients, the parameters or both (all), every 100 steps.
        checkpoints: Upload the best and the last checkpoint as artifacts when training has ended.
        code: Upload the patches of what was not committed of the code, which the run directory keeps.
        init_timeout: Seconds the server has to answer before the run goes offline.
        finish_timeout: Seconds the last uploads may take; what is left by then stays in the run directory.

    Raises:
        UserError: A name that W&B would refuse when training is under way.
    """

    project: str = "lightning_seg"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    group: str | None = None
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    watch: Literal["gradients", "parameters", "all"] | None = None
    checkpoints: bool = True
    code: bool = False
    init_timeout: float = 20
    finish_timeout: float = 300

    def __post_init__(self) -> None:
        """Refuse names that W&B does not take; the run would be logged nowhere."""
        for setting, name in (("project", self.project), ("entity", self.entity)):
            if name is None:
                continue
            if "/" in name.strip("/") and setting == "project":
                entity, _, project = name.partition("/")
                raise UserError(
                    f"wandb.project is {name!r}; user or team have a setting of their own: --wandb.entity={entity} "
                    f"--wandb.project={project.replace('/', '-')}"
                )
            wrong = [letter for letter in name if letter in _NOT_IN_NAMES or not letter.isprintable()]
            if wrong or not name.strip() or len(name) > _LONGEST_NAME:
                raise UserError(
                    f"wandb.{setting} must be 1 to {_LONGEST_NAME} characters without any of {_NOT_IN_NAMES}; got "
                    f"{name!r}."
                )
        for tag in self.tags:
            if not 1 <= len(tag) <= _LONGEST_TAG:
                raise UserError(f"wandb.tags: a tag has 1 to {_LONGEST_TAG} characters; got {tag!r}.")

    def start(
        self,
        run_dir: Path,
        config: Mapping[str, object],
        model: nn.Module | None = None,
        overrides: Sequence[str] = (),
    ) -> "WandbRun | None":
        """Open the W&B run of a run directory, or continue it; call it on every rank before the trainer starts.

        Args:
            run_dir: The run directory, ``<experiment>/<id>``; its id is the W&B run's. A resumed run keeps the id it
                has, and one that W&B's agent started for a sweep is given the agent's.
            config: Configuration in plain types; sent without home folder and user name.
            model: What `watch` watches.
            overrides: The arguments by which the run differs from its experiment, ``--key=value``: they make its name.

        Returns:
            The run, to be finished by the caller; None if W&B is disabled.

        Raises:
            UserError: WANDB_MODE holds no mode.
        """
        wanted = os.environ.get("WANDB_MODE") or self.mode.replace("auto", "online")
        if wanted not in MODES:
            raise UserError(
                f"WANDB_MODE must be one of {', '.join(MODES)}, not {wanted!r}; correct or unset it"
            )
        if MODES[wanted] == "disabled":
            return None
        record = read(Path(run_dir).absolute())
        overrides = record.environment.get("overrides", overrides)  # a resumed run keeps its name
        record = replace(record, config=anonymous(config))
        run = WandbRun(self, record, overrides, online=MODES[wanted] == "online")
        if model is not None and self.watch:
            run.logger.watch(model, log=self.watch, log_graph=False)
        return run


class WandbRun:
    """The W&B run of a run directory. It is open from here to `finish`; a ``with`` block finishes it.

    Only rank 0 opens a run; on other ranks the logger logs nothing.

    Args:
        settings: Whether and where to log.
        record: The run directory and the configuration, as it may be sent.
        overrides: The arguments by which the run differs from its experiment.
        online: Log online if there is an account and a server that answers.

    Attributes:
        logger: For the trainer.
    """

    def __init__(
        self, settings: WandbSettings, record: Record, overrides: Sequence[str], online: bool
    ) -> None:
        self.settings = settings
        self.run_dir = record.path
        self.record = record
        self.overrides = overrides
        self._run = self._open(online)
        self.logger = WandbRunLogger(
            record, settings.project, self._run, overrides, settings.checkpoints, settings.code
        )

    def __enter__(self) -> "WandbRun":
        """Return the run itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Finish the run, however the block is left."""
        self.finish(error)

    @rank_zero_only
    def _open(self, online: bool) -> "Run":
        """Open the run online if that is wanted and possible, else offline; one printed line says which."""
        _write_only_into(self.run_dir)  # before the import, which reads some of it
        import wandb

        if wandb.run is not None:
            wandb.finish()  # else wandb would go on with an earlier run of this process
        why = "as asked"
        if online:
            earlier = set(self.run_dir.glob("wandb/run-*"))
            try:
                wandb.setup(self._wandb_settings())
                if wandb.login(prompt=False, verify=False):
                    import wandb.apis.public  # noqa: F401  (seconds, which the first table would be blamed for)

                    run = self._init("online")
                    print(f"W&B: {run.url}", flush=True)
                    return run
                why = "no account known; `wandb login` adds one"
            except Exception as error:  # whatever it is that wandb met, the run goes on
                why = one_line(error)
                with suppress(Exception):
                    wandb.teardown(exit_code=1)  # or wandb would hold the id to be in use
                for started in set(self.run_dir.glob("wandb/run-*")) - earlier:
                    shutil.rmtree(started)  # synced later, its failed start would overwrite the run
        try:
            run = self._init("offline")
            print(f"W&B: offline ({why})", flush=True)
            return run
        except Exception as error:
            print(f"W&B: off ({one_line(error)}). All is in {self.run_dir}", flush=True)
            return wandb.init(mode="disabled")

    def _init(self, mode: Literal["online", "offline"]) -> "Run":
        import wandb

        run = wandb.init(
            mode=mode,
            dir=self.run_dir,
            id=_run_id(self.run_dir),
            name=run_name(self.record, self.overrides)[:_LONGEST_NAME],
            resume="allow",
            config={**short_settings(self.record, self.overrides), SETTINGS: self.record.config},
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.settings.group or self.record.experiment,
            job_type=self.settings.job_type,
            tags=self.settings.tags,
            notes=self.settings.notes,
            settings=self._wandb_settings(),
        )
        _define_metrics(run)
        return run

    def _wandb_settings(self) -> "Settings":
        import wandb

        return wandb.Settings(
            init_timeout=self.settings.init_timeout,
            finish_timeout=self.settings.finish_timeout,
            finish_timeout_raises=True,  # `finish` catches it to say what to do
            silent=True,  # wandb prints a dozen lines at either end, we print one
            symlink=False,  # a copied run directory would hold its log twice
            # Host, program path and command line name people and places; a patch of uncommitted work and the
            # remote's address are not ours to send. The commit and the system metrics are.
            x_disable_meta=True,
            host="",
            disable_git=True,
            git_commit=package_commit(),
            disable_code=True,
        )

    @rank_zero_only
    def finish(self, error: BaseException | None = None) -> None:
        """End the run as finished, or as failed with its error.

        Waits for uploads no longer than `WandbSettings.finish_timeout`, and never raises. A second call does nothing.

        Args:
            error: What ended the run early.
        """
        run, self._run = self._run, None
        if run is None:
            return
        import wandb

        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        log = Path(run.settings.log_internal)
        summary: dict[str, object] = {}
        offline, refused = run.offline, None
        try:
            if failed:
                run.summary["error"] = anonymous(one_line(error))
            run.summary.update(best_values(self.run_dir))
            known = {name: run.summary.get(name) for name in run.summary.keys()}
            summary = {name: value for name, value in known.items() if _is_plain(value)}
            logged = run.step > 0
            self.logger.settle()
            run.finish(exit_code=int(failed))
            refused = None if offline else _refused(log)
        except Exception as problem:
            logged, refused = True, one_line(problem)
        with suppress(Exception):
            wandb.teardown(exit_code=int(failed))  # the next run of this process writes elsewhere
        missing = refused or self.logger.missing
        if missing:
            self._keep_artifacts(summary, failed)
        if missing and not offline:
            command = sync_command(self.run_dir)
            print(f"W&B: not all is uploaded ({missing}). To upload the rest: {command}", flush=True)
        elif offline and logged:
            print(f"W&B: to upload the run: {sync_command(self.run_dir)}", flush=True)

    def _keep_artifacts(self, summary: dict[str, object], failed: bool) -> None:
        """Log the artifacts in another part of the run, offline: what was not uploaded of them, W&B forgets."""
        import wandb

        with suppress(Exception):  # the files themselves are in the run directory
            run = self._init("offline")
            self.logger.log_again(run)
            run.summary.update(summary)  # that of the last part counts
            run.finish(exit_code=int(failed))
            wandb.teardown(exit_code=int(failed))


def _refused(log: Path) -> str | None:
    """Find what the server refused in the log of W&B's process, which counts that as a success.

    Args:
        log: Its debug-internal.log; what was sent again with success is no error there.
    """
    with suppress(OSError, ValueError):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if entry["level"].startswith("ERROR"):
                return f"{entry['msg']} {entry.get('status', '')}".strip()
    return None


def best_values(run_dir: Path) -> dict[str, object]:
    """Find what speaks for all of a run: W&B looks at the part since it was resumed last."""
    record = read(run_dir)
    curves, checkpoint = record.curves(), record.config.get("checkpoint") or {}
    found: dict[str, object] = {
        name: {best: float({"max": max, "min": min}[best](curves[name][:, 2]))}
        for name, best in BEST.items()
        if name in curves
    }
    chosen = curves.get(checkpoint.get("monitor", "val/miou"))  # by which the best checkpoint was, too
    sign = -1 if checkpoint.get("mode") == "min" else 1
    best_at = np.nan if chosen is None else chosen[(sign * chosen[:, 2]).argmax(), 1]
    if np.isfinite(best_at):
        found["best_epoch"] = int(best_at)
    return found


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) or (
        isinstance(value, Mapping) and set(value) <= {"max", "min"}
    )


def sync_command(run_dir: Path) -> str:
    """Return the command that uploads the W&B log of a run."""
    path = Path(run_dir).absolute()
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.join(["lightning-seg", "sync", str(path)])


def _run_id(run_dir: Path) -> str:
    """Return the id of the W&B run: that of its last part, or the directory's name."""
    logs = sorted(run_dir.glob("wandb/*run-*/run-*.wandb"), key=lambda log: log.stat().st_mtime)
    return logs[-1].stem.removeprefix("run-") if logs else run_dir.name


def _write_only_into(run_dir: Path) -> None:
    """Make wandb keep all it writes in the run directory, so that a copied run is whole."""
    os.environ["WANDB_DIR"] = str(run_dir)
    os.environ["WANDB_DATA_DIR"] = str(run_dir / "wandb" / "data")
    os.environ["WANDB_CACHE_DIR"] = str(run_dir / "wandb" / "cache")
    # Each waits about ten seconds, at the end and at the start of a run, for a host that does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")
    # And every table and artifact 19, while training waits, for an answer that is not needed.
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(ANSWER_TIMEOUT))


def _define_metrics(run: "Run") -> None:
    """Declare the axes, and which value of a curve speaks for the run."""
    step = "trainer/global_step"
    for axis in (step, SAMPLES, "epoch"):
        run.define_metric(axis)
    run.define_metric("*", step_metric=step, step_sync=True)
    # By name only: a pattern with a summary would also take pictures and tables out of the summary.
    for name, best in BEST.items():
        run.define_metric(name, step_metric=step, step_sync=True, summary=best)
