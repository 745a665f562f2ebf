"""What an ablation consists of: variants of one experiment, each with several seeds, and how far each run is."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import yaml

from lightning_seg.analysis.groups import short
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.directory import JsonObject
from lightning_seg.studies.slots import Slot
from lightning_seg.studies.tuning import Tuning, as_number, read_tuning, word

ABLATIONS = Path("experiments/ablations")
_KEYS = (
    "experiment",
    "seeds",
    "baseline",
    "block",
    "settings",
    "variants",
    "question",
    "tune",
    "train_share",
)
_AXES = "'variants: {NAME: {KEY: VALUE}}', several experiments, or 'train_share: [0.1, 1]'"


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
        tune: How the settings of each variant are chosen that is tuned.
        grids: The variants that are points of a grid.
        experiments: Several experiments, each of which is varied.
        train_shares: Several shares of the training images.
        share: That of this cell of an ablation over shares.
    """

    name: str
    experiment: Path
    variants: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    baseline: str | None = None
    block: int | None = None
    question: str = ""
    tune: Mapping[str, Tuning] = field(default_factory=dict)
    grids: tuple[str, ...] = ()
    experiments: tuple[Path, ...] = ()
    train_shares: tuple[float, ...] = ()
    share: float | None = None


def load(name: str) -> Ablation:
    """Read the YAML of an ablation.

    Args:
        name: A name in ``experiments/ablations/`` or among the project's ablations, or the path of a YAML file.

    Raises:
        UserError: There is no such file, or something in it is wrong.
    """
    file = experiment_file(name, ABLATIONS, "ablation")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {error}") from None
    if not isinstance(content, dict) or "experiment" not in content:
        raise UserError(f"{file} must say at least 'experiment: NAME' and what is varied: {_AXES}")
    for key in content:
        if key not in _KEYS:
            raise UserError(f"{file}: there is no {key!r}; expected some of {', '.join(_KEYS)}")
    named, shares = content["experiment"], content.get("train_share") or []
    planned = content.get("variants") or {}
    several = isinstance(named, list) and len(named) > 1
    if not isinstance(planned, dict) or not (planned or shares or several):
        raise UserError(f"{file} must say what is varied: {_AXES}")
    if not planned:
        planned = {"unchanged" if several else Path(str(named)).stem: {}}
    common = _overrides(content.get("settings") or {}, f"{file}: settings")
    seeds = _seeds(content.get("seeds", 3), file)
    everywhere = read_tuning(content.get("tune"), f"{file}: tune", seeds)
    variants: dict[str, tuple[str, ...]] = {}
    tune: dict[str, Tuning] = {}
    grids: list[str] = []
    for variant, changes in planned.items():
        own = everywhere
        if isinstance(changes, dict) and "tune" in changes:
            own = read_tuning(changes["tune"], f"{file}: tune of {variant}", seeds)
            changes = {key: value for key, value in changes.items() if key != "tune"}
        for full_name, overrides in _expanded(str(variant), changes or {}, file):
            if full_name in variants or not re.fullmatch(r"[\w.=+-]+", full_name):
                raise UserError(
                    f"{file}: variant {full_name!r} must be named once, with letters, digits and . = + - _"
                )
            _refuse_useless(full_name, overrides, common, own, bool(shares), file)
            variants[full_name] = (*common, *overrides)
            if own is not None:
                tune[full_name] = own
            if full_name != variant:
                grids.append(full_name)
    baseline = None if content.get("baseline") is None else str(content["baseline"])
    if baseline is not None and baseline not in variants:
        raise UserError(f"{file}: baseline {baseline!r} is none of the variants {', '.join(variants)}")
    experiments = tuple(experiment_file(str(one)) for one in (named if isinstance(named, list) else [named]))
    shares = [as_number(share) for share in shares] if isinstance(shares, list) else shares
    numbers = isinstance(shares, list) and all(isinstance(s, int | float) and 0 < s <= 1 for s in shares)
    block = content.get("block")
    if block is not None and (not isinstance(block, int) or isinstance(block, bool) or block < 1):
        raise UserError(f"{file}: block must be a whole number of images, at least 1, got {block!r}")
    if not experiments or not numbers or len({*shares}) < len(shares):
        raise UserError(
            f"{file}: experiment must be a name or a list of names, and train_share a list of numbers above 0 and up to"
            f" 1, such as [0.05, 0.2, 1]; got {named!r} and {shares!r}"
        )
    return Ablation(
        file.stem,
        experiments[0],
        variants,
        seeds,
        baseline,
        block,
        str(content.get("question") or ""),
        tune,
        tuple(grids),
        experiments if len(experiments) > 1 else (),
        tuple(map(float, shares)),
    )


def _seeds(given: object, file: Path) -> tuple[int, ...]:
    """Read how many seeds there are, or which."""
    found = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    if not (
        isinstance(found, list)
        and found
        and all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in found)
        and len({*found}) == len(found)
    ):
        raise UserError(
            f"{file}: seeds must be a number of seeds, at least 1, or a list of different ones such as [0, 1, 2];"
            f" got {given!r}"
        )
    return tuple(found)


def _refuse_useless(
    variant: str, own: Sequence[str], common: Sequence[str], tuning: Tuning | None, shared: bool, file: Path
) -> None:
    """Refuse settings of a variant in whose place others would be used without a word."""
    given = {override.split("=")[0].removeprefix("--") for override in own}
    everywhere = {override.split("=")[0].removeprefix("--") for override in common}
    if tuning is not None and (both := sorted(given & {*tuning.settings})):
        raise UserError(
            f"{file}: variant {variant} sets {both[0]}, which tune chooses: leave it out there, or give the variant"
            " 'tune: null'"
        )
    if "seed_everything" in given | everywhere:
        raise UserError(
            f"{file}: seed_everything is no setting of a variant: 'seeds' says which are reported"
        )
    if shared and "data.init_args.train_share" in given | everywhere:
        raise UserError(
            f"{file}: variant {variant} has data.init_args.train_share, which 'train_share' of the ablation sets:"
            " one of them must go"
        )


def slot_arguments(
    ablation: Ablation, variant: str, runs: Path, further: Sequence[str], place: str
) -> tuple[str, ...]:
    """Return what makes the runs of a variant, but for the seed.

    Args:
        ablation: The ablation.
        variant: The variant.
        runs: Folder of all runs.
        further: Settings after those of the variant, ``--key=value``.
        place: Name of the runs, which is their folder in that of all runs.
    """
    tracking = (f"--wandb.group={ablation.name}", f"--wandb.tags+={variant[:64]}")
    name = (f"--name={place}", f"--runs={runs}")
    return "-c", str(ablation.experiment), *tracking, *ablation.variants[variant], *further, *name


def as_long(ablation: Ablation, done: Sequence[Slot], arguments: Sequence[str] = ()) -> Ablation:
    """Change the length of variants' training so that each takes as long as the baseline's does.

    The learning rate's schedule then ends where the training does, unlike in a run that is cut off, and a variant is
    validated as often as before, at the same shares of its training.

    Args:
        ablation: The ablation, with a baseline.
        done: Its runs as they are: their speed says how far each variant gets in that time.
        arguments: Their further settings; they become overrides of all variants.

    Raises:
        UserError: Not all runs are done, or there is no baseline.
    """
    seconds: dict[str, list[float]] = {}
    first = {}
    for slot in done:
        run = slot.run()
        if run is None or not run.test:
            raise UserError(f"{slot.name} is not done: equal time needs all runs at equal steps first")
        seconds.setdefault(slot.variant, []).append(run.training[2])
        validated = [points[0, 0] for name, points in run.curves().items() if name.startswith("val/")]
        first[slot.variant] = 1 + int(min(validated, default=-1))
    if ablation.baseline not in seconds:
        raise UserError("equal time means that of the baseline, but none is among the variants")
    typical = {variant: median(values) for variant, values in seconds.items()}
    settings = {slot.variant: slot.settings for slot in done}
    longer = {}
    for variant, overrides in ablation.variants.items():
        if variant not in typical:  # nothing could be chosen for it
            continue
        changes = (
            _lengthened(settings[variant], typical[ablation.baseline] / typical[variant], first[variant])
            if variant != ablation.baseline
            else []
        )
        longer[variant] = (*overrides, *arguments, *changes)
    return replace(ablation, variants=longer)


def _lengthened(settings: JsonObject, factor: float, first: int) -> list[str]:
    """Multiply the length of a training, in steps or in epochs, with as many validations as before.

    Args:
        settings: Of the training.
        factor: Times its length.
        first: The steps before its first validation; 0 if it had none.
    """
    steps, epochs = settings["trainer.max_steps"], settings["trainer.max_epochs"]
    every = settings.get("trainer.check_val_every_n_epoch")
    if steps <= 0 and (not epochs or epochs < 0):
        raise UserError("equal time needs trainer.max_epochs or trainer.max_steps, which it then changes")
    if steps <= 0 and every is not None:
        validations = max(1, epochs // every)
        every = max(1, round(epochs * factor / validations))
        return [f"--trainer.max_epochs={every * validations}", f"--trainer.check_val_every_n_epoch={every}"]
    name, length = ("max_steps", steps) if steps > 0 else ("max_epochs", epochs)
    gathered = settings.get("trainer.accumulate_grad_batches") or 1
    # Epochs do not get longer: where validations went by them, batches are counted from now on.
    interval = settings.get("trainer.val_check_interval") if every is None else first * gathered
    if not isinstance(interval, int) or interval < 1:
        return [f"--trainer.{name}={max(1, round(length * factor))}"]
    validations = max(1, steps * gathered // interval)
    longer = validations * max(1, round(length * factor / validations))
    return [
        f"--trainer.{name}={longer}",
        *["--trainer.check_val_every_n_epoch=null"] * (every is not None),
        f"--trainer.val_check_interval={max(1, interval * longer // length)}",
    ]


def resolved(arguments: Iterable[str], variant: str) -> JsonObject:
    """Have the experiment's own parser check settings and fill in all defaults.

    Args:
        arguments: What makes a run.
        variant: Whose runs, for messages.

    Raises:
        UserError: A setting is wrong.
    """
    from lightning_seg.experiment.experiment import ExperimentSettings

    try:
        return yaml.safe_load(ExperimentSettings(list(arguments)).text)
    except UserError as error:
        raise UserError(f"variant {variant}: {error}") from None


def _expanded(variant: str, changes: object, file: Path) -> Iterator[tuple[str, list[str]]]:
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
        words = (f"{k}={word(v)}" for k, v in zip(short(list(grid)), values, strict=True))
        yield "-".join([variant, *words]), [*fixed, *_overrides(point, str(file))]


def _overrides(changes: object, where: str) -> list[str]:
    """Turn ``{key: value}``, or a list of ``key=value``, into arguments."""
    if isinstance(changes, dict):
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in changes.items()}
        return [f"--{key}={text}" for key, text in texts.items()]
    if isinstance(changes, list) and all(isinstance(c, str) and "=" in c for c in changes):
        return [f"--{change.removeprefix('--')}" for change in changes]
    raise UserError(f"{where} must be a mapping KEY: VALUE or a list of KEY=VALUE, got {changes!r}")
