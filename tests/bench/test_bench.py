"""The benchmarks measure what they say; how fast anything is, a test does not judge."""

from pathlib import Path

import pytest
import torch

from lightning_seg.bench import evaluate, guard
from lightning_seg.bench.timing import Goal, ratio, table, take_turns
from lightning_seg.bench.train import BARE, FROZEN, OURS, TrainBench, _bare_loss
from lightning_seg.cli.main import main
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.metrics.confusion import ConfusionMatrix

TINY = [
    "--model.network.init_args.backbone=test_resnet",
    "--data.init_args.batch_size=2",
    "--data.init_args.crop_size=[32,32]",
    "--trainer.precision=32-true",
]


@pytest.fixture(scope="module")
def bench():
    return TrainBench(TaskAndData(["-c", "experiments/quickstart.yaml", *TINY]), steps=2)


def test_ways_take_turns_and_the_first_round_does_not_count():
    order = []

    def way(name, seconds):
        return lambda: (order.append(name), seconds)[1]

    times = take_turns({"a": way("a", 1.0), "b": way("b", 2.0)}, rounds=3)
    assert order == ["a", "b"] * 4
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_ratio_is_that_of_neighbours_so_a_busy_spell_does_not_count():
    times = {"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 2.0]}
    assert ratio(times, "a", "b") == 2
    text = table(times, "b", [Goal("a", "b", 1.5), Goal("a", "b", 3), Goal("a", "missing", 1)])
    assert "a / b: 2.00x, goal 1.5x reached" in text
    assert "a / b: 2.00x, goal 3x missed" in text
    assert "missing" not in text


def test_every_way_times_a_step(bench):
    for name, way in bench.ways().items():
        assert 0 < way() < 60, name


def test_the_bare_loop_does_the_same_work(bench):
    """One step of each, from the same weights, without dropout: the same loss."""
    torch.manual_seed(0)
    task = bench.task(bench.experiment.model.finetune)
    task.log = lambda *args, **kwargs: None
    task.train()
    logits = task.network(bench.batch["image"])
    expected = torch.nn.functional.cross_entropy(logits, bench.batch["mask"].long())
    torch.testing.assert_close(task.training_step(bench.batch, 0), expected, rtol=1e-4, atol=1e-5)


def test_frozen_backbones_keep_less_for_the_backward_pass_and_the_task_keeps_nothing_of_its_own(bench):
    shares = [float(value) for value in bench.memory().values()]
    assert shares[0] == pytest.approx(1, abs=0.05)
    assert shares[1] < 0.9


def test_the_scores_that_are_timed_are_equal():
    """Equal counts: IoU of every class from the matrix and from torchmetrics' collection."""
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 40, 30)
    masks = torch.randint(5, (2, 40, 30), dtype=torch.uint8)
    masks[0, :9] = 255
    collection, matrix = evaluate.usual(5), ConfusionMatrix(5)
    collection.update(logits, masks.long())
    matrix.update(logits.max(1)[1], masks)
    counts = matrix.compute().double()
    iou = counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())
    torch.testing.assert_close(
        collection.compute()["MulticlassJaccardIndex"].double(), iou, rtol=1e-6, atol=0
    )


def test_the_table_is_printed(capsys):
    assert main(["bench", "train", "quickstart", "--rounds", "1", "--steps", "1", *TINY]) == 0
    out = capsys.readouterr().out
    assert f"{OURS} / {BARE}: " in out
    assert f"{FROZEN} / {OURS}: " in out


def test_peers_need_the_network_that_all_have(capsys):
    assert main(["bench", "train", "quickstart", "--peers", *TINY]) == 2
    assert "DeepLabV3" in capsys.readouterr().err


def test_a_step_of_mask_classification_does_the_bare_loops_work_and_keeps_as_much():
    """The same random points, the same loss; what is kept for the backward pass is counted on the same batch."""
    bench = TrainBench(
        TaskAndData(["-c", "experiments/eomt_shapes.yaml", "--data.init_args.batch_size=2"]), 1
    )
    task = bench.task(bench.experiment.model.finetune)
    task.log = task.log_dict = lambda *args, **kwargs: None
    losses = []
    for step in (_bare_loss(task), lambda batch: task.training_step(batch, 0)):
        torch.manual_seed(0)
        losses.append(step(bench.batch).item())
    assert losses[0] == losses[1] > 0
    assert float(next(iter(bench.memory().values()))) == pytest.approx(1, abs=0.01)
    ways = bench.ways()
    assert all(0 < ways[name]() < 60 for name in (OURS, BARE))


@pytest.mark.parametrize("command", [["bench", "eval"], ["bench", "frozen"], ["profile"]])
def test_networks_that_give_segments_are_refused_in_a_line(command, capsys, tmp_path, monkeypatch):
    file = Path("experiments/eomt_shapes.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    assert main([*command, str(file)]) == 2
    assert "give each pixel a class" in capsys.readouterr().err


def test_the_guard_fails_on_a_loss_that_stays_and_not_on_one_that_passes(capsys):
    floors = (Goal("ours", "bare", 0.8),)
    seconds = {"ours": 1.0, "bare": 1.0}
    ways = {name: lambda name=name: seconds[name] for name in seconds}
    assert guard.guard(ways, "bare", floors, 3) == []
    turns = iter([9.0] * 4)  # the first rounds only: something else kept the machine busy
    assert guard.guard({**ways, "ours": lambda: next(turns, 1.0)}, "bare", floors, 3) == []
    assert "once more" in capsys.readouterr().out
    seconds["ours"] = 1.5
    assert guard.guard(ways, "bare", floors, 3) == ["ours / bare is 0.67x, not 0.8x"]


def test_lost_speed_is_a_finding(monkeypatch, capsys):
    monkeypatch.setattr(guard, "run", lambda experiment, rounds: ["ours / bare is 0.67x, not 0.8x"])
    assert main(["bench", "guard"]) == 1
    assert "slower than before: ours / bare is 0.67x, not 0.8x. Find" in capsys.readouterr().out
