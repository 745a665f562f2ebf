"""Training as a SLURM job that outlives its time limit and preemption."""

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_seg.errors import UserError
from lightning_seg.experiment.slurm_settings import Slurm
from lightning_seg.runs.directory import CONFIG, new_run, resume_command

if TYPE_CHECKING:
    from lightning_seg.experiment.experiment import ExperimentSettings

FOLDER = "slurm"  # in the run directory: the job's script and log
EXPERIMENT = f"{FOLDER}/experiment.yaml"


def submit(args: list[str]) -> str:
    """Check an experiment, make its run directory, submit its job and say how to follow it.

    Args:
        args: ``-c FILE [--key=value ...]``, as for training here.

    Returns:
        The job's id.

    Raises:
        UserError: A setting is wrong, submitit is not installed, or there is no SLURM or it refuses the job.
    """
    settings = _settings(args)
    trainer = settings.config.trainer
    run = new_run(Path(settings.config.runs), settings.config.name)
    try:
        with _submission(settings, run / FOLDER) as executor:
            (run / FOLDER).mkdir(exist_ok=True)
            (run / EXPERIMENT).write_text(settings.text)
            job = executor.submit(RunJob(run))
    except UserError:
        shutil.rmtree(run)  # of a run that never was
        with suppress(OSError):  # the experiment has other runs
            run.parent.rmdir()
        raise
    log = run / FOLDER / f"{job.job_id}_0_log.out"
    print(
        f"job {job.job_id}, {trainer.num_nodes} node(s) x {trainer.devices} task(s): {run}\n"
        f"follow  tail -F {log}\n"
        f"state   squeue --jobs {job.job_id}\n"
        f"stop    scancel --signal=INT {job.job_id}   (saves; {resume_command(run)} continues)"
    )
    return str(job.job_id)


def script(args: list[str]) -> str:
    """Check an experiment and return the script that `submit` would give to sbatch; no SLURM is needed.

    Args:
        args: ``-c FILE [--key=value ...]``, as for training here.

    Raises:
        UserError: A setting is wrong, or submitit is not installed.
    """
    settings = _settings(args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).absolute()
        for program in ("sbatch", "srun"):  # submitit writes its script when it submits, and looks for both
            (folder / program).write_text("#!/bin/sh\necho Submitted batch job 0\n")
            (folder / program).chmod(0o700)
        path = os.environ["PATH"]
        try:
            os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
            with _submission(settings, folder) as executor:
                text: str = executor.submit(RunJob(folder)).paths.submission_file.read_text()
        finally:
            os.environ["PATH"] = path
    run = Path(settings.config.runs, settings.config.name, "<id>").absolute()
    return text.replace(str(folder), str(run / FOLDER))


def _settings(args: list[str]) -> "ExperimentSettings":
    from lightning_seg.experiment.experiment import ExperimentSettings

    settings = ExperimentSettings(args)
    settings.config.trainer.devices = number_of_devices(settings.config.trainer.devices)
    return settings


def _submission(settings: "ExperimentSettings", folder: Path) -> AbstractContextManager[Any]:
    config, trainer = settings.config, settings.config.trainer
    gpus = 0 if trainer.accelerator == "cpu" else trainer.devices
    return submission(folder, config.name, config.slurm, trainer.num_nodes, trainer.devices, gpus)


@contextmanager
def submission(
    folder: Path, name: str, wanted: Slurm, nodes: int, tasks: int, gpus: int, **more: Any
) -> Iterator[Any]:
    """Make submitit's executor, and put into words what goes wrong with it.

    Args:
        folder: Where scripts and logs of the jobs go.
        name: Of the jobs.
        wanted: What each job asks for.
        nodes: Machines of a job.
        tasks: Processes on each.
        gpus: GPUs on each.
        **more: Further parameters of `submitit.AutoExecutor.update_parameters`.

    Raises:
        UserError: submitit is not installed, or there is no SLURM or it refuses the job.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            "SLURM jobs need the package submitit: .venv/bin/uv pip install --python .venv/bin/python submitit"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=1000)
        executor.update_parameters(
            name=name,
            nodes=nodes,
            tasks_per_node=tasks,
            cpus_per_task=wanted.cpus_per_task,
            timeout_min=max(1, round(60 * wanted.hours)),
            slurm_signal_delay_s=wanted.warning_seconds,
            stderr_to_stdout=True,
            slurm_setup=wanted.setup or None,
            slurm_srun_args=["--kill-on-bad-exit=1"],  # a task that dies ends the others
            slurm_additional_parameters={"requeue": True, **wanted.options},
            **({"gpus_per_node": gpus} if gpus else {}),
            **({"mem_gb": wanted.memory_gb} if wanted.memory_gb else {}),
            **({"slurm_partition": wanted.partition} if wanted.partition else {}),
            **more,
        )
        with redirect_stderr(io.StringIO()):  # submitit prints what the error says, too
            yield executor
    except (RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError) as error:
        hint = ""
        if gpus and ("gres" in str(error) or "GPU" in str(error)):
            hint = f"\nIt asked for {gpus} GPU(s) on each node; without any: --trainer.accelerator=cpu."
        raise UserError(f"the job could not be submitted: {str(error).strip()}{hint}") from None


class RunJob:
    """What a job's tasks do: begin the run or continue it, and go back into the queue when they have to leave.

    ``scancel --signal=INT`` saves and ends the job. ``scancel`` alone may kill the tasks before they have saved: its
    SIGTERM reaches srun, too, which answers with SIGKILL for them.

    Args:
        run: The run directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run

    def __call__(self) -> None:
        """Train as far as SLURM lets it."""
        from lightning_seg.callbacks.checkpointing import Stopped
        from lightning_seg.experiment.training import resume, train

        try:
            if (self.run / CONFIG).exists():
                resume(self.run, [])
            else:
                train(["-c", str(self.run / EXPERIMENT)], then_test=True, run=self.run)
        except Stopped as stopped:
            if stopped.signal == signal.SIGINT or int(os.environ["SLURM_PROCID"]) or not requeue():
                raise
        except UserError as error:
            raise SystemExit(f"error: {error}") from None

    def checkpoint(self) -> Any:
        """Tell submitit what to do if the signal comes before training has begun: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> bool:
    """Put this job back into the queue and return True, unless it was cancelled or its user does not want it."""
    number = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{number}_{os.environ['SLURM_ARRAY_TASK_ID']}" if number else os.environ["SLURM_JOB_ID"]
    show = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, timeout=60)
    if not re.search(r"\bJobState=RUNNING\b", show.stdout):
        return False  # a cancelled job is COMPLETING by now
    print(f"job {job} goes back into the queue and will continue by itself", flush=True)
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    return True


def number_of_devices(devices: Any) -> int:
    """Return the devices of one node; one, where it is left to Lightning.

    Raises:
        UserError: It is no number.
    """
    if devices in ("auto", "-1", -1):
        return 1
    try:
        return int(devices)
    except (TypeError, ValueError):
        raise UserError(
            f"SLURM chooses the devices itself: say how many, as in --trainer.devices=4; got {devices!r}."
        ) from None
