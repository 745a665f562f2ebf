"""``lightning-seg search``: search for the best settings with Optuna, by a W&B sweep file."""

import shlex
from pathlib import Path

from lightning_seg.cli.arguments import Arguments, at_least, folder
from lightning_seg.errors import UserError
from lightning_seg.studies.search import (
    FIRST_SEED,
    SEARCHES,
    best_trial,
    folder_of,
    load,
    open_study,
    run,
    search_file,
)
from lightning_seg.studies.search_results import repeat_best, spread, summarize


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg search",
        "Search for the best settings with Optuna. FILE is a W&B sweep configuration: a name in"
        f" {SEARCHES}/ or a path. Start it again to go on; start it several times at once to share the work.",
        "lightning-seg search quickstart --trials 20",
        settings=True,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help=f"a name in {SEARCHES}/, or the path of a YAML file")
    add("--trials", metavar="N", type=at_least(1), help="trials in the end; the file's run_cap unless given")
    add(
        "--runs",
        metavar="FOLDER",
        type=folder,
        default=Path("runs"),
        help="folder of all runs (default: runs)",
    )
    add(
        "--seeds",
        metavar="N",
        type=at_least(1),
        default=1,
        help="average every trial over N seeds, 1000 and on (default: one run with seed 1000, or --seed_everything)",
    )
    add(
        "--repeat",
        metavar="N",
        type=at_least(1),
        help="then train and test the best settings with N seeds; trials themselves are not tested",
    )
    options, settings = parser.parse_with_settings(arguments)
    search = load(search_file(options.file))
    trials = options.trials or search.trials
    if trials is None and search.method != "grid":
        raise UserError("how many trials? Say --trials=20, or run_cap: 20 in the file")
    study = open_study(search, folder_of(search, options.runs))
    run(search, study, options.runs, trials, settings, options.seeds)
    best = best_trial(search, study, settings)
    if best is None:
        return
    print(f"\n{summarize(search, study, options.runs)}\n")
    print(f"best of {best.trials}: trial {best.number}, {search.metric} {best.value:.4f}, {best.run}")
    command = ["python" if word == "${interpreter}" else word for word in best.command]
    seeded = options.seeds == 1 and any(setting.startswith("--seed_everything=") for setting in settings)
    print(f"again: {shlex.join([*command, *([] if seeded else [f'--seed_everything={FIRST_SEED}'])])}")
    if options.repeat:
        made = repeat_best(search, study, options.runs, options.repeat, settings)
        print(f"{spread(made)}; 'lightning-seg compare {made[0].path.parent} ...' compares them with others")
    else:
        print(f"tested with seeds, by one more command: lightning-seg search {options.file} --repeat 5")
