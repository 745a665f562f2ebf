"""``lightning-seg fit``: train an experiment, without a test."""

import io
from contextlib import redirect_stdout, suppress

from lightning_seg.cli.arguments import Arguments


def main(arguments: list[str]) -> None:
    """Run the command; its help lists every setting of an experiment."""
    parser = Arguments(
        "lightning-seg fit",
        "Train an experiment, without a test at the end. --help lists the settings of experiments, which all commands"
        " with [--key=value ...] take; after an experiment, those of its task. --model.network.help=UNet,"
        " --data.help=CamVid and so on list the settings of a class.",
        "lightning-seg fit unet_camvid --trainer.max_epochs=5",
        settings=True,
    )
    parser.add_experiment()
    words = [word for word in arguments if word not in ("-h", "--help")]
    if len(words) < len(arguments):
        print(f"{parser.format_help()}\n{_settings(parser.parse_with_settings(words)[1] if words else [])}")
        raise SystemExit(0)
    if words and words[0].startswith("--") and words[0].split("=")[0].endswith(".help"):
        settings = words  # of a class: no experiment is needed
    else:
        _, settings = parser.parse_with_settings(words)

    from lightning_seg.experiment.training import train

    train(settings, then_test=False)


def _settings(arguments: list[str]) -> str:
    """Return the help of the parser of experiments, without its usage of a hundred lines."""
    from lightning_seg.experiment.experiment import ExperimentSettings

    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        ExperimentSettings([*arguments, "--help"])
    return text.getvalue().partition("\n\n")[2]
