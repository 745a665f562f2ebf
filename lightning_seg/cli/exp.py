"""``lightning-seg exp``: train an experiment, then test its best checkpoint."""

from lightning_seg.cli.arguments import Arguments


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg exp",
        "Train an experiment, then test the best checkpoint. The run is a new folder, runs/<experiment>/<id>.",
        "lightning-seg exp unet_camvid --trainer.max_epochs=5 --data.init_args.batch_size=8",
        settings=True,
    )
    parser.add_experiment()
    parser.add_argument(
        "--launcher",
        choices=("here", "slurm"),
        default="here",
        help="slurm: submit a job that saves, is queued again and continues when its time is over",
    )
    options, settings = parser.parse_with_settings(arguments)
    if options.launcher == "slurm":
        from lightning_seg.studies.slurm import submit

        submit(settings)
    else:
        from lightning_seg.experiment.experiment import Experiment
        from lightning_seg.experiment.failures import end_with_first_process

        end_with_first_process()
        Experiment(settings).train(then_test=True)
