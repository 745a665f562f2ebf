"""``lightning-seg demo``: drop an image into a page on this machine, see the mask."""

from pathlib import Path

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import existing_run


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg demo",
        "Open a page on this machine: drop an image, see the mask; with two runs, where they differ.",
        "lightning-seg demo runs/unet_camvid runs/deeplab_camvid",
        settings=True,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or two to compare")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; nobody else by default"
    )
    parser.add_argument("--port", type=int, help="the first free one from 7860 unless given")
    options, settings = parser.parse_with_settings(arguments)
    if len(options.runs) > 2:
        raise UserError(f"the demo compares two runs, not {len(options.runs)}.")
    runs = [existing_run(run) for run in options.runs]

    from lightning_seg.experiment.loading import load_run
    from lightning_seg.inference import demo

    models = [load_run(run, ["--model.compile=false", *settings]).predictor() for run in runs]
    page = demo.build(models, [_name(run) for run in runs])
    try:
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            share=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:  # the port is taken, or none
        where = "a free port from 7860 to 7959" if options.port is None else f"port {options.port}"
        raise UserError(
            f"the demo cannot have {where} at {options.host}: {error} Say another --port."
        ) from None
    print(f"{address} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def _name(run: Path) -> str:
    return f"{run.absolute().parent.name}/{run.name}"
