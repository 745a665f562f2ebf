"""Reading run directories: finished, unfinished, older and broken ones."""

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_seg.errors import UserError
from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, METRICS, TEST_IMAGES, TEST_SCORES, JsonObject

TAGS = "tags.json"

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_DEPTH = 4  # folders between the one that is named and a run; what lies deeper is no run
_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has it


# What may differ between runs without making them different experiments: the seed, and where and how fast it ran.
_INCIDENTAL = (
    "seed_everything",
    "name",
    "runs",
    "modules",
    "test_sets",
    "ckpt_path",
    "tracking",
    "wandb",
    "mlflow",
    "pictures",
    "checkpointing",
    "saving",  # its name before 0.2
    "slurm",
    "checkpoint.dirpath",
    "model.output",
    "data.init_args.root",
    "data.init_args.seed",
    "data.init_args.num_workers",
    "data.init_args.eval_batch_size",
    "data.init_args.predict_folder",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.deterministic",
    "trainer.benchmark",
)


# Callbacks that only show or write something: they make no other experiment of a run.
_LOGGING = (
    "LearningRateMonitor",
    "DeviceStatsMonitor",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "TQDMProgressBar",
    "ProgressBar",
    "Timer",
    "ThroughputMonitor",
    "Pictures",
    "FeatureMaps",
    "OverfittingMonitor",
)
_PRECISION = "trainer.precision"
_AUTOMATIC = ("32-true", "bf16-mixed", None)  # what a run chooses by itself
# Data sets of neighbors, for runs whose test.json does not say whether they are.
_SEQUENCES = ("CamVid", "CamVidOriginal", "ISBI")


def failure(run: Path) -> str | None:
    """Return why a run's training failed, or None if it did not."""
    try:
        failed = json.loads((run / ENVIRONMENT).read_text())["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(failed) if failed else None


@dataclass(frozen=True)
class Record:
    """One run as its directory tells it. Reading never raises: `problem` says what could not be read.

    Attributes:
        path: The run directory.
        config: Its config.yaml.
        environment: Its environment.json.
        test: Its test.json; empty before the test.
        problem: What is broken or missing, or an empty string.
    """

    path: Path
    config: JsonObject
    environment: JsonObject
    test: JsonObject
    problem: str = ""

    @property
    def experiment(self) -> str:
        """Name of the experiment; of a variant of an ablation ``<ablation>/<variant>``."""
        # Not the folder's: a run that was copied elsewhere is still of its experiment.
        return str(self.config.get("name") or self.path.absolute().parent.name)

    @property
    def id(self) -> str:
        """Name of the run within its experiment."""
        return self.path.absolute().name

    @property
    def seed(self) -> int | None:
        """The seed of everything."""
        return self.config.get("seed_everything")

    @property
    def status(self) -> str:
        """``tested``, ``failed``, ``not tested`` (running, stopped or only trained) or ``broken``."""
        if self.problem or self.test:
            return "broken" if self.problem else "tested"
        return "failed" if self.environment.get("failed") else "not tested"

    @property
    def reason(self) -> str:
        """Why the run is broken, has failed or has no scores, or an empty string."""
        if self.status == "not tested" and (self.config.get("trainer") or {}).get("fast_dev_run"):
            return "a trial of a few batches (trainer.fast_dev_run), whose scores are not kept"
        return self.problem or (str(self.environment["failed"]) if self.status == "failed" else "")

    @property
    def time(self) -> str:
        """When the run was started, as ``2026-11-21 07:53``."""
        return str(self.environment.get("time", ""))[:16].replace("T", " ")

    @cached_property
    def tags(self) -> list[str]:
        """The tags it was given with ``lightning-seg runs tag``, before that those of its configuration."""
        try:
            return [str(tag) for tag in json.loads((self.path / TAGS).read_text())]
        except (OSError, ValueError, TypeError):
            return [str(tag) for tag in (self.config.get("wandb") or {}).get("tags") or []]

    @cached_property
    def everything(self) -> JsonObject:
        """The configuration flattened to ``a.b.c: value``, with the effective batch size and the data."""
        measured = ("effective_batch_size", "data_fingerprint")
        return dict(flatten(self.config)) | {
            k: self.environment[k] for k in measured if k in self.environment
        }

    @cached_property
    def settings(self) -> JsonObject:
        """The part of `everything` that makes a run the experiment it is, whatever its seed and machine."""
        found = _essential(self.everything)
        chosen = any(str(a).startswith(f"--{_PRECISION}") for a in self.environment.get("command") or [])
        if found.get(_PRECISION) in _AUTOMATIC and not chosen:
            found.pop(_PRECISION, None)
        return found

    @property
    def sequence(self) -> bool:
        """Whether neighboring test images look alike, as frames of a video do."""
        fields = self.test.get("protocol", {})
        own = self.everything.get("data.init_args.sequence")
        return bool(fields.get("sequence", own or fields.get("data") in _SEQUENCES))

    def score(self, name: str) -> float:
        """Return a score of the test that is one number, such as ``miou``, as a fraction; NaN if there is none."""
        value = self.test.get("scores", {}).get(name)
        return float(value) if isinstance(value, int | float) else float("nan")

    @cached_property
    def training(self) -> tuple[float, float, float]:
        """Images, optimizer steps and seconds of the training, without validation; NaN where not recorded."""
        speed = self.curves().get("train/images_per_second")
        batch = self.environment.get("effective_batch_size")
        if speed is None or not batch:
            return float("nan"), float("nan"), float("nan")
        ends = speed[:, 0] + 1  # the step that ends each epoch, counted from 0
        timed = speed[:, 2] > 0
        seconds = np.diff(ends, prepend=0)[timed] * batch / speed[timed, 2]
        return float(ends[-1] * batch), float(ends[-1]), float(seconds.sum())

    @property
    def training_speed(self) -> float:
        """Images a second of the training; NaN where not recorded."""
        images, _, seconds = self.training
        return images / seconds if seconds else float("nan")

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """Names of the test images."""
        return self._images[0]

    @cached_property
    def counts(self) -> np.ndarray:
        """Counts (N, C, 3) int64 of each test image: intersection, predicted, true pixels of each class."""
        return self._images[1]

    @cached_property
    def _images(self) -> tuple[tuple[str, ...], np.ndarray]:
        try:
            with np.load(self.path / TEST_IMAGES) as file:
                names, counts = tuple(str(name) for name in file["names"]), file["counts"]
        except FileNotFoundError:
            raise UserError(
                f"{self.path} has no {TEST_IMAGES}; 'lightning-seg test {self.path}' writes it"
            ) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self.path / TEST_IMAGES} cannot be read ({error}); test the run again"
            ) from None
        classes = len(self.test.get("protocol", {}).get("classes", ()))
        if (
            counts.shape != (len(names), classes, 3)
            or abs(miou_and_iou(counts.sum(0))[0] - self.score("miou")) > 1e-6
        ):
            raise UserError(
                f"{TEST_IMAGES} and {TEST_SCORES} of {self.path} are not of one test; test the run again"
            )
        return names, counts

    @cached_property
    def mask_ap_left_out(self) -> np.ndarray | None:
        """Mask AP of the test without each block of images, (J,); None if it was not recorded."""
        return self._stored("mask_ap_left_out")

    @cached_property
    def panoptic(self) -> np.ndarray | None:
        """What each test image adds to panoptic quality, (N, C, 4); None if it was not recorded."""
        found, classes = self._stored("panoptic"), len(self.test.get("protocol", {}).get("classes", ()))
        return found if found is not None and found.shape == (len(self.image_names), classes, 4) else None

    @cached_property
    def image_groups(self) -> np.ndarray | None:
        """Number (N,) of each test image's group, such as a patient; None if the data set has none or did not say."""
        found = self._stored("groups")
        return found if found is not None and found.shape == (len(self.image_names),) else None

    @cached_property
    def confusion(self) -> np.ndarray | None:
        """Confusion matrix (C, C) of the test: pixels, rows the truth; None if an older version tested the run."""
        matrix, classes = self._stored("confusion"), len(self.test.get("protocol", {}).get("classes", ()))
        return matrix if matrix is not None and matrix.shape == (classes, classes) else None

    def _stored(self, name: str) -> np.ndarray | None:
        try:
            with np.load(self.path / TEST_IMAGES) as file:
                return np.asarray(file[name])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def columns(self) -> list[str]:
        """List the quantities in metrics.csv, also those without a value that is a number."""
        return next(iter(self._table()), [])

    def curves(self, classes: bool = False) -> dict[str, np.ndarray]:
        """Read metrics.csv: for each quantity points (P, 3) of step, epoch and value.

        Args:
            classes: Also those of single classes, such as ``val/iou/car``.
        """
        head, *rows = self._table() or [[]]
        if "step" not in head:
            return {}
        columns = dict(zip(head, zip_longest(*rows, fillvalue=""), strict=False))
        steps = _numbers(columns.get("step", ()))
        epochs = _numbers(columns["epoch"]) if "epoch" in columns else np.full(len(steps), np.nan)
        found = {}
        for name, texts in columns.items():
            depth = name.count("/")
            if (depth == 1 or (depth > 1 and (classes or name.startswith("train/")))) and name[:5] != "test/":
                points = np.stack([steps, epochs, _numbers(texts)], axis=1)
                points = points[np.isfinite(points[:, 0]) & np.isfinite(points[:, 2])]
                if len(points):
                    found[name] = points
        return found

    def _table(self) -> list[list[str]]:
        try:
            with (self.path / METRICS).open(newline="") as lines:
                return list(csv.reader(lines))
        except (OSError, ValueError, csv.Error):
            return []


def read(path: Path) -> Record:
    """Read a run directory.

    Args:
        path: The run directory; it may be empty or half written.
    """
    problems: list[str] = []
    config = _read(path / CONFIG, lambda text: yaml.load(text, _YamlLoader), problems, needed=True)
    environment = _read(path / ENVIRONMENT, json.loads, problems)
    test = _read(path / TEST_SCORES, json.loads, problems)
    if test and not (isinstance(test.get("protocol"), dict) and isinstance(test.get("scores"), dict)):
        problems.append(f"{TEST_SCORES} has no protocol or no scores")
        test = {}
    return Record(path, config, environment, test, "; ".join(problems))


def settings_of(config: JsonObject) -> JsonObject:
    """Flatten a configuration to ``a.b.c: value`` and keep what makes a run the experiment it is."""
    return _essential(dict(flatten(config)))


def find(paths: Iterable[Path]) -> list[Path]:
    """List the run directories under some folders, each once, in order of their names.

    Args:
        paths: Run directories, folders of experiments, or the folder of all runs.

    Raises:
        UserError: A path does not exist, or there is no run in it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"no folder {path}: expected runs/<experiment>/<id>, runs/<experiment> or runs")
        runs = sorted(_walk(path, _DEPTH))
        if not runs:
            raise UserError(f"no runs in {path}: 'lightning-seg exp quickstart' makes one in runs/")
        found |= {run.resolve(): run for run in runs if run.resolve() not in found}
    return list(found.values())


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    # A run that failed before its first line has no configuration, but the name of a run.
    if (folder / CONFIG).is_file() or RUN_ID.fullmatch(folder.absolute().name):
        yield folder  # and never look inside: W&B keeps files called config.yaml there
    elif depth:
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _walk(inner, depth - 1)


def _read(
    file: Path, parse: Callable[[str], object], problems: list[str], needed: bool = False
) -> JsonObject:
    try:
        content = parse(file.read_text())
        if isinstance(content, dict):
            return content
        problems.append(f"{file.name} is not a mapping")
    except FileNotFoundError:
        if needed:
            problems.append(f"no {file.name}: it failed before it began")
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{file.name} cannot be read ({str(error).splitlines()[0]})")
    return {}


def _essential(settings: JsonObject) -> JsonObject:
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in _INCIDENTAL)
    }
    callbacks = kept.get("trainer.callbacks")
    if isinstance(callbacks, list):
        acting = [c for c in callbacks if not _only_logs(c)]
        kept["trainer.callbacks"] = acting or None
    return kept


def _only_logs(callback: object) -> bool:
    name = str(callback.get("class_path") if isinstance(callback, dict) else callback)
    return name.rsplit(".", 1)[-1] in _LOGGING


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name, with dots, and the value of every setting."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _numbers(texts: Iterable[str]) -> np.ndarray:
    """Convert a column; NaN where it is empty, or was being written when the run was killed."""
    texts = [text or "nan" for text in texts]
    try:
        return np.array(texts, dtype=np.float64)
    except ValueError:
        return np.array([float(text) if _NUMBER.fullmatch(text) else np.nan for text in texts])
