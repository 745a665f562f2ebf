"""``lightning-seg resume``: continue a run that was stopped or killed."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg resume",
        "Continue a run that was stopped or killed, exactly where its newest checkpoint is, then test it. It goes on in"
        " its own run directory and W&B run. A finished run can be trained further: --trainer.max_epochs=N.",
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

    resume(run, settings, then_test=not options.no_test)
