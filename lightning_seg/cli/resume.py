"""``lightning-seg resume``: continue a run that was stopped or killed."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.runs.directory import existing_run
from lightning_seg.runs.records import read


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg resume",
        "Continue a run that was stopped or killed, exactly where its newest checkpoint is, then test it, unless it was"
        " begun to be trained only (by 'fit', or to choose settings). It goes on in its own run directory and W&B run."
        " A finished run can be trained further: --trainer.max_epochs=N.",
        "lightning-seg resume runs/unet_camvid",
        settings=True,
    )
    parser.add_run()
    parser.add_argument(
        "--no-test", action="store_true", help="train only: 'lightning-seg test RUN' tests it"
    )
    options, settings = parser.parse_with_settings(arguments)
    run = existing_run(options.run)

    from lightning_seg.experiment.training import resume

    only_trained = (read(run).environment.get("command") or [""])[0] == "fit"
    resume(run, settings, then_test=not (options.no_test or only_trained))
    if only_trained and not options.no_test:
        print(f"not tested, as it was begun by fit: 'lightning-seg test {run}' tests it")
