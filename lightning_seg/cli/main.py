"""The command line. This module imports nothing heavy: a command pays only for what it uses."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from lightning_seg.errors import UserError
from lightning_seg.experiment.files import experiment_file, experiment_names

# Every command is a function of the arguments after its name; its module is imported when it is called.
COMMANDS = {
    "exp": "lightning_seg.cli.commands:exp",
    "fit": "lightning_seg.cli.commands:fit",
    "folds": "lightning_seg.cli.commands:folds",
    "resume": "lightning_seg.cli.commands:resume",
    "lr": "lightning_seg.cli.find_lr:main",
    "check": "lightning_seg.cli.commands:check",
    "preview": "lightning_seg.cli.commands:preview",
    "bench": "lightning_seg.cli.bench:main",
    "validate": "lightning_seg.cli.commands:validate",
    "test": "lightning_seg.cli.commands:test",
    "predict": "lightning_seg.cli.predict:main",
    "ensemble": "lightning_seg.cli.ensemble:main",
    "calibrate": "lightning_seg.inference.calibration:main",
    "postprocess": "lightning_seg.cli.postprocess:main",
    "export": "lightning_seg.inference.export.onnx:main",
    "demo": "lightning_seg.inference.demo:main",
    "batch-size": "lightning_seg.cli.find_batch_size:main",
    "describe": "lightning_seg.cli.commands:describe",
    "features": "lightning_seg.cli.commands:features",
    "ablation": "lightning_seg.studies.ablation:main",
    "compare": "lightning_seg.analysis.compare:main",
    "runs": "lightning_seg.runs.manage:main",
    "sync": "lightning_seg.tracking.sync:main",
    "dashboard": "lightning_seg.tracking.dashboard:main",
    "search": "lightning_seg.studies.search:main",
}
# Their first argument is the name of an experiment.
NAMED = ("exp", "folds", "lr", "check", "preview", "batch-size")

USAGE = """\
usage: lightning-seg COMMAND ...

train
  exp NAME [--key=value ...]         train experiments/NAME.yaml, then test the best checkpoint
  resume RUN [--key=value ...]       continue a run that was stopped or killed
  folds NAME K [--key=value ...]     cross-validate with K folds: K runs, then mean, spread and pooled score
  fit -c FILE [--key=value ...]      train only
  search FILE [--trials N]           search for the best settings by a W&B sweep file, with Optuna or with W&B
  lr NAME [--output FILE]            raise the learning rate from step to step, suggest one, draw the curve

look at the data
  check NAME [--output FILE]         look at every image and mask, report what is wrong; draw each class into FILE
  preview NAME [--output FILE]       draw augmented training samples as the network sees them

evaluate and use
  test RUN [--key=value ...]         test the best checkpoint of a run again
  validate RUN [--key=value ...]     the same on the validation split
  predict RUN IMAGES [--output DIR]  write masks and overlays for a folder of images, or one image of any size
  ensemble RUN RUN ...               average the probabilities of runs; the result is a run, tested
  postprocess RUN --chain FILE       what a CRF, morphology ... change, and whether that is certain; --tune N, --each
  calibrate RUN                      make probabilities honest: temperature, reliability diagram, ECE
  export RUN|NAME [--format onnx]    write a network that runs without this package; 'export --help'
  demo RUN [RUN2]                    drop an image into a page, see the mask, compare two checkpoints

compare
  ablation NAME [--key=value ...]    make the missing runs of experiments/ablations/NAME.yaml, then answer it
  compare [RUNS...] [--html FILE]    rank runs with intervals, say which differences are real; 'compare --help'
  runs [list|show|tag|disk|...]      look after run directories; 'runs --help'
  sync [RUNS...]                     upload to W&B what was logged offline, and check that it arrived
  dashboard [RUNS...]                make a W&B workspace and report for runs

look at the network
  bench data|train|eval|start ...    ratios to bare loops and other libraries, measured on this machine
  bench frozen NAME                  step time and memory with more and more of the backbone frozen
  describe NAME|RUN... [--all]       parameters, work, memory, speed, receptive field; 'describe --help' for more
  batch-size NAME [--key=value ...]  the largest batch that fits into the device's memory
  features RUN IMAGE [--output FILE] draw the feature maps of an image

RUN is runs/<experiment>/<id>, or runs/<experiment> for its latest run. NAME may be the path of a YAML file.
'lightning-seg fit --help' lists every key; each can stand in the YAML or on the command line, for example
  lightning-seg exp unet_camvid --trainer.devices=2 --data.init_args.batch_size=8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; those of the process unless given.

    Returns:
        The exit code: 0, or 2 after an error that is the user's to mend.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except UserError as error:
        if os.environ.get("LIGHTNING_SEG_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown command {command!r}.{hint} 'lightning-seg --help' lists the commands.")
    if command in NAMED:
        rest = config_arguments(rest)
    module, function = COMMANDS[command].split(":")
    getattr(importlib.import_module(module), function)(rest)


def config_arguments(arguments: list[str]) -> list[str]:
    """Replace the experiment's name by ``-c FILE``."""
    if not arguments or arguments[0].startswith("-"):
        if any(a in ("-h", "--help", "-c") or a.startswith("--config") for a in arguments):
            return arguments
        raise UserError(f"which experiment? There are: {', '.join(experiment_names())}.")
    return ["-c", str(experiment_file(arguments[0])), *arguments[1:]]
