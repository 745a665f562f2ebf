"""A page on this machine where an image is dropped and its mask appears."""

from typing import Any

import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.inference.predictor import Predictor, as_image

Annotated = tuple[np.ndarray, list[tuple[np.ndarray, str]]]
"""An image (H, W, 3) and its regions: a mask (H, W) and the name of each."""


def build(models: list[Predictor], names: list[str]) -> Any:
    """Lay out the page.

    Args:
        models: One or two models.
        names: What to call them.

    Returns:
        The `gradio.Blocks`; it has one event, called ``segment``.

    Raises:
        UserError: Gradio is not installed, or a model reads bands or values that no browser shows.
    """
    if wide := [model for model in models if model.pixels.bands is not None or model.pixels.value_range]:
        raise UserError(
            f"a browser shows pictures of 8 bits, and this run reads others: {wide[0].pixels.describe()}. Use "
            "`lightning-seg predict`."
        )
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
                    color_map={c: f"#{r:02x}{g:02x}{b:02x}" for c, (r, g, b) in _colors(model)},
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
    pixels = models[0].pixels.picture(as_image(image, models[0].pixels))
    masks = [model(image) for model in models]
    shown: list[Annotated | None] = []
    for model, mask in zip(models, masks, strict=True):
        labels, counts = np.unique(mask, return_counts=True)
        order = labels[np.argsort(-counts, kind="stable")]
        shown.append((pixels, [(mask == label, model.class_names[label]) for label in order]))
    if len(models) == 2:
        first, second = (np.array(model.class_names)[mask] for model, mask in zip(models, masks, strict=True))
        shown.append((pixels, [(first != second, "differs")]))
    return shown


def _colors(model: Predictor) -> list[tuple[str, tuple[int, int, int]]]:
    return list(zip(model.class_names, model.palette, strict=True))
