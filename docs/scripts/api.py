"""Write docs/api.md, the list of the front door's names: python docs/scripts/api.py."""

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
"""


def title(module: str) -> str:
    """Return the longest title that fits a module."""
    inside = module.removeprefix("lightning_seg").removeprefix(".")
    return TITLES[max((t for t in TITLES if f"{inside}.".startswith(f"{t}.") or not t), key=len)]


def page() -> str:
    """Return the text of docs/api.md."""
    sections: dict[str, list[str]] = {heading: [] for heading in TITLES.values()}
    for name, module in sorted(lightning_seg.PUBLIC.items(), key=lambda item: item[::-1]):
        says = " ".join((inspect.getdoc(getattr(lightning_seg, name)) or "").partition("\n\n")[0].split())
        says = says.replace("|", "\\|")
        sections[title(module)].append(f"| `{name}` | `{module}` | {says} |")
    parts = [HEAD]
    for heading, rows in sections.items():
        if rows:
            parts.append(
                f"\n## {heading}\n\n| name | module | what it is |\n|---|---|---|\n" + "\n".join(rows) + "\n"
            )
    return "".join(parts)


if __name__ == "__main__":
    Path("docs/api.md").write_text(page())
