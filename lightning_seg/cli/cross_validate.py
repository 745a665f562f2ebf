"""``lightning-seg cross-validate``: one run for each fold, then the answer over all."""

from lightning_seg.cli.arguments import Arguments, at_least


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg cross-validate",
        "Cross-validate with K folds: K runs, each tested on what it has not trained on, then mean and spread over"
        " folds, the score of all folds pooled, and a constant prediction as the baseline.",
        "lightning-seg cross-validate unet_isbi 5",
        settings=True,
    )
    parser.add_experiment()
    parser.add_argument("folds", metavar="K", type=at_least(2), help="number of folds")
    options, settings = parser.parse_with_settings(arguments)

    from lightning_seg.experiment.training import train
    from lightning_seg.studies.cross_validation import summarise

    runs = []
    for fold in range(options.folds):
        print(f"fold {fold} of {options.folds}")
        # No checkpoint is chosen by the fold that scores it: the last one counts.
        chosen = [
            f"--data.init_args.folds={options.folds}",
            f"--data.init_args.fold={fold}",
            "--checkpoint.monitor=null",
        ]
        runs.append(train([*settings, *chosen], then_test=True))
    summary = summarise(runs)
    file = runs[-1].parent / f"{runs[0].name}-{options.folds}-folds.txt"
    file.write_text("\n".join([summary, *map(str, runs)]) + "\n")
    print(f"\n{summary}\n{file}")
