"""Write docs/api.md and docs/reference/, the front door's names and their pages: python docs/scripts/api.py."""

import inspect
from pathlib import Path

import lightning_seg

TITLES = {
    "tasks": "Tasks (`task`)",
    "networks": "Networks (`model.network`)",
    "networks.backbones": "Backbones (`backbone`)",
    "networks.upsampling": "Upsampling (`upsampling`)",
    "networks.detection": "Instance segmentation networks",
    "training.losses": "Losses (`model.loss`)",
    "training.schedules": "Learning-rate schedules (`model.lr_scheduler`)",
    "training.finetune": "Fine-tuning policies (`model.finetune`)",
    "training": "Training",
    "data": "Data",
    "data.datasets": "Data sets (`data`)",
    "data.transforms": "Augmentation (`transforms`, `mix`, `color`)",
    "inference": "Inference (`model.inference`)",
    "postprocess": "Post-processing (`model.postprocess`)",
    "metrics": "Metrics (`model.metrics`)",
    "callbacks": "Callbacks (`trainer.callbacks`)",
    "experiment": "From Python",
    "analysis": "Comparing runs from Python",
    "": "Anywhere",
}
HEAD = """# Public names

`from lightning_seg import NAME` gives each of these; the module is imported when the name is first used. In experiment
files and on the command line a class is named by its short name or by its class path, whatever was imported before:
`class_path: UNet`, `--model.loss=DiceLoss`. There the usual names of libraries are known, too: optimizers of
`torch.optim`, schedulers of `torch.optim.lr_scheduler`, losses of `torch.nn`, transforms of
`torchvision.transforms.v2`, metrics of `torchmetrics`, callbacks, loggers, profilers, strategies and plugins of
`lightning.pytorch`. A name that both have (`RandAugment`, `EarlyStopping`) is an error that shows the class paths to
choose from. Everything else, your own modules in the current folder, in `experiments/` and beside the YAML included, is
named by its class path: `mynet.MyNet`.

A name leads to its page: arguments with their defaults, shapes and units, what is raised, an example, and the source.
The tests run every example; it takes for granted

```python
import lightning, numpy as np, torch
from functools import partial
from pathlib import Path
from lightning_seg import NAME  # those that it uses
```
"""


def place(module: str) -> str:
    """Return the longest key of `TITLES` that fits a module."""
    inside = module.removeprefix("lightning_seg").removeprefix(".")
    return max((t for t in TITLES if f"{inside}.".startswith(f"{t}.") or not t), key=len)


def pages() -> dict[Path, str]:
    """Return the text of docs/api.md and of every page of docs/reference/."""
    names: dict[str, list[tuple[str, str]]] = {key: [] for key in TITLES}
    for name, module in sorted(lightning_seg.PUBLIC.items(), key=lambda item: item[::-1]):
        names[place(module)].append((name, getattr(lightning_seg, name).__module__))
    head, made = [HEAD], {}
    for key, members in names.items():
        if not members:
            continue
        file = f"reference/{key.replace('.', '_') or 'anywhere'}.md"
        head.append(f"\n## {TITLES[key]}\n\n| name | what it is |\n|---|---|\n")
        for name, module in members:
            says = " ".join((inspect.getdoc(getattr(lightning_seg, name)) or "").partition("\n\n")[0].split())
            head.append(f"| [`{name}`]({file}#{module}.{name}) | {says.replace('|', chr(92) + '|')} |\n")
        made[Path("docs", file)] = (
            f"# {TITLES[key]}\n\n" + "\n\n".join(f"::: {module}.{name}" for name, module in members) + "\n"
        )
    return {Path("docs/api.md"): "".join(head), **made}


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
