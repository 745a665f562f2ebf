"""The trainer of an experiment: what every run has, whoever starts it."""

import logging
import sys
import warnings

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_seg.callbacks.checkpointing import Checkpointing, SeededSteps
from lightning_seg.callbacks.cudnn import CudnnBenchmark
from lightning_seg.callbacks.nonfinite import NonFinite
from lightning_seg.callbacks.overfitting import OverfittingMonitor
from lightning_seg.callbacks.pictures import Pictures
from lightning_seg.callbacks.progress import Progress
from lightning_seg.callbacks.training_curves import TrainingCurves
from lightning_seg.errors import UserError
from lightning_seg.experiment.lightning_parts import listed
from lightning_seg.training.checkpoint_io import SafeCheckpointIO

CALLBACKS: dict[str, type[Callback]] = {  # settings of their own beside the trainer's
    "checkpoint": ModelCheckpoint,
    "pictures": Pictures,
    "overfitting": OverfittingMonitor,
    "nonfinite": NonFinite,
    "checkpointing": Checkpointing,
}


def make_trainer(
    objects: Namespace, loggers: list[Logger], callbacks: list[Callback], precision: str | int | None = None
) -> Trainer:
    """Make the trainer of an experiment.

    Args:
        objects: The objects of its settings.
        loggers: Those of the run, its own first; loggers of the user's own come on top.
        callbacks: Further callbacks beside those of the settings.
        precision: In place of that of the settings, if given.

    Raises:
        UserError: Lightning refuses a setting.
    """
    given = dict(**objects.trainer)
    theirs, plugins = listed(given["callbacks"]), listed(given["plugins"])
    bar = given["enable_progress_bar"] is not False and sys.stderr.isatty()
    if not bar:  # it would fill a log
        theirs = [callback for callback in theirs if not isinstance(callback, ProgressBar)]
    # The first checkpoint callback is the one that Lightning, and the test, take.
    first, *own = (objects[name] for name in CALLBACKS)
    own += [*callbacks, Progress(), TrainingCurves(), SeededSteps(objects.seed_everything)]
    if given["benchmark"] is None and not given["deterministic"]:
        own.append(CudnnBenchmark())
    try:
        trainer = Trainer(
            **given
            | {
                "logger": [*loggers, *(x for x in listed(given["logger"]) if isinstance(x, Logger))],
                "callbacks": [first, *theirs, *own],
                "plugins": [SafeCheckpointIO(), *plugins],
                "default_root_dir": loggers[0].log_dir,
                "profiler": _profiler(given["profiler"], loggers[0].log_dir),
                "enable_progress_bar": bar,
                "precision": precision or given["precision"],
            }
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {error}") from error
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if given["sync_batchnorm"] and on_cpu and trainer.world_size > 1:
        raise UserError(
            "trainer.sync_batchnorm: PyTorch has it on GPUs only; several processes on CPUs need =false."
        )
    return trainer


def _profiler(given: Profiler | str | None, folder: str | None) -> Profiler | str | None:
    """Have a profiler that is asked for by a word write into the run directory: what it would print is silenced."""
    kinds: dict[str, type[Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    if not isinstance(given, str) or given not in kinds:
        return given
    return kinds[given](dirpath=folder, filename="profile")


def device_of(accelerator: str | Accelerator) -> torch.device:
    """Say on what kind of device the trainer will run."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def silence_libraries() -> None:
    """Silence what libraries say at every start and nobody can act on; errors and real warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Whoever asks for a summary wants to read it.
    logging.getLogger("lightning.pytorch.callbacks.model_summary").setLevel(logging.INFO)
    for message in (
        ".*does not have many workers.*",  # the data module has measured how many are worth it
        ".*sync_dist=True.*",  # the scores are those of all processes already
        ".*LeafSpec.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # that of the run which is resumed
        ".*The dirpath has changed.*",  # a run may be moved and copied
        ".*srun.* command is available.*",  # a run on a cluster's login node is no mistake
    ):
        warnings.filterwarnings("ignore", message)
