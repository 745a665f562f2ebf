"""``lightning-seg ensemble``: the mean probability of finished runs, tested as a run of its own."""

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg ensemble",
        "Average the probabilities of runs, and test that. Data and settings are those of the first run; the images"
        " must be new to all of them. The result is a run directory like any other, checkpoint included: 'compare',"
        " 'predict', 'calibrate', 'export' and 'ensemble' take it.",
        "lightning-seg ensemble runs/unet_camvid runs/deeplab_camvid --name=both",
        settings=True,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two runs or more of the same classes")
    options, settings = parser.parse_with_settings(arguments)
    runs = [existing_run(run) for run in options.runs]
    if len(runs) < 2:
        raise UserError("which runs? Type 'lightning-seg ensemble RUN RUN ...'.")
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("an ensemble of a run and itself is the run: name each run once.")

    from lightning_seg.experiment.ensemble import make_ensemble

    make_ensemble(runs, settings)
