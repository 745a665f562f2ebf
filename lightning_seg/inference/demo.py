"""The `demo` command: a page on this machine where an image is dropped and its mask appears."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.inference.predictor import Predictor, as_rgb, load
from lightning_seg.runs.directory import existing_run

Annotated = tuple[np.ndarray, list[tuple[np.ndarray, str]]]
"""An image (H, W, 3) and its regions: a mask (H, W) and the name of each."""


def main(args: list[str]) -> None:
    """Open the page, ``RUN [RUN2] [--host HOST] [--port PORT]``."""
    parser = Arguments(
        prog="lightning-seg demo", description="Drop an image, see the mask.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or two to compare")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; nobody else by default"
    )
    parser.add_argument("--port", type=int, help="the first free one from 7860 unless given")
    chosen, settings = parser.parse_known_args(args)
    if len(chosen.runs) > 2:
        raise UserError(f"the demo compares two runs, not {len(chosen.runs)}.")
    runs = [existing_run(run) for run in chosen.runs]
    page = build([load(run, settings=settings) for run in runs], [_name(run) for run in runs])
    try:
        _, address, _ = page.launch(
            server_name=chosen.host,
            server_port=chosen.port,
            share=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:  # the port is taken, or none
        where = "a free port from 7860 to 7959" if chosen.port is None else f"port {chosen.port}"
        raise UserError(
            f"the demo cannot have {where} at {chosen.host}: {error} Say another --port."
        ) from None
    print(f"{address} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def build(models: list[Predictor], names: list[str]) -> Any:
    """Lay out the page.

    Args:
        models: One or two models.
        names: What to call them.

    Returns:
        The `gradio.Blocks`; it has one event, called ``segment``.

    Raises:
        UserError: Gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        raise UserError("the demo needs Gradio. Install it with `uv pip install gradio`.") from None
    with gradio.Blocks(title="lightning-seg", analytics_enabled=False) as page:
        image = gradio.Image(type="pil", label="image")
        with gradio.Row():
            outputs = [
                gradio.AnnotatedImage(
                    label=name,
                    color_map={c: f"#{r:02x}{g:02x}{b:02x}" for c, (r, g, b) in _colours(model)},
                )
                for model, name in zip(models, names, strict=True)
            ]
            if len(models) == 2:
                outputs.append(
                    gradio.AnnotatedImage(label="where they differ", color_map={"differs": "#dc143c"})
                )

        def shown(picture: Any) -> Any:
            found = segment(models, picture)
            return found if len(found) > 1 else found[0]

        image.change(shown, image, outputs, api_name="segment", show_progress="minimal")
    return page


def segment(models: list[Predictor], image: Any) -> list[Annotated | None]:
    """Predict an image with each model, and mark where two differ.

    Args:
        models: One or two models.
        image: A PIL image, or None where it was taken away.

    Returns:
        For each model the image and the regions of the classes found, largest first; for two also where the names of
        their classes differ.
    """
    if image is None:
        return [None] * (2 * len(models) - 1)
    pixels = as_rgb(image)
    masks = [model(pixels) for model in models]
    shown: list[Annotated | None] = []
    for model, mask in zip(models, masks, strict=True):
        labels, counts = np.unique(mask, return_counts=True)
        order = labels[np.argsort(-counts, kind="stable")]
        shown.append((pixels, [(mask == label, model.class_names[label]) for label in order]))
    if len(models) == 2:
        first, second = (np.array(model.class_names)[mask] for model, mask in zip(models, masks, strict=True))
        shown.append((pixels, [(first != second, "differs")]))
    return shown


def _colours(model: Predictor) -> list[tuple[str, tuple[int, int, int]]]:
    return list(zip(model.class_names, model.palette, strict=True))


def _name(run: Path) -> str:
    return f"{run.absolute().parent.name}/{run.name}"
