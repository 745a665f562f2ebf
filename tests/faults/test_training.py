"""What a user sees when training meets a loss that is no number, a full memory, a dead data worker."""

import json
import multiprocessing
import re
from types import SimpleNamespace

import pytest
import torch

from lightning_seg.data import loading
from lightning_seg.errors import UserError
from lightning_seg.experiment.failures import friendly_errors
from lightning_seg.training.checkpoint_io import read

from .programs import Program, experiment, here, only, run
from .saboteurs import BadShapes

SABOTEUR = "tests.faults.saboteurs"


def nan(calls, gradient_only=False):
    """A loss that is not a number on these calls."""
    only = f"gradient_only: {str(gradient_only).lower()}"
    return f"--model.loss={{class_path: {SABOTEUR}.NanLoss, init_args: {{calls: {calls}, {only}}}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("training"))


def names_of_step(folder, step):
    """The images of a training step (from 1), by the data module itself."""
    data = BadShapes(
        batch_size=4, crop_size=(32, 32), image_size=(48, 40), train_images=40, val_images=7, num_workers=0
    )
    data.setup("fit")
    batches = [batch["index"].tolist() for batch in data.train_dataloader()]
    samples = data.samples("train")
    return ", ".join(data.name_of(samples[i]) for i in batches[step - 1])


def test_a_loss_that_is_no_number_stops_and_names_its_images(folder, capsys):
    assert here(folder, "exp", "tiny.yaml", "--name=nan", nan([6]), "--checkpointing.every_n_steps=4") == 2
    error = capsys.readouterr().err
    assert f"step 6: loss nan, images {names_of_step(folder, 6)}" in error
    assert "step 5: loss" in error and "step 4" not in error and "Traceback" not in error
    path = only(folder / "runs/nan")
    good = read(path / "checkpoints/last.ckpt")
    assert good["global_step"] == 4 and all(torch.isfinite(t).all() for t in good["state_dict"].values())
    command = re.search(r"'lightning-seg (resume \S+ --nonfinite.action=skip)'", error).group(1)
    assert here(folder, *command.split()) == 0  # what the message says works
    assert read(path / "checkpoints/last.ckpt")["global_step"] == 20


def test_a_run_that_fails_in_its_first_step_is_kept_and_says_why(folder, capsys):
    assert here(folder, "exp", "tiny.yaml", "--name=first", nan([1])) == 2
    error = capsys.readouterr().err
    path = only(folder / "runs/first")
    assert f"step 1: loss nan, images {names_of_step(folder, 1)}" in error
    assert json.loads((path / "environment.json").read_text())["failed"] == (
        "the loss is not finite, and training has stopped"
    )
    assert here(folder, "runs", "show", str(path)) == 0
    assert "failed (the loss is not finite, and training has stopped)" in capsys.readouterr().out
    command = re.search(r"'lightning-seg (resume \S+ --nonfinite.action=skip)'", error).group(1)
    assert here(folder, *command.split()) == 0  # from the beginning, as there is no checkpoint
    assert json.loads((path / "environment.json").read_text())["failed"] is None
    assert here(folder, "runs", "show", str(path)) == 0
    assert "tested" in capsys.readouterr().out


def test_a_run_that_never_began_to_train_leaves_nothing(folder, capsys):
    missing = "--model.network.init_args.weights=nowhere.safetensors"
    assert here(folder, "exp", "tiny.yaml", "--name=never-began", missing) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert not (folder / "runs/never-began").exists()


def test_it_is_noticed_before_anything_is_saved(folder):
    """Looked at together every ten steps as on a GPU, the bad step is the last before the checkpoint."""
    options = (
        "--checkpointing.every_n_steps=5",
        "--trainer.callbacks=[{class_path: " + SABOTEUR + ".Asynchronous}]",
    )
    program = Program(folder, "exp", "tiny.yaml", "--name=late", nan([5]), *options)
    assert program.wait() == 2 and "step 5: loss nan" in program.output
    assert not list((folder / "runs/late").rglob("*.ckpt"))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_skipped_steps_change_nothing_and_are_counted(folder, kind):
    loss = nan([3, 6], gradient_only=kind == "gradient")
    run(folder, "exp", "tiny.yaml", f"--name=skip-{kind}", loss, "--nonfinite.action=skip", "--checkpointing.every_n_steps=1",
        "--trainer.callbacks=[{class_path: " + SABOTEUR + ".KeepAll}]")  # fmt: skip
    path = only(folder / f"runs/skip-{kind}")
    states = [torch.load(path / f"step-{i}.pt") for i in range(1, 8)]
    moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in zip(states, states[1:], strict=False)]
    assert moved == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]  # steps 3 and 6 left no trace, BatchNorm's included
    last = (path / "metrics.csv").read_text().splitlines()
    column = last[0].split(",").index("train/skipped_steps")
    assert max(float(line.split(",")[column] or 0) for line in last[1:]) == 2


def test_a_loss_that_is_never_a_number_stops_in_spite_of_skipping(folder, capsys):
    loss = nan([*range(1, 100)])
    assert here(folder, "exp", "tiny.yaml", "--name=never", loss, "--nonfinite.action=skip") == 2
    assert "20 steps one after the other" in capsys.readouterr().err


def test_out_of_memory_says_what_to_try(folder, capsys):
    greedy = f"--model.loss={{class_path: {SABOTEUR}.Greedy, init_args: {{most: 2}}}}"
    assert here(folder, "exp", "tiny.yaml", "--name=memory", greedy) == 2
    error = capsys.readouterr().err
    assert "out of memory in training with 4 crops of 32x32" in error and "Traceback" not in error
    advice = re.findall(r"--\S+=\d+", error)[:2]
    assert advice == ["--data.init_args.batch_size=2", "--trainer.accumulate_grad_batches=2"]
    assert here(folder, "exp", "tiny.yaml", "--name=memory", greedy, *advice) == 0


def test_the_largest_batch_that_fits_is_found(folder, capsys):
    greedy = f"--model.loss={{class_path: {SABOTEUR}.Greedy, init_args: {{most: 11}}}}"
    before = {p for p in folder.rglob("*") if "runs" in p.parts}
    assert here(folder, "find-batch-size", "tiny.yaml", greedy) == 0
    assert "--data.init_args.batch_size=8" in capsys.readouterr().out  # the power of two below 11
    assert {p for p in folder.rglob("*") if "runs" in p.parts} == before  # nothing is left behind


def data(deed, workers=1):
    init = "batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 40, val_images: 7, test_images: 5"
    return f"--data={{class_path: {SABOTEUR}.BadShapes, init_args: {{{init}, num_workers: {workers}, deed: {deed}}}}}"


def test_a_killed_data_worker(folder, capsys):
    assert here(folder, "exp", "tiny.yaml", "--name=dead", data("die")) == 2
    error = capsys.readouterr().err
    assert "error: a data worker was killed" in error and "num_workers=0" in error


@pytest.mark.parametrize("name", ["Terminated", "Interrupt", "Hangup"])
def test_a_data_worker_that_is_told_to_end_does_not_lack_memory(folder, name):
    trainer = SimpleNamespace(world_size=1)
    with pytest.raises(UserError) as caught, friendly_errors(trainer, None, lambda: folder):
        raise RuntimeError(f"DataLoader worker (pid 7) is killed by signal: {name}. ")
    assert f"ended by a signal ({name})" in str(caught.value) and "memory" not in str(caught.value)


def test_a_test_or_prediction_that_cannot_write_is_to_be_given_again(folder):
    trainer, error = SimpleNamespace(world_size=1), PermissionError(13, "Permission denied", "run/test.json")
    with pytest.raises(UserError) as caught, friendly_errors(trainer, None, lambda: folder, resumes=False):
        raise error
    assert str(caught.value) == (
        "cannot write run/test.json: Permission denied. Make room there, or make it writable. Then give the command"
        " again."
    )
    with pytest.raises(UserError, match="What was saved before is whole"):
        with friendly_errors(trainer, None, lambda: folder):
            raise error


def test_a_frozen_data_worker(folder, monkeypatch, capsys):
    """A stopped process does not even react to SIGTERM."""
    monkeypatch.setattr(loading, "WAIT", 4.0)
    assert here(folder, "exp", "tiny.yaml", "--name=frozen", data("stop")) == 2
    error = capsys.readouterr().err
    assert "no batch came for 4 s: a data worker hangs" in error
    # The batch of the terrible image, or one before that was not handed over whole.
    ends = next(i for i in range(1, 10) if "train_0020" in names_of_step(folder, i))
    assert any(f"Awaited were {names_of_step(folder, i)}" in error for i in range(1, ends + 1))
    assert not multiprocessing.active_children()


def test_other_errors_keep_their_traceback(folder):
    trainer = SimpleNamespace(world_size=1)
    with pytest.raises(RuntimeError, match="a bug of ours"), friendly_errors(trainer, None, lambda: folder):
        raise RuntimeError("a bug of ours")
