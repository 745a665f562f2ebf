"""``lightning-seg test``: score the best checkpoint of a run again."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg test",
        "Score the best checkpoint of a run on the test split; the result replaces test.json in its directory."
        " --ckpt_path=FILE takes another checkpoint.",
        "lightning-seg test runs/unet_camvid --data.init_args.root=/data/CamVid",
        settings=True,
    )
    parser.add_run()
    options, settings = parser.parse_with_settings(arguments)
    directory = existing_run(options.run)

    from lightning_seg.experiment.failures import friendly_errors
    from lightning_seg.experiment.loading import load_run

    run = load_run(directory, settings)
    trainer = run.make_trainer()
    with friendly_errors(trainer, run.data, lambda: directory):
        trainer.test(**run.trainer_arguments, verbose=False)
