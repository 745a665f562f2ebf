"""Killed or stopped anywhere, a run that is continued ends with the same weights, scores and curves."""

import shlex
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
import yaml

from lightning_seg.callbacks.checkpointing import SeededSteps
from lightning_seg.training.checkpoint_io import read

from .programs import Program, experiment, only, result, run

SAVE = "--checkpointing.every_n_steps=3"
PAUSE = (
    "--trainer.callbacks=[{{class_path: tests.faults.saboteurs.Pause, init_args: {{place: {}, step: {}}}}}]"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(folder):
    """What comes out of the run that nothing happens to."""
    run(folder, "exp", "tiny.yaml", "--name=whole", SAVE)
    return result(only(folder / "runs/whole"))


def interrupted(folder, name, place, step, number, *options):
    """Start a run, send it a signal when it is at some place, and return the program and the run directory."""
    (folder / "paused").unlink(missing_ok=True)
    (folder / "go").unlink(missing_ok=True)
    arguments = ("exp", "tiny.yaml", f"--name={name}", SAVE, PAUSE.format(place, step), *options)
    program = Program(folder, *arguments)
    assert program.until((folder / "paused").exists), program.output
    program.send(number)
    return program, only(folder / "runs" / name)


@pytest.mark.parametrize(
    ("place", "step", "saved"),
    [
        ("training", 5, 3),
        ("training", 19, 18),
        ("validation", 10, 9),
        ("writing", 6, 3),
        ("writing", 10, 9),
        ("training", 11, 10),
    ],
)
def test_killed_and_continued_it_is_the_same_run(folder, whole, place, step, saved):
    program, path = interrupted(folder, f"{place}-{step}", place, step, signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    assert (path / "checkpoints/last.ckpt.part").exists() == (place == "writing" and step == 6)
    assert read(path / "checkpoints/last.ckpt")["global_step"] == saved
    run(folder, "resume", str(path))
    assert result(path) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_the_running_step_and_leaves(folder, whole, number):
    program, path = interrupted(folder, f"signal-{number}", "training", 4, number)
    (folder / "go").touch()
    assert program.wait() == 128 + number
    state = read(path / "checkpoints/last.ckpt")
    assert state["global_step"] == 4  # nothing that was computed is lost
    assert (
        f"stopped by {number.name} after step 4; 'lightning-seg resume {path.relative_to(folder)}' continues"
        in (program.output)
    )
    assert "Traceback" not in program.output
    run(folder, "resume", str(path))
    assert result(path) == whole


def test_a_signal_in_validation_leaves_at_once(folder, whole):
    program, path = interrupted(folder, "in-validation", "validation", 10, signal.SIGTERM)
    (folder / "go").touch()
    assert program.wait() == 143
    assert read(path / "checkpoints/last.ckpt")["global_step"] == 9
    run(folder, "resume", str(path))
    assert result(path) == whole


def test_a_second_interrupt_does_not_wait_for_the_step(folder):
    program, path = interrupted(folder, "twice", "training", 4, signal.SIGINT)
    assert program.until(lambda: True)
    program.process.join(0.5)
    program.send(signal.SIGINT)
    assert program.wait() == 1
    assert read(path / "checkpoints/last.ckpt")["global_step"] == 3


def test_gradients_that_are_being_gathered_are_not_lost(folder):
    options = (
        "--trainer.accumulate_grad_batches=3",
        "--checkpointing.every_n_steps=1",
        "--trainer.check_val_every_n_epoch=2",
    )
    run(folder, "exp", "tiny.yaml", "--name=gather", *options)
    program, path = interrupted(folder, "gather-killed", "training", 2, signal.SIGKILL, *options)
    program.wait()
    run(folder, "resume", str(path))
    assert result(path) == result(only(folder / "runs/gather"))


def test_dropout_is_the_same_after_a_resume_and_in_every_step_another(folder):
    """The network's own randomness, too: DeepLab's head drops features out."""
    network = "--model.network=lightning_seg.networks.deeplab.DeepLabV3"
    options = (network, "--model.network.init_args.backbone=test_resnet", "--trainer.max_epochs=1")
    run(folder, "exp", "tiny.yaml", "--name=dropout", SAVE, *options)
    program, path = interrupted(folder, "dropout-killed", "training", 5, signal.SIGKILL, *options)
    program.wait()
    run(folder, "resume", str(path))
    assert result(path) == result(only(folder / "runs/dropout"))


def test_random_numbers_follow_from_step_and_process():
    def draw(seed, epoch, step, rank):
        trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
        SeededSteps(seed).on_train_batch_start(trainer, None, None, step)
        return torch.rand(1).item()

    keys = [
        (seed, epoch, step, rank)
        for seed in (0, 1)
        for epoch in (0, 1)
        for step in (0, 1, 2)
        for rank in (0, 1, 2)
    ]
    drawn = [draw(*key) for key in keys]
    assert len(set(drawn)) == len(keys) and drawn == [draw(*key) for key in keys]


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(folder, whole):
    program, path = interrupted(folder, "damaged", "training", 8, signal.SIGKILL)
    program.wait()
    last = path / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    output = run(folder, "resume", str(path))
    assert (
        "last.ckpt is damaged or incomplete" in output
        and "the checkpoint before it is taken instead" in output
    )
    assert result(path) == whole


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(folder):
    program, path = interrupted(folder, "other", "training", 4, signal.SIGKILL)
    program.wait()
    program = Program(folder, "resume", str(path), "--data.init_args.batch_size=2")
    assert program.wait() == 2
    assert "in the middle of an epoch of 10 batches of 4 on 1 device(s)" in program.output


@pytest.fixture(scope="module")
def finished(folder):
    run(folder, "exp", "tiny.yaml", "--name=finished", SAVE, "--trainer.max_epochs=1")
    return only(folder / "runs/finished")


@pytest.mark.parametrize(
    ("option", "words", "remedy"),
    [
        ("--model.optimizer.init_args.lr=0.5", "model.optimizer.init_args.lr was 0.003 and would be 0.5", True),
        ("--model.lr_scheduler.init_args.power=2", "power was 0.9 and would be 2", True),
        ("--model.network.init_args.decoder_channels=[8,8,8,8,8]", "decoder_channels was [16, 16, 8, 8, 8]", False),
        ("--model.finetune=Frozen", "model.finetune", True),
        ("--data.init_args.train_images=80", "train_images was 40 and would be 80", True),
    ],
)  # fmt: skip
def test_what_the_checkpoint_has_decided_is_refused(folder, finished, option, words, remedy):
    before = (finished / "config.yaml").read_text()
    program = Program(folder, "resume", str(finished), option)
    assert program.wait() == 2
    assert words in program.output and f"exp {finished}/config.yaml {shlex.quote(option)}" in program.output
    assert (f"--model.network.init_args.weights=run:{finished}" in program.output) == remedy
    assert (finished / "config.yaml").read_text() == before


def test_what_a_resume_changed_is_kept(folder, finished):
    path = folder / "runs" / "longer" / finished.name
    shutil.copytree(finished, path)
    before = yaml.safe_load((path / "config.yaml").read_text())
    said = run(folder, "resume", str(path), "--trainer.max_epochs=3", "--data.init_args.num_workers=1")
    assert "changes  trainer.max_epochs 1 -> 3\n" in said and "resumes  after epoch 1 of 3, step 10\n" in said
    after = yaml.safe_load((path / "config.yaml").read_text())
    before["trainer"]["max_epochs"], before["data"]["init_args"]["num_workers"] = 3, 1
    assert after == before
    run(folder, "resume", str(path))
    assert yaml.safe_load((path / "config.yaml").read_text()) == before
    program = Program(folder, "resume", str(path), "--trainer.max_epochs=1")
    assert program.wait() == 2
    assert "has already trained 3 epochs; --trainer.max_epochs must be more" in program.output
    assert yaml.safe_load((path / "config.yaml").read_text()) == before


def test_more_batches_between_validations_than_there_are(folder):
    program = Program(folder, "exp", "tiny.yaml", "--name=seldom", "--trainer.val_check_interval=99")
    assert program.wait() == 2
    assert "trainer.val_check_interval must be at most 10" in program.output
