"""``lightning-seg new``: an experiment of your own to start from."""

import importlib.util
import keyword
import re
from pathlib import Path

from lightning_seg.cli.arguments import Arguments
from lightning_seg.errors import UserError
from lightning_seg.experiment.files import EXPERIMENTS, experiment_file

_PARTS = Path(__file__).with_name("starter.py")  # copied as it is
_YAML = Path(__file__).with_name("starter.yaml")
_FROM = """\
# {name}: began as a copy of {base}. Run it: lightning-seg exp {name} (or make exp NAME={name}).
# Parts of your own are in {name}.py beside this file. Name one of them in place of the setting that it resembles:
#   model.network: {{class_path: {name}.MyNetwork, init_args: {{backbone: resnet18, weights: false}}}}
#   model.loss: {name}.MyLoss
#   model.metrics: [{name}.MyMetric]
#   data: {{class_path: {name}.MyData, init_args: {{batch_size: 8, crop_size: [64, 64]}}}}
"""


def main(arguments: list[str]) -> None:
    """Run the command."""
    parser = Arguments(
        "lightning-seg new",
        "Write experiments/NAME.yaml and experiments/NAME.py: a network, a loss, a metric and a data set to start from,"
        " which run as they are.",
        "lightning-seg new mine --from unet_camvid",
    )
    parser.add_argument("name", metavar="NAME", help="of the experiment, and of the Python module beside it")
    parser.add_argument("--from", dest="base", metavar="EXPERIMENT", help="start from a copy of its YAML")
    options = parser.parse_args(arguments)
    name = options.name
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(f"{name!r} cannot name a Python module: use letters, digits and _, as in my_unet.")
    files = {
        EXPERIMENTS / f"{name}.yaml": _settings(name, options.base),
        EXPERIMENTS / f"{name}.py": _parts(name),
    }
    for file in files:
        if file.exists():
            raise UserError(f"{file} exists already; choose another name.")
    if (other := importlib.util.find_spec(name)) is not None:
        raise UserError(
            f"there is a module {name!r} already, {other.origin or 'in a folder'}, which Python would find instead;"
            " choose another name."
        )
    EXPERIMENTS.mkdir(exist_ok=True)
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
        print(file)
    print(f"lightning-seg exp {name}   runs it as it is")


def _settings(name: str, base: str | None) -> str:
    if base is None:
        return re.sub("NAME(?!=)", name, _YAML.read_text(encoding="utf-8"))  # make exp NAME=mine
    file = experiment_file(base)
    return _FROM.format(name=name, base=file) + file.read_text(encoding="utf-8")


def _parts(name: str) -> str:
    return _PARTS.read_text(encoding="utf-8").replace("NAME", name)
