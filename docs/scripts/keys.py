"""Write docs/keys.md, the settings of an experiment, as the parser of YAML and command line knows them.

``python docs/scripts/keys.py``
"""

import os
import re
from pathlib import Path

HEAD = """# Keys of the YAML

What `lightning-seg fit --help` says, as a page; `python docs/scripts/keys.py` writes it and a test holds that it is
current. Every key is one of the YAML and of the command line: `trainer: {max_epochs: 5}` is `--trainer.max_epochs=5`.
An experiment states `model.network`, `model.optimizer` and `data`; all else has the default that stands here. What a
class takes under `init_args` is on its page of the [reference](api.md); `--model.network.help=UNet` prints it, too. The
keys of `model` are those of `SemanticSegmentation`; other tasks have [their own](reference/tasks.md). Those of
`data.init_args` are what every data set takes; what else one takes is on [its page](reference/data_datasets.md).
Those of an ablation are in [studies.md](studies.md#an-ablation-of-your-own).
"""
TITLES = {
    "": "The experiment",
    "model": "`model`: the task",
    "data": "`data`: the data set",
    "trainer": "`trainer`: Lightning's trainer",
    "wandb": "`wandb`: Weights & Biases",
    "mlflow": "`mlflow`",
    "checkpoint": "`checkpoint`: which checkpoint is the best",
    "checkpointing": "`checkpointing`: when a run is saved",
    "pictures": "`pictures`",
    "overfitting": "`overfitting`",
    "nonfinite": "`nonfinite`",
    "slurm": "`slurm`: what a job asks for",
}
OPTION = re.compile(r"^  --([\w.]+)(?: [^\n]*?)?(?:\n {10,}|  +)(\S[^\n]*)$", re.MULTILINE)
CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


def cells(text: str) -> tuple[str, str, str]:
    """Divide the help of a key into what it says, its type and its default."""
    text = re.sub(r",? known subclasses: .*?(?=\)$)", "", text)
    says, required, rest = re.fullmatch(r"(.*?)(?: \((required, )?type: (.*)\))?", text).groups("")
    kind, _, default = rest.partition(", default: ")
    kind = re.sub(r"\b(?:\w+\.)+(?=\w)", "", CLASS.sub(r"\1", kind)).replace(" | ", " or ")
    return says.strip(), kind, "" if required else "`" + CLASS.sub(r"\1", default) + "`"


def page(text: str) -> str:
    """Make the page of what --help prints."""
    sections: dict[str, list[str]] = {group: [] for group in TITLES}
    for key, said in OPTION.findall(text):
        if (
            key.endswith(".help")
            or key in ("config", "print_config", "help")
            or said.startswith("Path to a config")
        ):
            continue
        says, kind, default = (cell.replace("|", "\\|") for cell in cells(said))
        group = key.partition(".")[0]
        row = f"| `{key}` | {says} | `{kind}` | {default or 'must be given'} |"
        sections[group if group in TITLES and group != key or group in ("data", "model") else ""].append(row)
    head = "| key | what it says | type | default |\n|---|---|---|---|\n"
    return HEAD + "".join(
        f"\n## {TITLES[group]}\n\n{head}" + "\n".join(rows) + "\n" for group, rows in sections.items() if rows
    )


def keys() -> str:
    """Return the text of docs/keys.md."""
    import contextlib
    import io

    from jsonargparse import ArgumentParser

    from lightning_seg.cli.fit import main
    from lightning_seg.data.base import SegmentationData

    data = ArgumentParser()  # the parser of experiments knows only the classes that are named
    data.add_class_arguments(SegmentationData, "data.init_args")

    out = io.StringIO()
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100000"  # one line a key
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(["--help"])
        out.write(data.format_help())
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return page(out.getvalue())


if __name__ == "__main__":
    Path("docs/keys.md").write_text(keys())
