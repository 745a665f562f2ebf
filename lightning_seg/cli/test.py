"""``lightning-seg test``: score the best checkpoint of a run again."""

from typing import Literal

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    evaluate(
        arguments,
        "test",
        "Score the best checkpoint of a run on the test split, and on the run's test sets; the results replace those in"
        " its directory.",
    )


def evaluate(arguments: list[str], command: Literal["test", "validate"], description: str) -> None:
    """Score a run by one of the trainer's two commands for that.

    Args:
        arguments: Those of the command line after the command.
        command: The name of the command, which is that of the trainer's method.
        description: What it does, for ``--help``.
    """
    parser = Arguments(
        f"lightning-seg {command}",
        f"{description} --ckpt_path=FILE takes another checkpoint.",
        f"lightning-seg {command} runs/unet_camvid --data.init_args.root=/data/CamVid",
        settings=True,
    )
    parser.add_run()
    if command == "test":
        parser.add_argument(
            "--test-sets-only",
            action="store_true",
            help="score on its test sets alone, and leave its test.json",
        )
    options, settings = parser.parse_with_settings(arguments)
    directory = existing_run(options.run)

    from lightning_seg.experiment.failures import friendly_errors
    from lightning_seg.experiment.loading import load_run

    run = load_run(directory, settings)
    only_sets = command == "test" and options.test_sets_only
    if only_sets and not run.settings.test_sets:
        raise UserError(
            f"{directory} has no test sets: name some, such as"
            " --test_sets.noise='{corruption: noise, severity: 3}'."
        )
    further = run.test_sets() if command == "test" else {}  # raises if their images are not there
    trainer = run.make_trainer()
    limit = f"limit_{'test' if command == 'test' else 'val'}_batches"
    if getattr(trainer, limit) == 0:
        raise UserError(
            f"trainer.{limit} is 0, so nothing would be scored: --trainer.{limit}=1.0 takes all images."
        )
    score = trainer.test if command == "test" else trainer.validate
    with friendly_errors(trainer, run.data, lambda: directory, resumes=False):
        if not only_sets:
            score(**run.trainer_arguments, verbose=False)
        run.score_test_sets(further)
