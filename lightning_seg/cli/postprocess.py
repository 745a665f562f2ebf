"""``lightning-seg postprocess``: what does a chain of post-processing change, and is that certain?"""

from pathlib import Path

from lightning_seg.cli.arguments import Arguments, at_least
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    options, settings = _parser().parse_with_settings(arguments)
    run = existing_run(options.run)

    from lightning_seg.studies.postprocessing import PostprocessingStudy

    study = PostprocessingStudy(
        options.chain, options.each, options.tune, options.tune_images, options.split, options.block
    )
    print(study.apply(run, settings))


def _parser() -> Arguments:
    parser = Arguments(
        "lightning-seg postprocess",
        "Apply a chain of post-processing to the predictions of a run, and say what it changes in mIoU and boundary F1"
        " and whether that is certain. The report and the steps are written into the run directory.",
        "lightning-seg postprocess runs/unet_camvid --chain experiments/postprocess/crf.yaml --tune 20",
        settings=True,
    )
    parser.add_run()
    add = parser.add_argument
    add(
        "--chain",
        metavar="FILE",
        type=Path,
        required=True,
        help="list of steps in YAML, as in experiments/postprocess/",
    )
    add("--each", action="store_true", help="each step by itself instead of the chain")
    add(
        "--tune",
        metavar="N",
        type=at_least(0),
        default=0,
        help="tune for mIoU in N trials, on the val split only",
    )
    add(
        "--tune-images",
        metavar="N",
        type=at_least(1),
        help="tune on N of its images, evenly spaced; each takes 2 bytes a pixel and class on the disk meanwhile",
    )
    add(
        "--split",
        metavar="NAME",
        help="report on this split instead of test; if it is val and tuned on, on its second half",
    )
    add(
        "--block",
        metavar="N",
        type=at_least(1),
        default=1,
        help="resample N neighboring images together, for frames of a video",
    )
    return parser
