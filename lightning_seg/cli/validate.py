"""``lightning-seg validate``: score the best checkpoint of a run on the validation split."""

from lightning_seg.cli.test import evaluate


def main(arguments: list[str]) -> None:
    """Run the command."""
    evaluate(
        arguments,
        "validate",
        "Score the best checkpoint of a run on the validation split, and print the scores.",
    )
