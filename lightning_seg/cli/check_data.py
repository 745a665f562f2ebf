"""``lightning-seg check-data``: read every file of a data set, and report what is wrong."""

from lightning_seg.cli.arguments import Arguments, picture_file
from lightning_seg.errors import ExitCode


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = Arguments(
        "lightning-seg check-data",
        "Read every image and mask of an experiment's data and report what is wrong: files that cannot be read, sizes"
        " that differ, labels that are no class, images in several splits, how often each class occurs.",
        "lightning-seg check-data unet_camvid --output classes.png",
        settings=True,
    )
    parser.add_experiment()
    parser.add_argument("--output", metavar="FILE", type=picture_file, help="draw examples of every class")
    options, settings = parser.parse_with_settings(arguments)

    from lightning_seg.data.checks.check import check
    from lightning_seg.data.checks.examples import draw_examples
    from lightning_seg.experiment.loading import read_data

    data = read_data(settings)
    report = check(data, progress=True)
    print(report.text(files=None))
    if options.output is not None and data.train_split in report.pixels:
        draw_examples(data, report, options.output)
        print(f"pictures of every class: {options.output}")
    return ExitCode.DONE if report.ok else ExitCode.FINDINGS
