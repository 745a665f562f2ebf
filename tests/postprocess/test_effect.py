"""Chains in YAML, their tuning, and what the command says of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lightning_seg import IGNORE_INDEX
from lightning_seg.cli.main import main
from lightning_seg.errors import UserError
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.metrics.boundary import BoundaryF1
from lightning_seg.metrics.scores import scores
from lightning_seg.postprocess.chain import Chain
from lightning_seg.postprocess.components import RemoveSmall
from lightning_seg.postprocess.confidence import ConfidenceThreshold
from lightning_seg.postprocess.effect import ALONE, compare, measure
from lightning_seg.postprocess.morphology import Erosion
from lightning_seg.postprocess.recipe import read_recipe, tune

from .problem import problem

NAMES = ("rest", "cup", "plate", "fork")
STEP = "lightning_seg.postprocess."

TINY = """
seed_everything: 0
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 3e-3}}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    {batch_size: 4, crop_size: [32, 32], image_size: [32, 40], train_images: 4, val_images: 6, test_images: 5,
     num_workers: 0}
trainer: {accelerator: cpu}
"""


def images(count, noise=1.5):
    """Predictions with specks and void."""
    for i in range(count):
        probabilities, image, truth = problem(i, noise=noise)
        truth[:4] = IGNORE_INDEX
        yield probabilities, image, truth


def write(folder, *steps):
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump(list(steps)))
    return file


@pytest.fixture(scope="module")
def effects():
    chains = [
        ("small", Chain([RemoveSmall(15)])),
        ("thin", Chain([Erosion(3)])),
        ("same", Chain([RemoveSmall(1)])),
        ("doubt", Chain([ConfidenceThreshold(0.5)])),
    ]
    return measure(images(12), chains, BoundaryF1())


def test_effects_are_counted_image_by_image(effects):
    assert [effect.name for effect in effects] == [ALONE, "small", "thin", "same", "doubt"]
    matrix = np.zeros((4, 4))
    for probabilities, _, truth in images(12):
        inside = truth != IGNORE_INDEX
        np.add.at(matrix, (truth[inside], probabilities.argmax(0)[inside]), 1)
    rows, _ = compare(effects)
    wanted = scores(matrix)
    assert rows[0]["miou"] == pytest.approx(100 * wanted.miou)
    assert rows[0]["iou"] == pytest.approx(100 * wanted.iou_per_class)
    outlines = BoundaryF1().scores(np.stack(effects[1].outlines))
    assert rows[1]["boundary_f1"] == pytest.approx(100 * outlines["boundary_f1_0.75pct"])
    assert all(row["milliseconds"] > 0 for row in rows)
    assert rows[0]["answered"] == 100 and rows[4]["answered"] < 95


def test_it_says_what_helps_and_what_hurts(effects):
    rows, sentences = compare(effects)
    verdicts = {row["name"]: row.get("miou_verdict") for row in rows}
    assert verdicts == {
        ALONE: None,
        "small": "helps",
        "thin": "hurts",
        "same": "no change",
        "doubt": "hurts",
    }
    assert rows[1]["miou_change"] > 5 and rows[2]["miou_change"] < -5
    assert rows[3]["miou_change"] == 0 == rows[3]["miou_half_width"] and rows[3]["miou_p"] == 1
    assert "small is" in sentences[0] and "better than the network alone" in sentences[0]
    assert "worse than the network alone" in sentences[1] and "not distinguishable" in sentences[2]
    assert rows[1]["boundary_f1_change"] == pytest.approx(rows[1]["boundary_f1"] - rows[0]["boundary_f1"])


def test_intervals_of_boundary_f1_are_those_of_the_mean_of_many_images():
    # outlines of one class, all predicted ones right: F1 = 2 R / (1 + R) is smooth in the mean recall
    rng = np.random.default_rng(0)
    base, better = measure([], [("x", Chain([]))], BoundaryF1())
    n = 400
    for effect, recall in ((base, 0.5), (better, 0.6)):
        for r in np.clip(rng.normal(recall, 0.1, n), 0, 1):
            effect.overlaps.append(np.array([[5, 10, 10]]))
            effect.outlines.append(np.array([[10, 10, 1000 * r, 1000.0]]))
            effect.answered.append((1, 1))
            effect.seconds.append(0.0)
    row = compare([base, better])[0][1]
    wanted = [np.array([o[0, 2] / 1000 for o in effect.outlines]) for effect in (base, better)]
    slope = [2 / (1 + w.mean()) ** 2 for w in wanted]
    error = math.sqrt(sum((s * w.std(ddof=1)) ** 2 / n for s, w in zip(slope, wanted, strict=True)))
    assert row["boundary_f1_half_width"] == pytest.approx(100 * 1.966 * error, rel=0.1)
    assert row["boundary_f1_verdict"] == "helps"
    wide = compare([base, better], block=40)[0][1]["boundary_f1_half_width"]
    assert (
        wide == pytest.approx(row["boundary_f1_half_width"], rel=0.6)
        and wide != row["boundary_f1_half_width"]
    )


def test_one_image_is_never_certain():
    row = compare(measure(images(1), [("thin", Chain([Erosion(3)]))], BoundaryF1()))[0][1]
    assert row["miou_verdict"] == row["boundary_f1_verdict"] == "not certain"
    assert row["miou_change"] < 0 and math.isnan(row["boundary_f1_half_width"])


def test_recipe_is_read_and_split_into_its_steps(tmp_path):
    file = write(
        tmp_path,
        {
            "class_path": STEP + "crf.DenseCRF",
            "init_args": {"iterations": 3},
            "tune": {"color_std": [2.0, 20.0]},
        },
        {"class_path": STEP + "components.RemoveSmall", "init_args": {"classes": ["cup"]}},
        {"class_path": STEP + "components.RemoveSmall", "init_args": {"classes": ["fork"], "smallest": 50}},
    )
    recipe = read_recipe(file, NAMES)
    assert recipe.name == "chain" and recipe.tunable and recipe.settings == {"0.color_std": 13.0}
    chain = recipe.build(NAMES)
    assert [type(step).__name__ for step in chain.steps] == ["DenseCRF", "RemoveSmall", "RemoveSmall"]
    assert chain.steps[1].numbers(4) == [1] and chain.steps[0].iterations == 3
    assert recipe.with_settings({"0.color_std": 5.0}).build(NAMES).steps[0].color_std == 5
    assert recipe.build(NAMES).steps[0].color_std == 13  # the first stays
    names = [single.name for single in recipe.single()]
    assert names == ["DenseCRF", "RemoveSmall classes=['cup']", "RemoveSmall classes=['fork'] smallest=50"]
    assert [single.tunable for single in recipe.single()] == [True, False, False]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"class_path": "components.RemoveSmall"}, r"step 1 \(components.RemoveSmall\)"),
        ({"class_path": STEP + "components.RemoveBig"}, "no attribute 'RemoveBig'"),
        (
            {"class_path": STEP + "components.RemoveSmall", "init_args": {"smalest": 3}},
            r"step 1 .*'smalest' is not accepted\nDid you mean smallest\?$",
        ),
        ({"class_path": STEP + "components.RemoveSmall", "init_args": {"smallest": "x"}}, "Expected a int"),
        (
            {"class_path": STEP + "components.RemoveSmall", "init_args": {"classes": ["knife"]}},
            "no class 'knife'",
        ),
        (
            {"class_path": STEP + "components.RemoveSmall", "tune": {"small": [1, 2]}},
            "'small' is not accepted",
        ),
        ({"class_path": STEP + "components.RemoveSmall", "tune": {"smallest": 3}}, r"with \[low, high\]"),
        (
            {"class_path": STEP + "components.RemoveSmall", "tune": {"smallest": [1, 9]}},
            "smallest is 50, which",
        ),
        ({"class": "x"}, "must be a list of steps"),
    ],
)
def test_mistakes_in_a_chain_are_said_with_file_and_step(tmp_path, step, message):
    with pytest.raises(UserError, match=message) as caught:
        read_recipe(write(tmp_path, step), NAMES)
    assert str(caught.value).startswith(str(tmp_path / "chain.yaml"))
    with pytest.raises(UserError, match="no chain of post-processing"):
        read_recipe(tmp_path / "none.yaml", NAMES)


def test_tuning_finds_the_best_settings_and_never_worse_than_the_given(tmp_path):
    pytest.importorskip("optuna")
    step = {
        "class_path": STEP + "crf.DenseCRF",
        "init_args": {"iterations": 7, "exact": True},
        "tune": {"color_std": [1.0, 100.0], "iterations": [2, 9], "exact": [True, False]},
    }
    recipe = read_recipe(write(tmp_path, step), NAMES)
    tried = []

    def score(one):
        given = one.settings
        tried.append(given)
        return -abs(math.log(given["0.color_std"] / 30)) - abs(given["0.iterations"] - 5) - given["0.exact"]

    best = tune(recipe, score, 40).settings
    assert tried[0] == recipe.settings and len(tried) == 40
    assert 4 <= best["0.iterations"] <= 6 and best["0.exact"] is False and 10 < best["0.color_std"] < 90
    assert any(given["0.color_std"] < 5 for given in tried)  # a logarithmic scale
    assert tune(recipe, lambda one: float(one.settings == recipe.settings), 5).settings == recipe.settings
    again = []
    tune(recipe, lambda one: again.append(one.settings) or 0.0, 5)
    assert again == [*tried[:1], *again[1:]] and len({str(given) for given in again}) > 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a network that was not trained, but answers with many classes."""
    folder = tmp_path_factory.mktemp("runs") / "tiny" / "20260101-000000-0000"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(TINY)
    model = TaskAndData(["-c", str(folder / "config.yaml")]).model
    with torch.no_grad():
        model.network.head[0].bias.zero_()
        model.network.head[0].weight.mul_(100)
    saved = {
        "state_dict": model.state_dict(),
        "pytorch-lightning_version": "2.6",
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(saved, folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("chains"),
        {"class_path": STEP + "crf.DenseCRF", "init_args": {"iterations": 1}, "tune": {"iterations": [1, 3]}},
        {"class_path": STEP + "components.RemoveSmall", "init_args": {"smallest": 5}},
    )


def test_command_reports_on_test_and_tunes_on_val(run, chain, capsys):
    assert (
        main(["postprocess", str(run), "--chain", str(chain), "--each", "--tune", "2", "--block", "2"]) == 0
    )
    printed = capsys.readouterr().out
    assert "Tuned in 2 trials on val (all of it), for mIoU. Reported on 5 images of test." in printed
    content = json.loads((run / "postprocess-chain.json").read_text())
    assert [row["name"] for row in content["rows"]] == [ALONE, "DenseCRF", "RemoveSmall"]
    assert content["protocol"]["split"] == "test" and content["protocol"]["images"] == 5
    assert content["rows"][1]["miou_verdict"] in ("helps", "hurts", "not certain", "no change")
    assert "RemoveSmall: nothing to tune" in printed
    assert (run / "postprocess-chain.md").read_text().strip() in printed
    again = read_recipe(run / "postprocess-chain.yaml", ())
    assert [step["class_path"].rpartition(".")[2] for step in again.steps] == ["DenseCRF", "RemoveSmall"]


def test_the_network_alone_scores_as_it_does_in_the_test(run, chain, tmp_path, capsys):
    assert main(["postprocess", str(run), "--chain", str(chain)]) == 0
    alone = json.loads((run / "postprocess-chain.json").read_text())["rows"][0]
    assert main(["test", str(run)]) == 0
    tested = json.loads((run / "test.json").read_text())["scores"]
    assert alone["miou"] == pytest.approx(100 * tested["miou"])
    assert sum(value > 1 for value in alone["iou"].values()) >= 3
    assert alone["iou"] == pytest.approx({n: 100 * v for n, v in tested["iou"].items()})


def test_one_split_is_tuned_on_and_reported_on_by_halves(run, chain, capsys):
    options = ["--chain", str(chain), "--split", "val", "--tune", "1", "--tune-images", "2"]
    assert main(["postprocess", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "Tuned in 1 trials on val (its first half, 2 of them), for mIoU." in printed
    assert (
        "Reported on 3 images of val, the second half of its 6. val has also chosen the checkpoint."
        in printed
    )
    assert json.loads((run / "postprocess-chain.json").read_text())["protocol"]["images"] == 3


def test_mistakes_on_the_command_line(run, chain, tmp_path, capsys):
    fixed = write(tmp_path, {"class_path": STEP + "components.RemoveSmall"})
    for arguments, message in (
        ([str(run)], "required: --chain"),
        (["--chain", str(chain)], "required: RUN"),
        ([str(run), "--chain", str(fixed), "--tune", "3"], "names no ranges to tune in"),
        ([str(run), "--chain", str(chain), "--block", "0"], "argument --block: must be at least 1, got 0"),
        ([str(run), "--chain", str(chain), "--split", "tset"], "To report on 'val': --split val"),
    ):
        assert main(["postprocess", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(Path("experiments/postprocess").glob("*.yaml")), ids=lambda f: f.stem)
def test_chains_that_come_with_the_package(file):
    recipe = read_recipe(file, NAMES)
    assert recipe.tunable and len(recipe.build(NAMES).steps) == len(recipe.single())
