"""What an experiment asks of SLURM."""

from dataclasses import dataclass, field

from lightning_seg.runs.directory import JsonObject


@dataclass
class Slurm:
    """What a job asks of SLURM; it gets one task for each device of the trainer.

    Args:
        partition: Partition; the cluster's default if not given.
        hours: Time limit. A job that reaches it is queued again and continues.
        cpus_per_task: Processor cores of each task.
        memory_gb: Memory of each node; the cluster's default if not given.
        warning_seconds: How long before the limit the job is warned. A training step and the writing of a checkpoint
            must fit in.
        options: Any other options of sbatch, as in ``{account: vision, constraint: a100}``.
        setup: Lines of shell to run before, such as ``module load cuda``.
    """

    partition: str | None = None
    hours: float = 24
    cpus_per_task: int = 8
    memory_gb: float | None = None
    warning_seconds: int = 120
    options: JsonObject = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
