"""Several processes: the scores of one, the training of one, and one readable error when one of them fails."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import time

import numpy as np
import pytest
import torch

from lightning_seg.training.checkpoint_io import read
from tests.processes import forked_python

from .programs import Program, experiment, only, run

SABOTEUR = "tests.faults.saboteurs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("ranks"))


def ranks(folder, count, *arguments, **environment):
    """Start the program as processes that have to find one another, as torchrun does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", **environment,
    }  # fmt: skip
    return [
        Program(
            folder, *arguments, f"--trainer.devices={count}", name=f"rank{i}", RANK=str(i), LOCAL_RANK=str(i), **common
        )
        for i in range(count)
    ]  # fmt: skip


def finish(programs, seconds=120):
    codes = [program.wait(seconds) for program in programs]
    assert codes == [0] * len(programs), "\n".join(program.output for program in programs)


@pytest.fixture(scope="module")
def trained(folder):
    run(folder, "exp", "tiny.yaml", "--name=one")
    return only(folder / "runs/one")


@pytest.mark.parametrize(("count", "images"), [(2, 5), (3, 5), (3, 1)])
def test_scores_are_equal_to_the_last_integer_on_any_number_of_processes(folder, trained, count, images):
    """Five images on three processes are uneven; one image leaves two processes without any."""
    settings = [f"--data.init_args.test_images={images}", f"--data.init_args.eval_batch_size={count}"]
    run(folder, "test", str(trained), settings[0])
    alone, counts = (
        json.loads((trained / "test.json").read_text()),
        np.load(trained / "test_images.npz")["counts"],
    )
    finish(ranks(folder, count, "test", str(trained), *settings))
    together = json.loads((trained / "test.json").read_text())
    assert np.array_equal(np.load(trained / "test_images.npz")["counts"], counts) and counts[..., 2].sum() > 0
    assert together["scores"] == alone["scores"] and together["per_class"] == alone["per_class"]
    assert together["protocol"]["loss"] == pytest.approx(alone["protocol"]["loss"], rel=1e-6)


# Without BatchNorm, whose statistics are those of each process, two processes with half the batch each do what one
# does with all of it. Holes that are not counted make their numbers of pixels differ.
SAME = (
    "--model.network=lightning_seg.networks.linear.Linear",
    "--model.network.init_args={backbone: test_resnet, weights: false, output_stride: 8}",
    "--model.finetune=lightning_seg.training.finetune.policies.Frozen",
    "--data.init_args.transforms=[{class_path: lightning_seg.data.transforms.randaugment.Cutout, init_args: {size: 0.9}}]",
    "--model.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.5}}",
    "--trainer.max_epochs=1",
    "--overfitting.train_eval_fraction=0.25",  # whose images the processes share
)


def test_training_is_the_same_on_two_processes(folder):
    run(folder, "exp", "tiny.yaml", "--name=alone", *SAME)
    finish(ranks(folder, 2, "exp", "tiny.yaml", "--name=both", *SAME, "--data.init_args.batch_size=2"))
    states = [
        read(only(folder / f"runs/{name}") / "checkpoints/last.ckpt")["state_dict"]
        for name in ("alone", "both")
    ]
    for key in states[0]:
        torch.testing.assert_close(states[1][key], states[0][key], rtol=1e-4, atol=1e-6)
    known = json.loads((only(folder / "runs/both") / "environment.json").read_text())
    assert (
        known["effective_batch_size"] == 4 and known["world_size"] == 2 and known["learning_rate_factor"] == 1
    )


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_synchronised_batch_norm_trains_like_one_process(folder):
    """With BatchNorm in the network; a CPU has none that synchronises."""
    options = [o for o in SAME if "Frozen" not in o] + ["--trainer.accelerator=gpu", "--trainer.max_steps=3"]
    run(folder, "exp", "tiny.yaml", "--name=alone-norm", *options)
    both = ("--name=both-norm", *options, "--data.init_args.batch_size=2", "--trainer.sync_batchnorm=true")
    finish(ranks(folder, 2, "exp", "tiny.yaml", *both))
    names = ("alone-norm", "both-norm")
    states = [read(only(folder / f"runs/{name}") / "checkpoints/last.ckpt")["state_dict"] for name in names]
    for key in states[0]:
        torch.testing.assert_close(states[1][key], states[0][key], rtol=1e-3, atol=1e-5)


def test_learning_rate_and_batch_are_counted_and_said(folder):
    options = ("--data.init_args.batch_size=2", "--trainer.accumulate_grad_batches=2", "--model.lr_scaling=sqrt",
               "--trainer.max_epochs=1")  # fmt: skip
    programs = ranks(folder, 2, "exp", "tiny.yaml", "--name=scaled", *options)
    finish(programs)
    assert (
        "batch    8 = 2 x 2 device(s) x 2 accumulated; learning rate x 2 (scaling sqrt)" in programs[0].output
    )
    state = read(only(folder / "runs/scaled") / "checkpoints/last.ckpt")
    assert state["lr_schedulers"][0]["base_lrs"] == [pytest.approx(2 * 3e-3)] * 2  # backbone, and the rest
    assert state["global_step"] == 5  # 40 images in steps of 8


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_the_others_end_with_one_readable_error(folder, victim):
    programs = ranks(folder, 2, "exp", "tiny.yaml", f"--name=killed-{victim}", "--trainer.max_epochs=100")
    metrics = lambda: list(folder.glob(f"runs/killed-{victim}/*/metrics.csv"))  # noqa: E731
    assert programs[0].until(metrics, 120), programs[0].output
    programs[victim].send(signal.SIGKILL)
    start = time.monotonic()
    survivor = programs[1 - victim]
    assert survivor.wait(60) == 2, survivor.output
    assert time.monotonic() - start < 60
    assert survivor.output.count("error: ") == 1 and "Traceback" not in survivor.output
    assert "error: another process of this run has ended; its own error is the cause" in survivor.output


def test_an_error_of_one_process_is_told_by_that_process(folder):
    init = "batch_size: 4, crop_size: [32, 32], image_size: [48, 40], train_images: 40, val_images: 7, num_workers: 0"
    data = f"--data={{class_path: {SABOTEUR}.BadShapes, init_args: {{{init}, deed: raise, number: 20}}}}"
    begun = "--trainer.callbacks=[{class_path: tests.faults.saboteurs.Begun}]"
    programs = ranks(folder, 2, "exp", "tiny.yaml", "--name=bad", data, begun, "--trainer.max_epochs=3")
    assert sorted(program.wait(60) for program in programs) == [2, 2]
    said = [re.search("error: .*", program.output).group() for program in programs]
    assert sorted(said)[1] == "error: the image bad.png cannot be read"
    assert sorted(said)[0].startswith("error: another process of this run has ended")


def test_a_loss_that_is_no_number_in_one_process_is_told_by_the_first(folder):
    nan = f"--model.loss={{class_path: {SABOTEUR}.NanLoss, init_args: {{calls: [3], rank: 1}}}}"
    programs = ranks(folder, 2, "exp", "tiny.yaml", "--name=nan", nan)
    assert [program.wait(60) for program in programs] == [2, 2]
    assert "step 3: loss nan, images " in programs[0].output and "step 2: loss" in programs[0].output


def test_a_signal_to_one_process_saves_and_ends_all(folder):
    (folder / "go").unlink(missing_ok=True)
    programs = ranks(folder, 2, "exp", "tiny.yaml", "--name=stopped", "--trainer.max_epochs=100")
    assert programs[0].until(lambda: list(folder.glob("runs/stopped/*/metrics.csv")), 120)
    programs[1].send(signal.SIGTERM)
    assert [program.wait(60) for program in programs] == [143, 0]
    path = only(folder / "runs/stopped")
    step = read(path / "checkpoints/last.ckpt")["global_step"]
    steps = [int(r["step"]) for r in csv.DictReader((path / "metrics.csv").open()) if r["train/loss"]]
    assert steps == list(range(step))  # all that was computed is saved and logged


@pytest.mark.slow
def test_torchrun_on_two_nodes(folder, trained):
    """Slow because it starts four programs. Both nodes are this machine; only the first writes a run directory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PL_")} | {
        "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"
    }  # fmt: skip
    options = ["exp", "tiny.yaml", "--name=nodes", "--trainer.devices=1", "--trainer.num_nodes=2", *SAME]
    torchrun = [forked_python(), "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1",
                "--master_addr=127.0.0.1", f"--master_port={port}"]  # fmt: skip
    command = ["-m", "lightning_seg", *options, "--data.init_args.batch_size=2"]
    nodes = [
        subprocess.Popen([*torchrun, f"--node_rank={i}", *command], cwd=folder, env=environment)
        for i in range(2)
    ]
    assert [node.wait(600) for node in nodes] == [0, 0]
    path = only(folder / "runs/nodes")
    ours = read(path / "checkpoints/last.ckpt")["state_dict"]
    run(folder, "exp", "tiny.yaml", "--name=no-nodes", *SAME)
    theirs = read(only(folder / "runs/no-nodes") / "checkpoints/last.ckpt")["state_dict"]
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-6)


def test_processes_that_lightning_starts_end_with_the_one_that_is_killed(folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PL_")} | {
        "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"
    }  # fmt: skip
    options = [
        "exp",
        "tiny.yaml",
        "--name=launched",
        "--trainer.devices=2",
        f"--trainer.max_epochs={os.getpid()}",
    ]
    command = [forked_python(), "-m", "lightning_seg", *options]
    with (folder / "launched.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    deadline = time.monotonic() + 300
    while not list(folder.glob("runs/launched/*/metrics.csv")) and time.monotonic() < deadline:
        assert process.poll() is None, (folder / "launched.txt").read_text()
        time.sleep(0.1)
    found = subprocess.run(
        ["pgrep", "-f", f"max_epochs={os.getpid()}$"], capture_output=True, text=True
    ).stdout
    (second,) = {int(number) for number in found.split()} - {process.pid}
    os.kill(second, signal.SIGKILL)
    assert process.wait(60) != 0
    assert "error: another process of this run has ended" in (folder / "launched.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_network_spread_over_processes_trains_like_a_whole_one(folder, optimizer):
    """FSDP, with checkpoints in one file that continue a run, and that a single process can test.

    Slow because it trains three times with two processes.
    """
    options = [o for o in SAME if "Frozen" not in o and "SGD" not in o] + [
        f"--model.optimizer={{class_path: torch.optim.{optimizer}, init_args: {{lr: 1e-3}}}}",
        "--data.init_args.batch_size=2", "--trainer.max_epochs=2",
    ]  # fmt: skip
    sharded = [*options, "--trainer.strategy=fully_shard", "--checkpointing.every_n_steps=5"]
    finish(ranks(folder, 2, "exp", "tiny.yaml", f"--name=ddp-{optimizer}", *options))
    finish(ranks(folder, 2, "exp", "tiny.yaml", f"--name=fsdp-{optimizer}", *sharded))
    paths = [only(folder / f"runs/{name}-{optimizer}") for name in ("ddp", "fsdp")]
    states = [read(path / "checkpoints/last.ckpt")["state_dict"] for path in paths]
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        if "running" not in key:  # as in DDP, each process has its own
            torch.testing.assert_close(states[1][key], states[0][key], rtol=1e-3, atol=1e-5)
    before = json.loads((paths[1] / "test.json").read_text())["scores"]
    whole = read(paths[1] / "checkpoints/last.ckpt")["state_dict"]
    (paths[1] / "checkpoints/last.ckpt").write_bytes((paths[1] / "checkpoints/previous.ckpt").read_bytes())
    finish(ranks(folder, 2, "resume", str(paths[1])))  # from step 15 of 20
    again = read(paths[1] / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    run(folder, "test", str(paths[1]), "--trainer.devices=1", "--trainer.strategy=auto")
    assert json.loads((paths[1] / "test.json").read_text())["scores"] == before
