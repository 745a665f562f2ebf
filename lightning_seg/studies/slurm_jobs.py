"""Making the runs of an ablation as jobs of SLURM: arrays of runs, and the job that looks at them afterwards."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_seg.runs.directory import JsonObject
from lightning_seg.studies import launch
from lightning_seg.studies.slots import Slot


class SlotJob:
    """A run as a SLURM job: submitit calls it, in every life that the job has.

    Args:
        slot: What to run.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    def __call__(self) -> str:
        """Make the run or continue it, unless somebody else does, and say how it ended.

        Raises:
            RuntimeError: It failed, which SLURM should know.
        """
        from lightning_seg.studies.slurm import requeue

        log = self.slot.lock()
        if log is None or self.slot.settled():
            return f"{self.slot.name}: another runner {'makes' if log is None else 'made'} it"
        attempt = launch.Attempt(self.slot, log, {})
        warnings = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        with launch.handled(warnings, attempt.process.send_signal):  # the run saves and leaves
            while not attempt.ended():
                time.sleep(launch.POLL)
            said = f"{self.slot.name}: {attempt.finish()}"
        if reason := launch.fail_if_stuck(self.slot):
            said = f"{self.slot.name}: FAILED: {reason} ({self.slot.log})"
        print(said, flush=True)
        if self.slot.failure:
            raise RuntimeError(said)
        if self.slot.state() == "half done":
            requeue()
        return said

    def checkpoint(self) -> Any:
        """Tell submitit what to do if the signal comes before the run has begun: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(slots: Sequence[Slot], jobs: int, say: Callable[[str], None]) -> list[str]:
    """Submit runs as an array of SLURM jobs, or as several where variants ask for other resources.

    Args:
        slots: What to run.
        jobs: How many of an array may run at a time.
        say: Takes a line about each array that SLURM has taken.

    Returns:
        The ids of the jobs.

    Raises:
        UserError: submitit is not installed, or there is no SLURM or it refuses the jobs.
    """
    from lightning_seg.experiment.slurm_settings import Slurm
    from lightning_seg.studies.slurm import number_of_devices, submission

    ids = []
    for alike in _by_resources(slots):
        folder, config = slots[0].folder, alike[0].config
        devices = number_of_devices(config["trainer"]["devices"])
        gpus = 0 if config["trainer"]["accelerator"] == "cpu" else devices
        asked = Slurm(**config["slurm"])
        # The one task of the job starts a process for each device.
        wanted = replace(asked, cpus_per_task=asked.cpus_per_task * devices)
        with submission(
            folder / "slurm", folder.name, wanted, 1, 1, gpus, slurm_array_parallelism=jobs
        ) as executor:
            with executor.batch():
                submitted = [executor.submit(SlotJob(slot)) for slot in alike]
        own = [str(job.job_id) for job in submitted]
        say(f"submitted as SLURM jobs {own[0]} to {own[-1]}, {jobs} at a time.")
        ids += own
    return ids


def _by_resources(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Group runs by what they ask of SLURM: a job array is of one kind."""
    found: dict[str, list[Slot]] = {}
    for slot in slots:
        trainer = slot.config["trainer"]
        asked = [trainer["devices"], trainer["accelerator"], slot.config["slurm"]]
        found.setdefault(json.dumps(asked, sort_keys=True, default=str), []).append(slot)
    return [*found.values()]


class CommandJob:
    """A command of this program as a SLURM job.

    Args:
        arguments: Of the program.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)

    def __call__(self) -> None:
        """Run it.

        Raises:
            subprocess.CalledProcessError: It failed, which SLURM should know.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
        subprocess.run([*launch.PROGRAM, *self.arguments], check=True, env=environment)


def submit_after(config: JsonObject, folder: Path, ids: Sequence[str], arguments: Sequence[str]) -> str:
    """Submit a command as a job that begins when others have ended, however they did.

    Args:
        config: Settings of a run, whose ``slurm`` says where.
        folder: Of the ablation.
        ids: The jobs that it waits for.
        arguments: Of the program.

    Returns:
        The id of the job.

    Raises:
        UserError: submitit is not installed, or there is no SLURM or it refuses the job.
    """
    from lightning_seg.experiment.slurm_settings import Slurm
    from lightning_seg.studies.slurm import submission

    asked = Slurm(**config["slurm"])
    arrays = dict.fromkeys(job.partition("_")[0] for job in ids)
    options = {**asked.options, "dependency": ":".join(["afterany", *arrays])}
    wanted = replace(asked, cpus_per_task=1, hours=min(asked.hours, 1), options=options)
    with submission(folder / "slurm", f"{folder.name}-next", wanted, 1, 1, 0) as executor:
        return str(executor.submit(CommandJob(arguments)).job_id)
