"""Try every loss of torch, smp and MONAI, and torchmetrics' metrics of classes and masks: docs/losses_and_metrics.md.

Run ``python docs/scripts/parts_table.py`` after a library or `AnyLoss` or `TorchMetric` has changed.
"""

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchmetrics.classification
import torchmetrics.segmentation
from torch import nn

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.metrics.torch_metric import TorchMetric
from lightning_seg.training.any_loss import AnyLoss

CLASSES = 4
PAGE = Path(__file__).parents[1] / "losses_and_metrics.md"
# What a class has to be told to be a loss of masks of classes at all.
OPTIONS: dict[str, dict[str, Any]] = {
    "smp": {"mode": "multiclass"},
    "MONAI": {"to_onehot_y": True, "softmax": True, "spatial_dims": 2},
}
SPECIAL: dict[str, Any] = {
    "SoftCrossEntropyLoss": {"smooth_factor": 0.1},
    "NACLLoss": {"classes": CLASSES, "dim": 2},
    "GeneralizedWassersteinDiceLoss": {"dist_matrix": (1 - torch.eye(CLASSES)).numpy()},
}
HEAD = """# Losses and metrics of other libraries

Made by `python docs/scripts/parts_table.py`, with {versions}, {classes}
classes (binary metrics: two). Each is tried before training as
[docs/own_code.md](own_code.md) says, here with its defaults and the arguments that the table names. `ignore_index: 255`
is stated wherever a class has it.
"""


def losses() -> Iterator[tuple[str, type[nn.Module], dict[str, Any]]]:
    """Yield library, class and arguments of every loss."""
    import monai.losses
    import segmentation_models_pytorch.losses as smp

    for library, module in (("torch", nn), ("smp", smp), ("MONAI", monai.losses)):
        for name in sorted(dir(module)):
            cls = getattr(module, name)
            ends = name.endswith("Loss") and not name.startswith("_") and isinstance(cls, type)
            if not ends or not issubclass(cls, nn.Module):
                continue
            known = inspect.signature(cls).parameters
            options = {k: v for k, v in OPTIONS.get(library, {}).items() if k in known}
            options |= SPECIAL.get(name, {})
            if "ignore_index" in known:
                options["ignore_index"] = IGNORE_INDEX
            yield library, cls, options
            if "reduction" in known:
                yield library, cls, options | {"reduction": "none"}


def judge_loss(cls: type[nn.Module], options: dict[str, Any]) -> tuple[str, str]:
    """Return what a loss is given, or a dash, and what becomes of ignored pixels, or why it is refused."""
    try:
        loss = AnyLoss(cls(**options), CLASSES)
    except UserError as error:
        return "–", "refused: " + _reason(str(error))
    except Exception as error:  # its constructor's
        return "–", f"refused: {type(error).__name__}: {_short(str(error))}"
    return loss.form, "ignored" if loss.ignores else "must not be there"


def metrics() -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Yield module, class and arguments of every metric of classes and of masks."""
    for module in (torchmetrics.classification, torchmetrics.segmentation):
        for name in sorted(module.__all__):
            cls = getattr(module, name)
            known = inspect.signature(cls).parameters
            options: dict[str, Any] = {}
            for argument in ("num_classes", "num_labels"):
                if argument in known:
                    options[argument] = CLASSES
            if "input_format" in known:
                options["input_format"] = "index"
            if "ignore_index" in known:
                options["ignore_index"] = IGNORE_INDEX
            if "task" in known:  # what makes one of the others
                continue
            needed = {
                "beta": 2.0,
                "min_sensitivity": 0.5,
                "min_precision": 0.5,
                "min_recall": 0.5,
                "min_specificity": 0.5,
            }
            options |= {
                k: v for k, v in needed.items() if k in known and known[k].default is inspect.Parameter.empty
            }
            yield module.__name__.rpartition(".")[2], cls, options


def judge_metric(cls: type[Any], options: dict[str, Any]) -> tuple[str, str, str]:
    """Return what a metric is given, what becomes of ignored pixels, and what its value depends on; or why not."""
    try:
        metric = TorchMetric(cls(**options), 2 if cls.__name__.startswith("Binary") else CLASSES)
    except UserError as error:
        return "–", "refused: " + _reason(str(error)), ""
    except Exception as error:  # its constructor's
        return "–", f"refused: {type(error).__name__}: {_short(str(error))}", ""
    ignored = "ignored" if metric.ignores else "no score where there are any"
    return metric.form, ignored, ", ".join(metric.depends_on) or "nothing else"


def _reason(text: str) -> str:
    """Return the last reason of several: that of the form which is nearest to a mask of classes."""
    lines = text.splitlines()
    forms = [line.strip() for line in lines[1:]]
    kind = [line for line in forms if "cost less" in line or "without end" in line] or forms
    return _short(kind[-1].partition(": ")[2]) if kind else _short(lines[0].partition(": ")[2])


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 110 else f"{text[:107]}..."


def _stated(options: dict[str, Any]) -> str:
    hidden = ("ignore_index", "num_classes", "num_labels")
    stated = {key: "a matrix" if key == "dist_matrix" else str(v).lower() for key, v in options.items()}
    return ", ".join(f"{key}: {value}" for key, value in stated.items() if key not in hidden)


def main() -> None:
    """Write the page."""
    import monai
    import segmentation_models_pytorch as smp

    warnings.simplefilter("ignore")
    versions = f"torch {torch.__version__.split('+')[0]}, segmentation_models_pytorch {smp.__version__}"
    versions += f", MONAI {monai.__version__}, torchmetrics {torchmetrics.__version__}"
    lines = [HEAD.format(versions=versions, classes=CLASSES)]
    found = [(lib, cls, options, *judge_loss(cls, options)) for lib, cls, options in losses()]
    works = len({cls for _, cls, _, form, _ in found if form != "–"})
    lines += [f"## Losses\n\n{works} of {len({f[1] for f in found})} work in some way.\n"]
    lines += ["| library | loss | arguments | is given | ignored pixels |", "|---|---|---|---|---|"]
    refused = {cls for _, cls, *_ in found} - {cls for _, cls, _, form, _ in found if form != "–"}
    for library, cls, options, form, void in found:
        if form == "–" and (cls not in refused or "reduction" in options):
            continue  # another row of it works, or says why
        lines.append(f"| {library} | `{cls.__name__}` | {_stated(options)} | {form} | {void} |")
    rows = [(part, cls, options, *judge_metric(cls, options)) for part, cls, options in metrics()]
    works = sum(form != "–" for _, _, _, form, _, _ in rows)
    lines += [f"\n## Metrics\n\n{works} of {len(rows)} work.\n"]
    lines += [
        "| torchmetrics | metric | arguments | is given | ignored pixels | its value depends on |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {part} | `{cls.__name__}` | {_stated(options)} | {form} | {void} | {depends} |"
        for part, cls, options, form, void, depends in rows
    ]
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
