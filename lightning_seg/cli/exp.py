"""``lightning-seg exp``: train an experiment, then test its best checkpoint."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError


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
    parser.add_argument(
        "--plan", action="store_true", help="with --launcher slurm: show the job, and submit nothing"
    )
    options, settings = parser.parse_with_settings(arguments)
    if options.launcher == "slurm":
        from lightning_seg.studies.slurm import script, submit

        if options.plan:
            print(script(settings))
        else:
            submit(settings)
    elif options.plan:
        raise UserError("--plan shows the job of --launcher slurm: add that, or leave --plan out")
    else:
        from lightning_seg.experiment.experiment import Experiment
        from lightning_seg.experiment.failures import end_with_first_process

        end_with_first_process()
        Experiment(settings).train(then_test=True)
