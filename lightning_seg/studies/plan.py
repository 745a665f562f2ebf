"""What an ablation consists of: variants of one experiment, each with several seeds, and how far each run is."""

import difflib
import fcntl
import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import IO, Any, Literal

import yaml

from lightning_seg.analysis.groups import short
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.records import Record, read, settings_of

ABLATIONS = Path("experiments/ablations")
State = Literal["done", "running", "half done", "failed", "missing"]
_SETTLED = ("trainer.precision",)  # a run decides where the experiment leaves it open
_KEYS = ("experiment", "seeds", "baseline", "block", "settings", "variants", "question")


@dataclass(frozen=True)
class Ablation:
    """What experiments/ablations/NAME.yaml says.

    Attributes:
        name: Of the ablation; also that of its folder.
        experiment: The YAML file of the experiment that is varied.
        variants: For each variant its overrides, as on the command line.
        seeds: With which each variant is run.
        baseline: The variant that the others are compared with; without one the best.
        block: Neighboring test images that are left out together; chosen by the data set unless given.
        question: What the ablation answers, in a sentence.
    """

    name: str
    experiment: Path
    variants: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    baseline: str | None = None
    block: int | None = None
    question: str = ""


@dataclass(eq=False)
class Slot:
    """One run of an ablation: a variant with a seed, under settings that are known in full.

    Attributes:
        folder: Of the ablation, ``runs/<ablation>``.
        variant: Its name.
        seed: Of everything.
        arguments: What makes the run, as the command ``exp`` takes it.
        config: All settings, as the run's config.yaml will hold them.
    """

    folder: Path
    variant: str
    seed: int
    arguments: tuple[str, ...]
    config: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those settings that count (see `lightning_seg.runs.records.Record.settings`), as ``a.b.c: value``."""
        return settings_of(self.config)

    @property
    def name(self) -> str:
        """Variant and seed, for people."""
        return f"{self.variant} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run prints. While the run is made, the file is locked: see `lock`."""
        return self.folder / "logs" / f"{self.variant}-seed{self.seed}.log"

    @property
    def failure(self) -> str:
        """Why the last attempt failed; nothing if it did not, or if the settings have changed since."""
        try:
            kept = json.loads(self._failure.read_text())
        except (OSError, ValueError):
            return ""
        return kept["reason"] if kept["arguments"] == [*self.arguments] else ""

    @failure.setter
    def failure(self, reason: str) -> None:
        if reason:
            self._failure.write_text(json.dumps({"reason": reason, "arguments": self.arguments}) + "\n")
        else:
            self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        return self.log.with_suffix(".failed")

    def records(self) -> list[Record]:
        """Read the runs of this variant and seed, also those under other settings, oldest first."""
        folder = self.folder / self.variant
        runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
        return [record for record in map(read, runs) if record.seed == self.seed]

    def run(self) -> Record | None:
        """Find the run: a tested one, else the newest."""
        ours = [record for record in self.records() if not self.differences(record)]
        return max(ours, key=lambda r: (bool(r.test), r.id), default=None)

    def differences(self, record: Record) -> list[str]:
        """List the settings in which a run is not what is planned.

        A setting that only one of them has came with another version of the program, and does not count.
        """
        planned, made = self.settings, settings_of(record.config)
        differing = [key for key in planned.keys() & made.keys() if planned[key] != made[key]]
        # Nothing where there is an object now, or the reverse.
        differing += [*(made.keys() & _groups(planned)), *(planned.keys() & _groups(made))]
        return sorted(key for key in differing if planned.get(key, "") is not None or key not in _SETTLED)

    def state(self) -> State:
        """Say how far the run is."""
        run = self.run()
        if run is not None and run.test:
            return "done"
        if self.log.exists():
            log = self.lock(fcntl.LOCK_SH)
            if log is None:
                return "running"
            log.close()
        if self.failure:
            return "failed"
        return "missing" if run is None else "half done"

    def lock(self, kind: int = fcntl.LOCK_EX) -> IO[bytes] | None:
        """Take the right to make this run, or get None while somebody else has it.

        The lock is on the open log, which the process that trains inherits as its output: so it lasts as long as
        anybody works on the run, and the system takes it back from the dead. Closing the log gives it back.

        Raises:
            UserError: Files in this place cannot be locked.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        log = self.log.open("a+b")
        for patience in (0.05, 0.1, 0):  # somebody may only be looking
            try:
                fcntl.flock(log, kind | fcntl.LOCK_NB)
                return log
            except BlockingIOError:
                time.sleep(patience)
            except OSError as error:
                raise UserError(
                    f"{self.log} cannot be locked ({error.strerror}), so two runners might make the same run. Keep"
                    " runs where files can be locked: --runs=FOLDER"
                ) from error
        log.close()
        return None


def load(name: str) -> Ablation:
    """Read the YAML of an ablation.

    Args:
        name: A name in ``experiments/ablations/``, or the path of a YAML file.

    Raises:
        UserError: There is no such file, or something in it is wrong.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else ABLATIONS / f"{name}.yaml"
    if not file.is_file():
        names = sorted(path.stem for path in ABLATIONS.glob("*.yaml"))
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"no ablation {name!r} ({file} does not exist).{hint} There are: {', '.join(names)}.")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {error}") from None
    if not isinstance(content, dict) or not {"experiment", "variants"} <= content.keys():
        raise UserError(
            f"{file} must say at least 'experiment: NAME' and 'variants: {{NAME: {{KEY: VALUE}}}}'"
        )
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{file}: there is no {key!r}; expected some of {', '.join(_KEYS)}")
    common = _overrides(content.get("settings") or {}, f"{file}: settings")
    variants: dict[str, tuple[str, ...]] = {}
    for variant, changes in content["variants"].items():
        for full_name, overrides in _expanded(str(variant), changes or {}, file):
            if full_name in variants or not re.fullmatch(r"[\w.=+-]+", full_name):
                raise UserError(
                    f"{file}: variant {full_name!r} must be named once, with letters, digits and . = + - _"
                )
            variants[full_name] = (*common, *overrides)
    baseline = content.get("baseline")
    if baseline is not None and baseline not in variants:
        raise UserError(f"{file}: baseline {baseline!r} is none of the variants {', '.join(variants)}")
    seeds = content.get("seeds", 3)
    return Ablation(
        file.stem,
        experiment_file(str(content["experiment"])),
        variants,
        tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        baseline,
        None if content.get("block") is None else int(content["block"]),
        str(content.get("question") or ""),
    )


def slots(ablation: Ablation, runs: Path, arguments: Sequence[str] = ()) -> list[Slot]:
    """List the runs of an ablation, the first seed of all variants first, and check the settings of each.

    Args:
        ablation: The ablation.
        runs: Folder of all runs.
        arguments: Further settings for all runs, ``--key=value``.

    Raises:
        UserError: A setting of a variant is wrong.
    """
    found = {}
    for variant, overrides in ablation.variants.items():
        tracking = (f"--wandb.group={ablation.name}", f"--wandb.tags+={variant[:64]}")
        place = (f"--name={ablation.name}/{variant}", f"--runs={runs}")
        common = ("-c", str(ablation.experiment), *tracking, *overrides, *arguments, *place)
        try:
            found[variant] = common, _resolved(common)
        except UserError as error:
            raise UserError(f"variant {variant}: {error}") from None
    folder = runs / ablation.name
    return [
        Slot(folder, variant, seed, (*common, f"--seed_everything={seed}"), config)
        for seed in ablation.seeds
        for variant, (common, config) in found.items()
    ]


def as_long(ablation: Ablation, done: Sequence[Slot], arguments: Sequence[str] = ()) -> Ablation:
    """Change the length of variants' training so that each takes as long as the baseline's does.

    The learning rate's schedule then ends where the training does, unlike in a run that is cut off.

    Args:
        ablation: The ablation, with a baseline.
        done: Its runs as they are: their speed says how far each variant gets in that time.
        arguments: Their further settings; they become overrides of all variants.

    Raises:
        UserError: Not all runs are done, or there is no baseline.
    """
    seconds: dict[str, list[float]] = {}
    for slot in done:
        run = slot.run()
        if run is None or not run.test:
            raise UserError(f"{slot.name} is not done: equal time needs all runs at equal steps first")
        seconds.setdefault(slot.variant, []).append(run.training[2])
    if ablation.baseline not in seconds:
        raise UserError("equal time means that of the baseline, but none is among the variants")
    typical = {variant: median(values) for variant, values in seconds.items()}
    settings = {slot.variant: slot.settings for slot in done}
    longer = {
        variant: (
            *overrides,
            *arguments,
            *_lengthened(settings[variant], typical[ablation.baseline] / typical[variant]),
        )
        for variant, overrides in ablation.variants.items()
    }
    return replace(ablation, variants=longer)


def _lengthened(settings: Mapping[str, Any], factor: float) -> list[str]:
    """Multiply the length of a training, in steps or in epochs, with as many validations as before."""
    steps, epochs = settings["trainer.max_steps"], settings["trainer.max_epochs"]
    if steps > 0:
        return [f"--trainer.max_steps={round(steps * factor)}"]
    if not epochs or epochs < 0:
        raise UserError("equal time needs trainer.max_epochs or trainer.max_steps, which it then changes")
    validations = max(1, epochs // (settings["trainer.check_val_every_n_epoch"] or 1))
    every = max(1, round(epochs * factor / validations))
    return [f"--trainer.max_epochs={every * validations}", f"--trainer.check_val_every_n_epoch={every}"]


def _resolved(arguments: Iterable[str]) -> dict[str, Any]:
    """Have the experiment's own parser check settings and fill in all defaults."""
    from lightning_seg.experiment.experiment import ExperimentSettings

    return yaml.safe_load(ExperimentSettings(list(arguments)).text)


def _groups(keys: Iterable[str]) -> set[str]:
    """List what holds settings: ``a`` and ``a.b`` of ``a.b.c``."""
    return {key[:i] for key in keys for i, letter in enumerate(key) if letter == "."}


def _expanded(variant: str, changes: Any, file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield name and overrides of a variant, or of each point of its grid."""
    if not isinstance(changes, dict) or "grid" not in changes:
        yield variant, _overrides(changes, f"{file}: variant {variant}")
        return
    grid = changes["grid"]
    if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
        raise UserError(f"{file}: the grid of {variant} must be {{KEY: [VALUE, ...]}}")
    fixed = _overrides({k: v for k, v in changes.items() if k != "grid"}, f"{file}: variant {variant}")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        words = (f"{k}={_word(v)}" for k, v in zip(short(list(grid)), values, strict=True))
        yield "-".join([variant, *words]), [*fixed, *_overrides(point, str(file))]


def _word(value: Any) -> str:
    """Make a value part of a name: a class by its last name."""
    text = str(value.get("class_path", value) if isinstance(value, dict) else value)
    text = text.rsplit(".", 1)[-1] if text[:1].isalpha() else text
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _overrides(changes: Any, where: str) -> list[str]:
    """Turn ``{key: value}``, or a list of ``key=value``, into arguments."""
    if isinstance(changes, dict):
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in changes.items()}
        return [f"--{key}={text}" for key, text in texts.items()]
    if isinstance(changes, list) and all(isinstance(c, str) and "=" in c for c in changes):
        return [f"--{change.removeprefix('--')}" for change in changes]
    raise UserError(f"{where} must be a mapping KEY: VALUE or a list of KEY=VALUE, got {changes!r}")
