"""``lightning-seg features``: draw the feature maps of an image."""

from pathlib import Path

from lightning_seg.cli.arguments import Arguments, picture_file
from lightning_seg.runs.directory import PICTURES, existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg features",
        "Draw the feature maps that the stages of a run's network make of an image.",
        "lightning-seg features runs/unet_camvid street.jpg --output features.png",
        settings=True,
    )
    parser.add_run()
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the image")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=picture_file,
        help="the picture; in pictures/ of the run unless given",
    )
    options, settings = parser.parse_with_settings(arguments)
    run = existing_run(options.run)

    from lightning_seg.callbacks.feature_maps import draw_file
    from lightning_seg.experiment.loading import load_run

    loaded = load_run(run, settings)
    (run / PICTURES).mkdir(exist_ok=True)
    output = options.output or run / PICTURES / f"features_{options.image.stem}.png"
    draw_file(loaded.task.network, options.image, output, loaded.data.pixels)
    print(f"feature maps: {output}")
