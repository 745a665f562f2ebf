"""The search for settings that a W&B sweep file describes, without a server.

The file is a W&B sweep configuration, so that ``wandb sweep FILE`` and ``wandb agent`` run the same search with a
server. Here Optuna chooses the settings and keeps its study in an SQLite file: stopped searches go on, and the
command may be started several times, also at once. Every trial is an ordinary run that is not tested: what is chosen by
its validation score is tested when it is chosen (`lightning_seg.studies.search_results`).
"""

import fcntl
import json
import signal
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file
from lightning_seg.runs.directory import CONFIG, JsonObject
from lightning_seg.runs.records import Record, read
from lightning_seg.studies.parameters import check_parameter, choices, suggest

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import TrialState

SEARCHES = Path("experiments/searches")
FOLDER = "searches"  # in the folder of all runs, and in the names of groups
FIRST_SEED = 1000  # of what chooses settings: far from the seeds that are reported
_FAILURES = 3  # trials in a row after which the search gives up
_WATCH = 2.0  # seconds between two looks at a trial's curve
_HEARTBEAT = 30  # seconds; a trial whose process is gone for three of them is tried again


@dataclass(frozen=True)
class Search:
    """A search as its file describes it.

    Attributes:
        name: Of the search: the file's, and that of the folder of its runs.
        command: What runs a trial; ``${args}`` stands for its settings.
        parameters: For each setting its values or its distribution, as W&B names them.
        metric: The curve whose best value counts.
        maximize: Whether more is better.
        method: ``bayes``, ``random`` or ``grid``.
        trials: How many trials there shall be in the end; None for all of a grid.
        min_iter: Validations before a trial may be stopped early; None lets all run to their end.
    """

    name: str
    command: tuple[str, ...]
    parameters: Mapping[str, JsonObject]
    metric: str
    maximize: bool
    method: str
    trials: int | None
    min_iter: int | None


def load(file: Path) -> Search:
    """Read a sweep configuration.

    Raises:
        UserError: It is none, or has what only W&B's server can do.
    """
    try:
        content = yaml.safe_load(file.read_text())
        metric, parameters, command = content["metric"], content["parameters"], content["command"]
        stop = content.get("early_terminate")
        search = Search(
            name=file.stem,
            command=tuple(map(str, command)),
            parameters=parameters,
            metric=metric["name"],
            maximize=metric.get("goal", "minimize") == "maximize",
            method=content["method"],
            trials=content.get("run_cap"),
            min_iter=int(stop["min_iter"]) if stop else None,
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is no search: expected a W&B sweep configuration with method, metric, parameters and command"
            f" ({type(error).__name__}: {error})"
        ) from None
    if search.method not in ("bayes", "random", "grid"):
        raise UserError(f"{file}: method must be bayes, random or grid, not {search.method!r}")
    if "${args}" not in search.command:
        raise UserError(f"{file}: the command must have ${{args}}, where a trial's settings go")
    for name, parameter in search.parameters.items():
        check_parameter(str(file), name, parameter, search.method)
    return search


def open_study(search: Search, folder: Path) -> "Study":
    """Open the study of a search, or begin it.

    Args:
        search: The search.
        folder: Where its runs and ``search.db`` are; it is made.

    Raises:
        UserError: Optuna is missing.
    """
    try:
        import optuna
        from optuna.samplers import BaseSampler
    except ModuleNotFoundError:
        raise UserError("searches need Optuna: pip install 'optuna>=5,<6'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of a failed trial by a traceback
    folder.mkdir(parents=True, exist_ok=True)
    grid = {name: choices(p) for name, p in search.parameters.items() if "values" in p}
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "bayes": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
        "grid": lambda: optuna.samplers.GridSampler(grid),
    }
    with (folder / "search.lock").open("w") as lock, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", optuna.exceptions.ExperimentalWarning
        )  # heartbeats, for five years now
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers must not both make the tables
        return optuna.create_study(
            study_name=search.name,
            storage=optuna.storages.RDBStorage(
                f"sqlite:///{folder.absolute()}/search.db",
                engine_kwargs={"connect_args": {"timeout": 60}},
                heartbeat_interval=_HEARTBEAT,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            ),
            sampler=samplers[search.method](),
            pruner=optuna.pruners.HyperbandPruner(search.min_iter)
            if search.min_iter
            else optuna.pruners.NopPruner(),
            direction="maximize" if search.maximize else "minimize",
            load_if_exists=True,
        )


def run(
    search: Search,
    study: "Study",
    runs: Path,
    trials: int | None,
    settings: Sequence[str] = (),
    seeds: int = 1,
) -> None:
    """Run trials until there are enough, those of other workers and earlier days counted.

    Args:
        search: The search.
        study: Its Optuna study.
        runs: The folder of all runs.
        trials: How many there shall be; None for all of a grid.
        settings: Further settings for all trials, ``--key=value``.
        seeds: Over how many a trial is averaged; none are those of `repeat_best`, unless settings say one.

    Raises:
        UserError: Several trials in a row failed, or those that are there have another number of seeds.
    """
    from optuna.samplers import GridSampler
    from optuna.trial import TrialState

    if (before := study.user_attrs.get("seeds", 1 if study.trials else seeds)) != seeds:
        raise UserError(
            f"the trials of {search.name} that are there are averaged over {before} seed(s): say --seeds={before}, or"
            f" remove {folder_of(search, runs)} to begin anew"
        )
    study.set_user_attr("seeds", seeds)
    failures = 0
    while (
        trials is None or _count(study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) < trials
    ):
        if isinstance(study.sampler, GridSampler) and study.sampler.is_exhausted(study):
            return
        before = _count(study, TrialState.FAIL)
        study.optimize(
            lambda trial: _try(search, trial, runs, settings, seeds), n_trials=1, catch=_FailedTrial
        )
        failures = failures + 1 if _count(study, TrialState.FAIL) > before else 0
        if failures == _FAILURES:
            raise UserError(f"{failures} trials in a row failed; see {folder_of(search, runs)}/trial-*.log")


def folder_of(search: Search, runs: Path) -> Path:
    """Return the folder of a search: apart from experiments, whose runs are tested and compared.

    Args:
        search: The search.
        runs: The folder of all runs.
    """
    return runs / f"{FOLDER}/{search.name}"


class _FailedTrial(Exception):
    """A trial whose command failed or that has no score."""


def _try(search: Search, trial: "Trial", runs: Path, settings: Sequence[str], seeds: int) -> float:
    """Run one trial and return the best value of its curve, the mean over its seeds."""
    try:
        chosen = suggest(trial, search.parameters)
    except ValueError as error:
        raise UserError(
            f"the file of {search.name} has other values than the trials that are there ({error}): give them back, or"
            f" remove {folder_of(search, runs)} to begin anew"
        ) from None
    named = seeds == 1 and any(setting.startswith("--seed_everything=") for setting in settings)
    each: list[int | None] = [None] if named else [FIRST_SEED + i for i in range(seeds)]
    found = [_train(search, trial, chosen, runs, settings, seed, seeds > 1) for seed in each]
    trial.set_user_attr("run", str(found[0][1].path))
    mean = statistics.mean(value for value, _ in found)
    shown = " ".join(f"{name.rsplit('.', 1)[-1]}={setting_text(value)}" for name, value in chosen.items())
    paths = ", ".join(str(record.path) for _, record in found)
    print(f"trial {trial.number}: {search.metric} {mean:.4f}  {shown}  {paths}", flush=True)
    return mean


def _train(
    search: Search,
    trial: "Trial",
    chosen: JsonObject,
    runs: Path,
    settings: Sequence[str],
    seed: int | None,
    several: bool,
) -> tuple[float, Record]:
    """Make a run of a trial, with a seed or that of the settings; return the best value of its curve and the run."""
    import optuna

    suffix = f"-seed-{seed}" if several else ""
    folder, tag = folder_of(search, runs), f"{search.name}-trial-{trial.number}{suffix}"
    place = [
        f"--name={FOLDER}/{search.name}",
        f"--runs={runs}",
        f"--wandb.group={FOLDER}/{search.name}",
        "--wandb.job_type=trial",
        f"--wandb.tags+={tag}",
        *([] if seed is None else [f"--seed_everything={seed}"]),
    ]
    log = folder / f"trial-{trial.number:03d}{suffix}.log"
    with log.open("w") as out:
        command = expand(_command(search, [*_arguments(chosen), *settings, *place]))
        if command[3:4] == ["exp"]:  # a trial is only trained: no test chooses
            command[3] = "fit"
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        record, reported = None, 0
        try:
            while process.poll() is None:
                try:
                    process.wait(_WATCH)
                except subprocess.TimeoutExpired:
                    record = record or _find(folder, tag)
                watched = search.min_iter and record and seed in (None, FIRST_SEED)  # one curve is judged
                for value in _curve(search, record)[reported:] if watched and record else []:
                    reported += 1
                    trial.report(value, reported)
                    if trial.should_prune():
                        process.send_signal(signal.SIGINT)  # the run ends as if its user had stopped it
                        print(f"trial {trial.number}: stopped after {reported} validations", flush=True)
                        raise optuna.TrialPruned
        finally:
            try:
                process.wait(60)  # after Ctrl-C it has its own to do
            except subprocess.TimeoutExpired:
                process.kill()
    record = _find(folder, tag)
    values = _curve(search, record) if record else []
    if not process.returncode and record is not None and search.metric not in record.columns():
        known = ", ".join(name for name in record.curves() if name.startswith("val/"))
        raise UserError(
            f"{record.path} has no {search.metric}, which the search is to choose by (metric in its file); its"
            f" validations have {known or 'nothing'}"
        )
    if process.returncode or record is None or not values:
        print(f"trial {trial.number}: failed, see {log}", flush=True)
        raise _FailedTrial
    return max(values) if search.maximize else min(values), record


def _find(folder: Path, tag: str) -> Record | None:
    """Find the run of a trial by the tag it was given."""
    for config in sorted(folder.glob(f"*/{CONFIG}"), reverse=True):
        record = read(config.parent)
        if tag in ((record.config.get("wandb") or {}).get("tags") or []):
            return record
    return None


def _curve(search: Search, record: Record) -> list[float]:
    points = record.curves(classes=search.metric.count("/") > 1).get(search.metric)
    return [] if points is None else points[:, 2].tolist()


def _command(search: Search, arguments: Sequence[str]) -> list[str]:
    """Return the command with the arguments of a trial."""
    words = [word for word in search.command if word != "${env}"]
    at = words.index("${args}")
    return [*words[:at], *arguments, *words[at + 1 :]]


def expand(command: Sequence[str]) -> list[str]:
    """Expand a command as W&B's agent does; this package's command runs in this interpreter."""
    words: dict[str, list[str]] = {
        "${interpreter}": [sys.executable],
        "lightning-seg": [sys.executable, "-m", "lightning_seg"],
    }
    return [part for word in command for part in words.get(word, [word])]


def _arguments(chosen: JsonObject) -> list[str]:
    return [f"--{name}={setting_text(value)}" for name, value in chosen.items()]


def setting_text(value: object) -> str:
    """Return the value of a setting as a command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _count(study: "Study", *states: "TrialState") -> int:
    return len(study.get_trials(deepcopy=False, states=states))


@dataclass(frozen=True)
class Best:
    """The best trial of a search.

    Attributes:
        number: Of the trial.
        value: Its score.
        run: Its run directory.
        trials: Out of how many finished ones.
        command: What makes the same run again.
    """

    number: int
    value: float
    run: str
    trials: int
    command: list[str]


def best_trial(search: Search, study: "Study", settings: Sequence[str] = ()) -> Best | None:
    """Return the best trial, if any is finished.

    Args:
        search: The search.
        study: Its Optuna study.
        settings: Further settings of all trials.
    """
    from optuna.trial import TrialState

    done = _count(study, TrialState.COMPLETE)
    if not done:
        return None
    best = study.best_trial
    constants = {name: p["value"] for name, p in search.parameters.items() if "value" in p}
    command = _command(search, [*_arguments({**best.params, **constants}), *settings])
    return Best(best.number, study.best_value, best.user_attrs["run"], done, command)


def search_file(name: str) -> Path:
    """Find the file of a search.

    Args:
        name: A name in ``experiments/searches/`` or among the project's searches, or the path of a YAML file.

    Raises:
        UserError: There is no such file; the message lists those there are.
    """
    return experiment_file(name, SEARCHES, "search")
