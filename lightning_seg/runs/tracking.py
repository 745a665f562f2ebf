"""Mirroring a run to Weights & Biases, without ever making it wait, ask or fail.

The run directory is the truth and W&B its mirror, so all that can go wrong here (no account, no network, a
server that is down or silent) costs one printed line: the run goes on offline, its log complete in the run
directory, and the line says how to upload it later.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from lightning_seg.errors import UserError

# Modes as WANDB_MODE spells them; "run" and "dryrun" are their names of old.
MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


@dataclass
class Tracking:
    """Whether and where a run is mirrored to Weights & Biases.

    Args:
        project: W&B project.
        entity: W&B user or team; the account's default if not given.
        mode: auto and online log online if there is an account and a server that answers, else offline;
            offline looks for neither; disabled logs nothing to W&B. The environment's WANDB_MODE goes first.
        group: Name of the runs that belong together, such as the seeds of one setting.
        job_type: Kind of run within its group, such as train or test.
        tags: Words to filter runs by.
        notes: Free text shown with the run.
        watch: Log histograms of the gradients, the parameters or both (all), every 100 steps.
        init_timeout: Seconds the server has to answer before the run goes offline.
        finish_timeout: Seconds the last uploads may take; what is left by then stays in the run directory.
    """

    project: str = "lightning_seg"
    entity: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    watch: Literal["gradients", "parameters", "all"] | None = None
    init_timeout: float = 20
    finish_timeout: float = 120

    def start(
        self, run_dir: Path, config: Mapping[str, Any], model: nn.Module | None = None
    ) -> "MirrorLogger | None":
        """Open the W&B run of a run directory, or continue it, and return its logger for the trainer.

        Call it on every rank before the trainer starts, and `finish` at the end; only rank 0 opens a run.

        Args:
            run_dir: The run directory, ``<experiment>/<id>``; its id is the W&B run's, also when resumed.
            config: Configuration and environment in plain types; sent without home folder and user name.
            model: What `watch` watches.

        Returns:
            The logger, or None if tracking is disabled.

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
        run_dir = Path(run_dir).absolute()
        run = self._open(run_dir, anonymous(config), online=MODES[wanted] == "online")
        logger = MirrorLogger(project=self.project, save_dir=run_dir, id=run_dir.name, experiment=run)
        if model is not None and self.watch:
            logger.watch(model, log=self.watch, log_graph=False)
        return logger

    @rank_zero_only
    def _open(self, run_dir: Path, config: dict[str, Any], online: bool) -> Any:
        """Open the run online if that is wanted and possible, else offline; one printed line says which."""
        import wandb

        finish()  # else wandb would go on with an earlier run of this process
        _write_only_into(run_dir)
        settings = self._settings()
        arguments: dict[str, Any] = dict(
            dir=run_dir,
            id=run_dir.name,
            name=f"{run_dir.parent.name}/{run_dir.name}",
            resume="allow",
            config=config,
            project=self.project,
            entity=self.entity,
            group=self.group,
            job_type=self.job_type,
            tags=self.tags,
            notes=self.notes,
            settings=settings,
        )
        why = "as asked"
        if online:
            earlier = set(run_dir.glob("wandb/run-*"))
            try:
                wandb.setup(settings)
                if wandb.login(prompt=False, verify=False):
                    run = _define_metrics(wandb.init(mode="online", **arguments))
                    print(f"W&B: {run.url}", flush=True)
                    return run
                why = "no account known; `wandb login` adds one"
            except Exception as error:  # whatever it is that wandb met, the run goes on
                why = _one_line(error)
                with suppress(Exception):
                    wandb.teardown(exit_code=1)  # or wandb would hold the id to be in use
                for started in set(run_dir.glob("wandb/run-*")) - earlier:
                    shutil.rmtree(started)  # synced later, its failed start would overwrite the run
        try:
            run = _define_metrics(wandb.init(mode="offline", **arguments))
            print(f"W&B: offline ({why}). To upload the run: {sync_command(run_dir)}", flush=True)
            return run
        except Exception as error:
            print(f"W&B: off ({_one_line(error)}). All is in {run_dir}", flush=True)
            return wandb.init(mode="disabled")

    def _settings(self) -> Any:
        import wandb

        return wandb.Settings(
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,  # `finish` catches it to say what to do
            silent=True,  # wandb prints a dozen lines at either end, we print one
            symlink=False,  # a copied run directory would hold its log twice
            # Host, program path and command line name people and places; a patch of uncommitted work and the
            # remote's address are not ours to send. The commit is in the configuration. System metrics stay.
            x_disable_meta=True,
            host="",
            disable_git=True,
            disable_code=True,
        )


class MirrorLogger(WandbLogger):
    """A WandbLogger that lets training go on if W&B's own process is lost, say killed for its memory."""

    _lost = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, or media, at a step."""
        if self._lost:
            return
        try:
            super().log_metrics(metrics, step)
        except OSError as error:
            self._lost = True
            print(f"W&B: lost ({_one_line(error)}); the run goes on without it", flush=True)


def finish(error: BaseException | None = None) -> None:
    """End this process's W&B run, if it has one, as finished or as failed with its error.

    Waits for uploads no longer than `Tracking.finish_timeout`, and never raises.

    Args:
        error: What ended the run early.
    """
    wandb = sys.modules.get("wandb")  # if nothing imported it, there is no run
    if wandb is None or wandb.run is None:
        return
    run = wandb.run
    failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
    try:
        if failed:
            run.summary["error"] = anonymous(_one_line(error))
        run.finish(exit_code=int(failed))
    except Exception as problem:
        command = sync_command(Path(run.settings.root_dir), include_online=not run.offline)
        print(f"W&B: not all is uploaded ({_one_line(problem)}). To upload the rest: {command}", flush=True)
    with suppress(Exception):
        wandb.teardown(exit_code=int(failed))  # the next run of this process writes elsewhere


@contextmanager
def finishing() -> Iterator[None]:
    """End the W&B run that the block started, however the block is left."""
    try:
        yield
    except BaseException as error:
        finish(error)
        raise
    finish()


def sync_command(run_dir: Path, include_online: bool = False) -> str:
    """Return the command that uploads the W&B log of a run, all parts of a resumed one in order.

    Args:
        run_dir: The run directory.
        include_online: Whether to upload parts that were logged online, too.
    """
    path = Path(run_dir).absolute() / "wandb"
    path = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    wandb = ["wandb"] if shutil.which("wandb") else [sys.executable, "-m", "wandb"]
    return shlex.join([*wandb, "sync", *["--include-online"] * include_online, str(path)])


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


def _write_only_into(run_dir: Path) -> None:
    """Make wandb keep all it writes in the run directory, so that a copied run is whole."""
    os.environ["WANDB_DIR"] = str(run_dir)
    os.environ["WANDB_DATA_DIR"] = str(run_dir / "wandb" / "data")
    os.environ["WANDB_CACHE_DIR"] = str(run_dir / "wandb" / "cache")
    # Each waits about ten seconds, at the end and at the start of a run, for a host that does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")


def _define_metrics(run: Any) -> Any:
    """Declare the axes, and which value of a curve speaks for the run."""
    step = "trainer/global_step"
    run.define_metric(step)
    run.define_metric("epoch")
    run.define_metric("*", step_metric=step, step_sync=True)
    # By name only: a pattern with a summary would also take pictures and tables out of the summary.
    run.define_metric("val/miou", step_metric=step, step_sync=True, summary="max")
    run.define_metric("val/loss", step_metric=step, step_sync=True, summary="min")
    return run


def _one_line(error: BaseException | None) -> str:
    first = str(error).strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}"
