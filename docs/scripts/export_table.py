"""How exactly each architecture exports to ONNX: a table, ``python docs/scripts/export_table.py FILE``."""

import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from lightning_seg.inference.export.check import SIZES, check
from lightning_seg.inference.export.exportable import exportable
from lightning_seg.inference.export.formats import export_onnx, reason_of

ARCHITECTURES = (
    "fcn.FCN8s",
    "deeplab.DeepLabV3",
    "deeplab.DeepLabV3Plus",
    "unet.UNet",
    "segnet.SegNet",
    "pspnet.PSPNet",
    "fpn.FPN",
    "upernet.UPerNet",
    "linknet.LinkNet",
    "unetplusplus.UNetPlusPlus",
)
BACKBONES = ("resnet50", "resnet101", "vgg16")
HEAD = """# Export

```
lightning-seg export RUN                   # RUN/model.onnx, compared with the checkpoint, and a program that runs it
lightning-seg export RUN --labels          # the file gives labels (B, H, W) instead of logits
lightning-seg export RUN --format pt2      # torch.export
```

Needs the extra `export` (onnx, onnxruntime). [Without this package](inference.md#without-this-package) says what is in
the file and what is not.

## How exact each architecture is
"""
REMARK = (
    "SegNet puts a value where the maximum of a cell was. Where two values of a cell are equal but for rounding, "
    "another place can win: on VGG16, pixels that differ by a millionth do the same to PyTorch itself."
)


def table(architectures: Sequence[str] = ARCHITECTURES, backbones: Sequence[str] = BACKBONES) -> str:
    """Export every architecture on every backbone and render the differences as Markdown."""
    rows = [
        "| architecture | backbone | MB | largest difference | of the largest logit | same labels |",
        "|---|---|---|---|---|---|",
    ]
    for name in architectures:
        for backbone in backbones:
            rows.append(f"| {name.split('.')[1]} | {backbone} | {' | '.join(attempt(name, backbone))} |")
            print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


def attempt(name: str, backbone: str) -> list[str]:
    """Export one network with random weights and compare it: size in MB, differences and agreement as text."""
    torch.manual_seed(0)
    build = pkgutil.resolve_name(f"lightning_seg.networks.{name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        try:
            network = build(21, backbone, weights=False).eval()
            run = export_onnx(exportable(network), path, {}, torch.uint8)
            checks = check(network, run, False, torch.uint8)
        except Exception as error:  # torch, onnx and onnxruntime raise their own
            return ["–", "–", "–", f"does not export: {reason_of(error)}"]
        size = path.stat().st_size / 1e6
    worst = max(checks, key=lambda one: one.difference / one.largest)
    return [
        f"{size:.0f}",
        f"{worst.difference:.1e}",
        f"{worst.difference / worst.largest:.1e}",
        f"{100 * min(one.agreement for one in checks):.3f} %",
    ]


if __name__ == "__main__":
    used = ", ".join(f"{package} {version(package)}" for package in ("torch", "onnx", "onnxruntime"))
    sizes = " and ".join(f"{shape[0]} of {shape[2]}x{shape[3]}" for shape in SIZES)
    Path(sys.argv[1]).write_text(
        f"{HEAD}\nWritten by `python docs/scripts/export_table.py FILE`: networks of 21 classes with random "
        "weights, exported with pre-processing inside and dynamic batch, height and width (opset 18), compared in "
        f"onnxruntime on noise images, {sizes}; the worse of the two. {used}.\n\n{table()}\n\n{REMARK}\n"
    )
