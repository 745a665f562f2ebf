"""The program as processes that can be killed, started within a tenth of a second.

A server imports everything once; each program is a fork of it. `experiment` writes a tiny experiment.
"""

import csv
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

from tests.processes import ROOT, forked_python, start

TINY = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [16, 16, 8, 8, 8]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-3}}
  lr_scheduler: {class_path: torch.optim.lr_scheduler.PolynomialLR, init_args: {power: 0.9}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 40, val_images: 7, test_images: 5,
     num_workers: 0}
trainer: {max_epochs: 2, accelerator: cpu, devices: 1, log_every_n_steps: 1, precision: 32}
wandb: {mode: disabled}
pictures: {count: 1}
overfitting: {train_eval_fraction: 0}
"""


def experiment(folder: Path) -> Path:
    """Write tiny.yaml into a folder and return the folder."""
    (folder / "tiny.yaml").write_text(TINY)
    return folder


class Program:
    """``lightning-seg`` with arguments, as a process.

    Args:
        folder: Where it runs; its output goes there, too.
        arguments: After the name of the program.
        environment: Further environment variables.
        name: Of the file of its output.
    """

    def __init__(self, folder: Path, *arguments: str, name: str = "output", **environment: str) -> None:
        self.file = folder / f"{name}.txt"
        self.file.unlink(missing_ok=True)
        told = (str(folder), list(arguments), environment, str(self.file), forked_python())
        self.process = start(_main, *told, **environment)

    def wait(self, seconds: float = 300) -> int:
        """Wait for its end and return the exit code; kill it if it takes too long."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {seconds} s:\n{self.output}")
        return self.process.exitcode

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)

    def until(self, condition, seconds: float = 300) -> bool:
        """Wait until something is true; False if the program ended before."""
        deadline = time.monotonic() + seconds
        while (before := time.monotonic()) < deadline:
            if condition():
                return True
            if self.process.exitcode is not None:
                return False
            time.sleep(max(0.001, 9 * (time.monotonic() - before)))  # looking takes a tenth of the time
        raise TimeoutError(self.output)

    @property
    def output(self) -> str:
        """What it printed so far, errors included."""
        return self.file.read_text() if self.file.exists() else ""


def _main(folder: str, arguments: list[str], environment: dict[str, str], output: str, python: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    for name in [n for n in os.environ if n.startswith(("PL_", "WANDB_"))]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv, sys.executable = ["lightning-seg", *arguments], python  # for what it starts
    from lightning_seg.cli.main import main

    sys.exit(main(arguments))


def run(folder: Path, *arguments: str, seconds: float = 300, **environment: str) -> str:
    """Run the program to its end, which must be good, and return what it printed."""
    program = Program(folder, *arguments, **environment)
    code = program.wait(seconds)
    assert code == 0, f"exit code {code}\n{program.output}"
    return program.output


def here(folder: Path, *arguments: str) -> int:
    """Run the program in this process and return the exit code."""
    from lightning_seg.cli.main import main

    before, mode = Path.cwd(), os.environ.get("WANDB_MODE")
    os.chdir(folder)
    os.environ["WANDB_MODE"] = "disabled"
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    try:
        return main(list(arguments))
    finally:
        os.chdir(before)
        os.environ.pop("WANDB_MODE") if mode is None else os.environ.update(WANDB_MODE=mode)


def only(folder: Path) -> Path:
    """Return the one run directory of an experiment."""
    (path,) = (p for p in folder.iterdir() if p.is_dir())
    return path


def result(path: Path) -> dict:
    """What a finished run is judged by: hash of the last weights and optimizer, scores, and all curves."""
    from lightning_seg.training.checkpoint_io import read

    state = read(path / "checkpoints/last.ckpt")
    digest = hashlib.sha256()
    for name, tensor in state["state_dict"].items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for moments in state["optimizer_states"][0]["state"].values():
        for name in sorted(moments):
            digest.update(moments[name].numpy().tobytes())
    rows = list(csv.DictReader((path / "metrics.csv").open()))
    curves = {
        (row["step"], key): value
        for row in rows
        for key, value in row.items()
        if value and re.match(r"train/loss|val/", key)
    }
    scores = json.loads((path / "test.json").read_text())
    return {
        "hash": digest.hexdigest(),
        "scores": scores["scores"],
        "loss": scores["protocol"]["loss"],
        "curves": curves,
    }
