"""An ablation whose runs are made without training: what each scores follows from its learning rate."""

import json
import math
from pathlib import Path

import numpy as np
import yaml

from lightning_seg.runs.directory import ENVIRONMENT, METRICS
from lightning_seg.studies import study
from lightning_seg.studies.search import FIRST_SEED
from tests.runs.made_runs import make_run, simulate

LR = "model.optimizer.init_args.lr"


def resolved(arguments, variant):
    """Read arguments as the parser of experiments would, without it."""
    config = {
        "checkpoint": {"monitor": "val/miou", "mode": "max"},
        "trainer": {"max_epochs": 9, "devices": 1, "accelerator": "cpu"},
        "data": {"init_args": {"val_split": "val", "test_split": "test", "fold": None}},
        "slurm": {},
    }
    for argument in arguments:
        key, sign, text = argument.removeprefix("--").partition("=")
        if sign:
            *folders, leaf = key.split(".")
            inner = config
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[leaf] = yaml.safe_load(text) if not text[:1].isdigit() else float(text)
    return config


def no_parser(monkeypatch):
    """Have studies read settings without the parser of experiments, which needs data and half a second."""
    monkeypatch.setattr(study, "resolved", resolved)
    monkeypatch.setattr(study, "_refuse_test_images", lambda *_: None)
    monkeypatch.setattr(study, "_refuse_few_images", lambda *_: None)


class Learners:
    """Makes the runs of an ablation at once; the score falls with the distance of the rate from the best one.

    Args:
        best: For each variant the decimal logarithm of its best rate.
        top: For each variant its score there.
        stop_after: Behave as if the runner was killed after so many runs.
    """

    def __init__(self, best, top, stop_after=None):
        self.best, self.top, self.stop_after = best, top, stop_after
        self.made = []

    def __call__(self, slots, jobs, say):
        for slot in slots:
            if self.stop_after == 0:
                raise KeyboardInterrupt
            if slot.state() not in ("done", "given up"):
                self.make(slot)
            if self.stop_after is not None:
                self.stop_after -= 1

    def make(self, slot):
        self.made.append(slot.name)
        rate = slot.config["model"]["optimizer"]["init_args"]["lr"]
        slot.log.parent.mkdir(parents=True, exist_ok=True)
        if rate > 1:
            slot.fail("the loss is not finite")
            return
        score = self.top[slot.variant] - 0.1 * (math.log10(rate) - self.best[slot.variant]) ** 2
        rng = np.random.default_rng([slot.seed, len(slot.variant), round(1e6 * rate)])
        run = make_run(
            Path(slot.home).parent,
            slot.home.name,
            slot.seed,
            tested=slot.seed < FIRST_SEED,
            counts=simulate(rng, score, seed_noise=0.002),
            config=slot.config | {"name": "/".join(slot.home.parts[1:])},
        )
        facts = json.loads((run / ENVIRONMENT).read_text())
        facts |= {
            "trained": True,
            "parameters": 1000,
            "trainable_parameters": 10,
            "peak_memory_bytes": 2 * 10**9,
        }
        (run / ENVIRONMENT).write_text(json.dumps(facts))
        lines = [f"{10 * i},{i},{score * (1 - 0.5**i)},{100}" for i in range(1, 10)]
        (run / METRICS).write_text("step,epoch,val/miou,train/images_per_second\n" + "\n".join(lines) + "\n")
