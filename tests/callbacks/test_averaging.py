"""Averages of the weights against averages computed by hand, in whole trainings."""

import logging
import warnings

import lightning as L
import pytest
import torch
from torch.optim.swa_utils import update_bn

from lightning_seg.callbacks.averaging import EMA, SWA
from lightning_seg.callbacks.l1 import L1
from lightning_seg.data.dataset import Split
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.loading import collate
from lightning_seg.networks.linear import Linear
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.parts import batch_norms
from lightning_seg.training.finetune.policies import Frozen, FrozenStages

EPOCHS, STEPS = 4, 3


class Watch(L.Callback):
    """Keeps the weights after each step, and what each validation and the checkpoint after it hold."""

    def __init__(self, folder=None):
        self.folder = folder
        self.steps, self.validated, self.saved = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(copy(pl_module.network))

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(copy(pl_module.network))
        if self.folder:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")
            saved = torch.load(self.folder / f"{trainer.current_epoch}.ckpt", weights_only=True)["state_dict"]
            self.saved.append({n[8:]: v for n, v in saved.items() if n.startswith("network.")})


def copy(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def untrained(finetune=None):
    torch.manual_seed(0)
    network = Linear(len(Shapes.class_names), "test_resnet", weights=False)
    for norm in batch_norms(network.backbone):
        torch.nn.init.ones_(norm.weight)  # timm begins with 0 in places
    return SemanticSegmentation(
        network, lambda groups: torch.optim.SGD(groups, lr=0.1), Shapes.class_names, finetune=finetune
    )


def fit(average=None, finetune=None, folder=None, checkpoint=None, callbacks=()):
    """Train; return the trainer, the task and what was seen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = Shapes(
        batch_size=2, crop_size=(32, 32), image_size=(32, 32), train_images=2 * STEPS, val_images=2, test_images=2,
        num_workers=0, seed=0,
    )  # fmt: skip
    task = untrained(finetune)
    watch = Watch(folder)
    callbacks = [*callbacks, *([average] if average else []), watch]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer, task, watch


def close(a, b):
    return all(torch.allclose(a[n].double(), b[n].double(), rtol=1e-5, atol=1e-7) for n in a)


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def ema_by_hand(steps, decay):
    average, averages = steps[0], [steps[0]]
    for n, weights in enumerate(steps[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {
            k: d * average[k] + (1 - d) * v if v.is_floating_point() else v for k, v in weights.items()
        }
        averages.append(average)
    return averages


@pytest.fixture(scope="module")
def plain():
    return fit()[2]


def test_ema_is_the_formula_and_is_validated_saved_and_left_in_the_network(plain, tmp_path):
    _, task, watch = fit(EMA(decay=0.3), folder=tmp_path)
    assert all(map(same, watch.steps, plain.steps))  # the training itself is the same
    averages = ema_by_hand(plain.steps, 0.3)[STEPS - 1 :: STEPS]
    assert len(watch.validated) == EPOCHS == len(averages)
    assert all(map(close, watch.validated, averages)) and all(map(same, watch.saved, watch.validated))
    assert same(copy(task.network), watch.validated[-1])
    assert not close(watch.validated[-1], plain.steps[-1])


@pytest.mark.parametrize("average", [lambda: EMA(decay=0.3), lambda: SWA(start=0.4)], ids=["ema", "swa"])
def test_resuming_changes_neither_weights_nor_average(average, tmp_path):
    _, task, watch = fit(average(), folder=tmp_path)
    middle = tmp_path / "2.ckpt"
    _, resumed, rest = fit(average(), checkpoint=middle)
    assert len(rest.steps) < len(watch.steps)
    assert all(map(same, rest.steps, watch.steps[-len(rest.steps) :]))
    assert same(copy(resumed.network), copy(task.network))


def test_swa_is_the_mean_over_the_last_epochs(plain):
    """From 0.4 of 4 epochs on: the ends of the second, third and fourth. Before, the weights are validated."""
    _, task, watch = fit(SWA(start=0.4, images=0))
    ends = plain.steps[STEPS - 1 :: STEPS]
    mean = {n: torch.stack([end[n].double() for end in ends[1:]]).mean(0) for n in ends[0]}
    floats = [n for n, v in ends[0].items() if v.is_floating_point()]
    assert same(watch.validated[0], ends[0])
    assert close({n: watch.validated[-1][n] for n in floats}, mean)
    assert same(copy(task.network), watch.validated[-1])


def test_swa_computes_the_statistics_of_batch_norm_for_the_averaged_weights():
    trainer, task, watch = fit(SWA(start=0.4, images=6))
    data = trainer.datamodule
    split = Split(data, "train", train=True)
    batches = [collate([split[EPOCHS - 1, i] for i in (n, n + 1)]) for n in (0, 2, 4)]
    network = task.network
    ours = copy(network)
    update_bn([data.on_after_batch_transfer(batch, 0)["image"] for batch in batches], network)
    statistics = [n for n in ours if "running" in n]
    assert statistics and close({n: ours[n] for n in statistics}, copy(network))
    assert same(ours, watch.validated[-1])


@pytest.mark.parametrize("average", [lambda: EMA(), lambda: SWA(start=0.3)], ids=["ema", "swa"])
@pytest.mark.parametrize("policy", [lambda: FrozenStages(2), lambda: Frozen()], ids=["stages", "frozen"])
def test_frozen_parts_are_bit_identical_in_the_average(average, policy):
    before = untrained().network
    stages = before.backbone.stages()
    stages = stages[: policy().frozen_stages(len(stages))]
    frozen = {id(t) for _, stage in stages for t in stage.state_dict(keep_vars=True).values()}
    _, task, _ = fit(average(), policy())
    after = task.network.state_dict()
    still = {n for n, t in before.state_dict(keep_vars=True).items() if id(t) in frozen}
    assert {n for n, t in before.state_dict().items() if torch.equal(t, after[n])} == still


def test_test_in_the_same_process_is_of_the_average(tmp_path):
    trainer, task, watch = fit(EMA(decay=0.3), folder=tmp_path)
    trainer.test(
        task, datamodule=trainer.datamodule, ckpt_path=tmp_path / "1.ckpt", verbose=False, weights_only=True
    )
    assert same(copy(task.network), watch.validated[1])


def test_l1_is_the_gradient_of_the_sum_of_absolute_weights():
    strength = 0.01
    before = copy(untrained().network)
    watched = fit(callbacks=[L1(strength)])[2].steps[0]
    without = fit()[2].steps[0]
    for name, value in watched.items():
        shrink = 0.1 * strength * before[name].sign() if before[name].ndim > 1 else 0
        torch.testing.assert_close(value, without[name] - shrink, rtol=1e-5, atol=1e-6)
