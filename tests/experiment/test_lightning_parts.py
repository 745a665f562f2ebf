"""Lightning's own parts in a run: the table of docs/lightning.md is written from here, each row tried.

``python -m tests.experiment.test_lightning_parts`` writes the page.
"""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from lightning_seg import Experiment, UserError
from tests.processes import set_environment

PAGE = Path(__file__).parents[2] / "docs/lightning.md"
HEAD = """# Lightning's own parts

What Lightning has by class path under `trainer` works beside what every run has, unless a promise of the run would be
broken without a word: then it is refused before training, with what does the same here. `tests/experiment/\
test_lightning_parts.py`
tries each row and writes this page.

| part | how it goes | what to know |
|---|---|---|
"""


class Part(NamedTuple):
    """A row of the table.

    Attributes:
        name: Of the part.
        trainer: Settings of the trainer that ask for it.
        note: What to know of it; of a refused part a piece of the error.
        check: Tells whether it has done its work, given the run directory, the trainer and what was said.
    """

    name: str
    trainer: dict[str, Any]
    note: str
    check: Callable[[Path, Any, str], bool] | None = None


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"callbacks": [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}]}


def columns(run: Path) -> list[str]:
    with (run / "metrics.csv").open() as file:
        return next(csv.reader(file))


def files(run: Path) -> set[str]:
    return {file.name for file in (run / "checkpoints").iterdir()}


WORKS = [
    Part("LearningRateMonitor", callback("LearningRateMonitor"), "`train/lr` is logged anyway",
         lambda run, trainer, said: any(name.startswith("lr-AdamW") for name in columns(run))),
    Part("DeviceStatsMonitor", callback("DeviceStatsMonitor"), "its columns are in metrics.csv, too; needs psutil on a CPU",
         lambda run, trainer, said: any(name.startswith("DeviceStatsMonitor") for name in columns(run))),
    Part("ModelSummary", callback("ModelSummary", max_depth=2), "a table of what trains is printed anyway",
         lambda run, trainer, said: "Total params" in said),
    Part("Timer", callback("Timer", duration="00:00:00:01") | {"max_epochs": 1000},
         "as `trainer.max_time`: ends the training; the run is tested",
         lambda run, trainer, said: 0 < trainer.global_step < 2000),
    Part("RichProgressBar", callback("RichProgressBar"), "in a terminal; left out of logs",
         lambda run, trainer, said: "RichProgressBar" not in [type(c).__name__ for c in trainer.callbacks]),
    Part("ModelCheckpoint", callback("ModelCheckpoint", monitor="val/loss", filename="loss"),
         "beside ours, which keeps best.ckpt, the one that is tested; not `save_last`, nor the names best, last, previous",
         lambda run, trainer, said: files(run) == {"best.ckpt", "last.ckpt", "previous.ckpt", "loss.ckpt"}
         and '"checkpoint": "best.ckpt"' in (run / "test.json").read_text()),
    Part("EarlyStopping", callback("EarlyStopping", monitor="val/loss", patience=1, min_delta=100.0),
         "ours (`lightning_seg.callbacks.early_stopping.EarlyStopping`) says what became of it, too",
         lambda run, trainer, said: trainer.global_step == 4),
    Part("profiler: simple", {"profiler": "simple"}, "`advanced` and `pytorch` alike; written into the run directory",
         lambda run, trainer, said: "run_training_batch" in (run / "fit-profile.txt").read_text()),
    Part("strategy: ddp", {"strategy": "ddp"}, "scores and gradients as of one device; `fully_shard` for large networks",
         lambda run, trainer, said: type(trainer.strategy).__name__ == "DDPStrategy"),
    Part("plugins: MixedPrecision", {"precision": None, "plugins": [{
            "class_path": "lightning.pytorch.plugins.precision.MixedPrecision",
            "init_args": {"precision": "bf16-mixed", "device": "cpu"}}]},
         "in place of `trainer.precision`", lambda run, trainer, said: trainer.precision == "bf16-mixed"),
    Part("loggers", {"logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "csv"}}},
         "on top of metrics.csv and the trackers of `tracking`; they get numbers alone",
         lambda run, trainer, said: bool(list(Path("csv").rglob("metrics.csv")))),
]  # fmt: skip
ALONE = ("Timer", "EarlyStopping", "plugins: MixedPrecision")  # end the training, or change how it computes
REFUSED = [
    Part("StochasticWeightAveraging", callback("StochasticWeightAveraging", swa_lrs=1e-2), "neither validated nor saved"),
    Part("WeightAveraging", callback("WeightAveraging"), "before its pretrained weights are loaded"),
    Part("EMAWeightAveraging", callback("EMAWeightAveraging"), "Use EMA or SWA"),
    Part("BackboneFinetuning", callback("BackboneFinetuning"), "is not what the run records"),
    Part("GradientAccumulationScheduler", callback("GradientAccumulationScheduler", scheduling={1: 2}),
         "would not reach its end"),
    Part("BatchSizeFinder", callback("BatchSizeFinder"), "find-batch-size"),
    Part("LearningRateFinder", callback("LearningRateFinder"), "find-lr"),
    Part("OnExceptionCheckpoint", callback("OnExceptionCheckpoint", dirpath="."), "begin with what an earlier one"),
    Part("ModelPruning", callback("ModelPruning", pruning_fn="l1_unstructured"), "renames the weights"),
    Part("ModelCheckpoint of val/miou", callback("ModelCheckpoint", monitor="val/miou", mode="max", save_top_k=3),
         "keeps the best val/miou already"),
    Part("ModelCheckpoint with save_last", callback("ModelCheckpoint", save_last=True), "every run has its last.ckpt"),
    Part("ModelCheckpoint named best", callback("ModelCheckpoint", filename="best"), "choose another filename"),
    Part("AsyncCheckpointIO", {"plugins": [{"class_path": "lightning.pytorch.plugins.io.AsyncCheckpointIO"}]},
         "whole after a crash"),
    Part("strategy: fsdp", {"strategy": "fsdp"}, "Use fully_shard"),
    Part("strategy: deepspeed", {"strategy": "deepspeed"}, "Use fully_shard"),
    Part("use_distributed_sampler: true", {"use_distributed_sampler": True}, "scored twice"),
    Part("enable_checkpointing: false", {"enable_checkpointing": False}, "cannot be tested or continued"),
    Part("barebones: true", {"barebones": True}, "cannot be tested or continued"),
]  # fmt: skip


def experiment(part: Part) -> Experiment:
    return Experiment.from_settings(
        "parts",
        model={
            "network": {
                "class_path": "UNet",
                "init_args": {"backbone": "test_resnet", "weights": False, "decoder_channels": [8] * 5},
            },
            "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1e-3}},
        },
        data={
            "class_path": "Shapes",
            "init_args": {
                "batch_size": 4, "crop_size": [32, 32], "image_size": [32, 32], "train_images": 8, "val_images": 2,
                "test_images": 2, "num_workers": 0,
            },
        },
        tracking=[],
        pictures={"count": 0},
        trainer={"max_epochs": 3, "accelerator": "cpu", "devices": 1, "precision": "32-true", "log_every_n_steps": 1}
        | part.trainer,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    threads, environment = torch.get_num_threads(), dict(os.environ)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield
    torch.set_num_threads(threads)
    if dist.is_initialized():  # by DDP, which also tells the processes it may start where to meet
        dist.destroy_process_group()
    set_environment(environment)


def test_parts_that_end_no_training_work_together(caplog):
    """One run has them all, and each does its work."""
    together = [part for part in WORKS if part.name not in ALONE]
    trainer = {key: value for part in together for key, value in part.trainer.items() if key != "callbacks"}
    callbacks = [callback for part in together for callback in part.trainer.get("callbacks", ())]
    built = experiment(Part("together", trainer | {"callbacks": callbacks}, ""))
    run = built.train()
    assert [p.name for p in together if p.check and not p.check(run, built.trainer, caplog.text)] == []
    assert {"best.ckpt", "last.ckpt"} <= files(run)


@pytest.mark.parametrize("part", [part for part in WORKS if part.name in ALONE], ids=lambda part: part.name)
def test_a_part_works_beside_ours(part):
    built = experiment(part)
    run = built.train()
    assert part.check is not None and part.check(run, built.trainer, "")
    assert (run / "test.json").exists() and {"best.ckpt", "last.ckpt"} <= files(run)


def test_a_progress_bar_is_there_in_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    built = experiment(next(part for part in WORKS if part.name == "RichProgressBar"))
    assert type(built.trainer.progress_bar_callback).__name__ == "RichProgressBar"


def errors() -> dict[str, str]:
    """What each refused part is answered with."""
    found = {}
    for part in REFUSED:
        try:
            experiment(part)
        except UserError as error:
            found[part.name] = str(error)
    return found


def page(answers: dict[str, str]) -> str:
    """Write the table: of refused parts the error's own words."""
    rows = [f"| {part.name} | works | {part.note} |" for part in WORKS]
    for name, answer in answers.items():
        rows.append(
            f"| {name} | refused | {answer.partition(' refused: ')[2] or answer.partition('Checkpoint: ')[2]} |"
        )
    return HEAD + "\n".join(rows) + "\n"


def test_parts_that_would_break_a_promise_are_refused_before_anything_is_written_as_the_page_says():
    before = set(Path("runs").rglob("*"))
    answers = errors()
    assert [part.name for part in REFUSED if part.note not in answers.get(part.name, "")] == []
    assert set(Path("runs").rglob("*")) == before
    assert PAGE.read_text() == page(answers)


if __name__ == "__main__":
    PAGE.write_text(page(errors()))
