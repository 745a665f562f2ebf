"""What a search has found: a table and a picture of its trials, which setting matters, the best again with seeds."""

import csv
import hashlib
import statistics
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_seg.errors import UserError
from lightning_seg.plotting.tables import text_table
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import Record, read
from lightning_seg.studies.search import Best, Search, best_trial, expand, folder_of, setting_text

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

TRIALS = "trials.csv"
PICTURE = "parallel.png"
_SHOWN = 20  # trials in the printed table
_PLACES = (  # where a run is made, not what
    "--data.init_args.root=",
    "--data.init_args.num_workers=",
    "--trainer.accelerator=",
    "--trainer.devices=",
)
_TAG = 64  # characters that W&B takes
_FEW = 4  # trials, with fewer of which nothing is said about importance


def summarize(search: Search, study: "Study", runs: Path) -> str:
    """Write all trials into ``trials.csv`` and a picture of parallel coordinates; return a table of the best ones.

    Args:
        search: The search.
        study: Its Optuna study.
        runs: The folder of all runs.
    """
    folder, names = folder_of(search, runs), [n for n, p in search.parameters.items() if "value" not in p]
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.params]
    trials.sort(key=lambda t: _rank(t, search.maximize))
    header = ["trial", "state", search.metric, *names, "run"]
    rows = [
        [
            str(t.number),
            t.state.name.lower(),
            _score(t),
            *(_value(t, n) for n in names),
            t.user_attrs.get("run", ""),
        ]
        for t in trials
    ]
    with (folder / TRIALS).open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    short = [name.removesuffix(".class_path").rpartition(".")[2] for name in names]
    shown = text_table([*header[:3], *short, "run"], rows[:_SHOWN], left=(1, len(header) - 1))
    more = [f"and {len(rows) - _SHOWN} more in {folder / TRIALS}"] if len(rows) > _SHOWN else []
    found = "\n".join([shown, *more])
    finished = [t for t in trials if t.value is not None]
    if len(finished) >= _FEW and names:
        _draw(study, folder / PICTURE, search.metric)
        if shares := _importances(study):
            listed = ", ".join(f"{name.rpartition('.')[2]} {share:.0%}" for name, share in shares.items())
            found += f"\nimportance of the settings among {len(finished)} finished trials: {listed}"
        found += f"\n{folder / TRIALS}, {folder / PICTURE}"
    return found


def repeat_best(
    search: Search, study: "Study", runs: Path, seeds: int, settings: Sequence[str] = ()
) -> list[Record]:
    """Train and test the best settings with several seeds; what is there already is not made again.

    Args:
        search: The search.
        study: Its Optuna study.
        runs: The folder of all runs; the runs go into ``NAME-best`` there.
        seeds: How many: 0, 1, 2 ...
        settings: Further settings of all trials.

    Returns:
        The tested runs, in the order of their seeds.

    Raises:
        UserError: No trial is finished, or a run failed.
    """
    best = best_trial(search, study, settings)
    if best is None:
        raise UserError(f"no trial of {search.name} is finished, so there is none to repeat")
    name = f"{search.name}-best"
    ending = f"-trial-{best.number}-again-{_digest(best)}"
    tag = search.name[: _TAG - len(ending)] + ending
    folder = runs / name
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for seed in range(seeds):
        if (record := _tested(folder, tag, seed)) is None:
            place = [
                f"--name={name}",
                f"--runs={runs}",
                f"--wandb.group={name}",
                "--wandb.job_type=repetition",
            ]
            log = folder / f"seed-{seed}.log"
            command = _tested_command(best, [*place, f"--wandb.tags+={tag}", f"--seed_everything={seed}"])
            with log.open("w") as out:
                status = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
                ).returncode
            record = _tested(folder, tag, seed)
            if status or record is None:
                raise UserError(f"seed {seed} of {name} failed or was not tested; see {log}")
        print(f"seed {seed}: test mIoU {record.score('miou'):.4f}  {record.path}", flush=True)
        made.append(record)
    return made


def spread(records: Sequence[Record]) -> str:
    """Return mean and standard deviation of the test mIoU over seeds, as text."""
    scores = [100 * record.score("miou") for record in records]
    deviation = f" ± {statistics.stdev(scores):.2f} (standard deviation)" if len(scores) > 1 else ""
    return f"test mIoU {statistics.mean(scores):.2f} %{deviation} over {len(scores)} seed{'s' * (len(scores) > 1)}"


def _tested_command(best: Best, further: Sequence[str]) -> list[str]:
    """Turn a trial's ``lightning-seg fit``, which does not test, into ``exp``, which does."""
    words = list(best.command)
    for i, word in enumerate(words[1:], start=1):
        if word == "fit" and words[i - 1] == "lightning-seg":
            words[i] = "exp"
    return expand([*words, *further])


def _digest(best: Best) -> str:
    """Tell apart what would train otherwise: other settings, also in the files that the command names."""
    found = hashlib.sha256()
    for word in best.command:
        if word.startswith(_PLACES):
            continue
        found.update(f"{word}\0".encode())
        if word.endswith((".yaml", ".yml")) and Path(word).is_file():
            found.update(Path(word).read_bytes())
    return found.hexdigest()[:8]


def _tested(folder: Path, tag: str, seed: int) -> Record | None:
    """Find the tested run of a seed."""
    for config in sorted(folder.glob(f"*/{CONFIG}"), reverse=True):
        record = read(config.parent)
        tags = (record.config.get("wandb") or {}).get("tags") or []
        if tag in tags and record.seed == seed and record.status == "tested":
            return record
    return None


def _rank(trial: "FrozenTrial", maximize: bool) -> tuple[bool, float]:
    value = trial.value
    return value is None, 0.0 if value is None else -value if maximize else value


def _score(trial: "FrozenTrial") -> str:
    reported = trial.intermediate_values  # of one that was stopped early
    value = trial.value if trial.value is not None else reported.get(max(reported, default=0))
    return "" if value is None else f"{value:.4f}"


def _value(trial: "FrozenTrial", name: str) -> str:
    value = trial.params.get(name, "")
    return f"{value:.4g}" if isinstance(value, float) else setting_text(value)


def _importances(study: "Study") -> dict[str, float]:
    """Return the share of each setting in what sets good trials apart (PED-ANOVA, arXiv:2304.10255)."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one setting that never varied
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # all trials are equal
            return {}


def _draw(study: "Study", file: Path, metric: str) -> None:
    """Draw parallel coordinates: one line a finished trial, colored by its score."""
    import matplotlib.pyplot as plt
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(study, target_name=metric)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(10, 5)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
