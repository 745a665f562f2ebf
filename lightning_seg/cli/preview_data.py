"""``lightning-seg preview-data``: draw augmented training samples."""

from lightning_seg.cli.arguments import Arguments, picture_file


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg preview-data",
        "Draw training samples as the network sees them, after augmentation.",
        "lightning-seg preview-data unet_camvid --data.init_args.crop_size=[256,256]",
        settings=True,
    )
    parser.add_experiment()
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=picture_file,
        default="preview.png",
        help="the picture (default: preview.png)",
    )
    options, settings = parser.parse_with_settings(arguments)

    from lightning_seg.data.checks.preview import preview
    from lightning_seg.experiment.loading import read_data

    preview(read_data(settings), options.output)
    print(f"augmented training samples: {options.output}")
