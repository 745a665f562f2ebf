"""Schedules against torch's own and by hand; every optimizer of torch that the documentation names."""

import lightning as L
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR, PolynomialLR, StepLR

from lightning_seg.errors import UserError
from lightning_seg.networks.linear import Linear
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training import schedules

STEPS = 20


def rates(make, steps=STEPS):
    """The learning rate of every step of a training with two groups, of 1 and of 0.1."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    scheduler = make(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (lambda o, n: schedules.Poly(o, n, power=0.9), lambda o, n: PolynomialLR(o, n, power=0.9)),
        (lambda o, n: schedules.Cosine(o, n), lambda o, n: CosineAnnealingLR(o, n)),
        (
            lambda o, n: schedules.MultiStep(o, n, milestones=(0.25, 0.5, 0.75), gamma=0.5),
            lambda o, n: StepLR(o, 5, gamma=0.5),
        ),
        (
            lambda o, n: schedules.OneCycle(o, n, momentum=None),
            lambda o, n: OneCycleLR(o, [1.0, 0.1], n, cycle_momentum=False),
        ),
    ],
)
def test_schedules_are_those_of_torch(ours, reference):
    torch.testing.assert_close(rates(ours), rates(reference))


@pytest.mark.parametrize(
    "schedule", [schedules.Constant, schedules.Poly, schedules.Cosine, schedules.MultiStep]
)
def test_warm_up_rises_in_a_straight_line_to_the_start_of_the_schedule(schedule):
    plain = rates(lambda o, n: schedule(o, n, warmup=0), 15)
    warmed = rates(lambda o, n: schedule(o, n, warmup=0.25))
    rising = torch.arange(1, 6) / 6
    torch.testing.assert_close(warmed[:5], torch.stack([rising, rising / 10], 1).double())
    torch.testing.assert_close(warmed[5:], plain)


def test_one_cycle_rises_to_the_rate_of_the_optimizer_against_the_momentum():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5, momentum=0.9)
    scheduler = schedules.OneCycle(optimizer, STEPS, pct_start=0.25)
    seen = []
    for _ in range(STEPS):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    assert seen[0] == pytest.approx((0.02, 0.95)) and seen[4] == pytest.approx((0.5, 0.85))
    assert seen[-1] == pytest.approx((2e-6, 0.95))


@pytest.mark.parametrize("warmup", [-0.1, 1])
def test_impossible_warm_up_is_refused(warmup):
    with pytest.raises(UserError, match="share of the training"):
        rates(lambda o, n: schedules.Poly(o, n, warmup=warmup))


@pytest.mark.parametrize(
    "make",
    [
        lambda o, n: schedules.Poly(o, n, power=-1),
        lambda o, n: schedules.Poly(o, n, power=float("nan")),
        lambda o, n: schedules.MultiStep(o, n, milestones=(30, 40)),
        lambda o, n: schedules.MultiStep(o, n, milestones=(-0.1, 0.5)),
        lambda o, n: schedules.MultiStep(o, n, milestones=(0.8, 0.6)),
    ],
)
def test_impossible_curves_are_refused(make):
    with pytest.raises(UserError, match="such as"):
        rates(make)


@pytest.mark.parametrize(
    "scheduler", [StepLR, ExponentialLR, OneCycleLR, torch.optim.lr_scheduler.MultiStepLR]
)
def test_schedulers_that_take_something_else_than_the_length_are_refused(scheduler):
    """StepLR would never fall, and ExponentialLR explode."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(UserError, match="lightning_seg.training.schedules"):
        schedules.for_lightning(scheduler, optimizer, 100)


def test_schedule_without_end_is_refused():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with pytest.raises(UserError, match="max_epochs"):
        schedules.for_lightning(schedules.Poly, optimizer, float("inf"))


class Scores(L.Callback):
    """A validation whose score we know, and the learning rate of each epoch."""

    def __init__(self, scores):
        self.scores = scores
        self.rates = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", self.scores[trainer.current_epoch])


def fit(optimizer, lr_scheduler=None, callbacks=(), batches=1, ckpt_path=None, **options):
    torch.manual_seed(0)
    sample = {
        "image": torch.randint(256, (3, 32, 32), dtype=torch.uint8),
        "mask": torch.zeros(32, 32).byte(),
        "index": 0,
    }
    loader = torch.utils.data.DataLoader([sample] * 2 * batches, batch_size=2)
    network = Linear(2, "test_resnet", weights=False)
    task = SemanticSegmentation(network, optimizer, ("a", "b"), lr_scheduler=lr_scheduler)
    trainer = L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(task, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return task


def test_plateau_falls_when_the_validation_has_not_improved():
    watch = Scores([0, 0.3, 0, 0.2, 0, 0.2, 0, 0.4, 0, 0.1])  # every second epoch is validated
    fit(
        lambda groups: torch.optim.SGD(groups, lr=1.0),
        lambda o, n: schedules.Plateau(o, n, monitor="score", patience=1),
        [watch],
        max_epochs=10,
        check_val_every_n_epoch=2,
    )
    assert watch.rates == pytest.approx([1.0] * 6 + [0.1] * 4)


@pytest.mark.parametrize(
    ("batches", "options"),
    [
        (4, {"max_epochs": 3, "val_check_interval": 1}),  # four validations an epoch
        (4, {"max_epochs": 6, "val_check_interval": 0.5}),
        (2, {"max_epochs": 18, "val_check_interval": 3, "check_val_every_n_epoch": None}),  # across epochs
    ],
)
def test_plateau_counts_validations_and_not_epochs(batches, options):
    scores = iter(
        [9, 0.3, 0.2, 0.2, 0.4, 0.1, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.1]
    )  # the first is the check before
    rates = []

    class Watch(L.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("score", next(scores))
            rates.append(trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None)

    fit(
        lambda groups: torch.optim.SGD(groups, lr=1.0),
        lambda o, n: schedules.Plateau(o, n, monitor="score", patience=2),
        [Watch()],
        batches=batches,
        **options,
    )
    # a third validation without improvement lets it fall
    assert rates[1:] == pytest.approx([1.0] * 7 + [0.1] * 4 + [0.01])


def test_plateau_names_the_scores_that_it_could_watch():
    with pytest.raises(UserError, match="'val/mloU', which validation does not log. Known are .*val/miou"):
        fit(torch.optim.SGD, lambda o, n: schedules.Plateau(o, n, monitor="val/mloU"), max_epochs=1)


class Rates(L.Callback):
    """The learning rates of every group at every step."""

    def __init__(self, file=None):
        self.seen, self.file = [], file

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append([group["lr"] for group in optimizer.param_groups])

    def on_validation_end(self, trainer, pl_module):
        if self.file and trainer.current_epoch == 1:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Poly, schedules.Cosine, schedules.MultiStep, schedules.Constant, schedules.OneCycle, PolynomialLR,
        CosineAnnealingLR,
    ],
)  # fmt: skip
def test_a_training_continued_for_longer_follows_the_longer_schedule(schedule, tmp_path, capsys):
    def train(epochs, checkpoint=None, rate=1e-2, save=None):
        watch = Rates(save)
        make = lambda groups: torch.optim.SGD(groups, lr=rate, momentum=0.9)  # noqa: E731
        task = fit(make, schedule, [watch], batches=3, ckpt_path=checkpoint, max_epochs=epochs)
        return watch.seen, task.trainer

    short, trainer = train(2)
    trainer.save_checkpoint(tmp_path / "short.ckpt")
    whole, _ = train(4, save=tmp_path / "half.ckpt")
    assert "rate" not in capsys.readouterr().out
    continued, _ = train(4, tmp_path / "short.ckpt")
    torch.testing.assert_close(torch.tensor(continued), torch.tensor(whole[6:]))
    said = capsys.readouterr().out
    assert ("its value at step 6 of 12" in said) == (schedule not in (schedules.Constant,))

    # as it was planned: nothing changes, bit by bit
    again, _ = train(4, tmp_path / "half.ckpt")
    assert again == whole[6:] and "rate" not in capsys.readouterr().out
    faster, _ = train(4, tmp_path / "short.ckpt", rate=2e-2)
    torch.testing.assert_close(torch.tensor(faster), 2 * torch.tensor(whole[6:]))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"])
def test_optimizers_of_torch_train(name):
    """The loss of one batch falls, the weight decay reaches the optimizer."""
    losses = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))
            assert all(group["weight_decay"] == 1e-4 for group in trainer.optimizers[0].param_groups)

    make = getattr(torch.optim, name)
    rate = {"Adadelta": 1.0, "SGD": 0.05}.get(name, 1e-2)
    fit(lambda groups: make(groups, lr=rate, weight_decay=1e-4), None, [Watch()], max_epochs=4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o, n: schedules.Cosine(o, n, end=-1), "end is a factor"),
        (lambda o, n: schedules.Cosine(o, n, end=float("nan")), "end is a factor"),
        (lambda o, n: schedules.MultiStep(o, n, gamma=-0.1), "gamma must be above 0"),
        (lambda o, n: schedules.Plateau(o, n, factor=-0.5), "factor is above 0"),
        (lambda o, n: schedules.Plateau(o, n, factor=1.0), "factor is above 0"),
        (lambda o, n: schedules.Plateau(o, n, patience=-1), "patience 0 or more"),
        (lambda o, n: schedules.OneCycle(o, n, pct_start=1), "pct_start is a fraction"),
        (lambda o, n: schedules.OneCycle(o, n, div_factor=0), "above 0"),
    ],
)
def test_settings_by_which_rates_are_negative_or_no_numbers_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        rates(make)


@pytest.mark.parametrize("pct_start", [0, 0.1, 0.25, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_one_cycle_has_rates_for_every_step_however_short_the_rise(pct_start, steps):
    found = rates(lambda o, n: schedules.OneCycle(o, n, pct_start=pct_start), steps)
    assert ((0 < found) & (found <= torch.tensor([1.0, 0.1]) * (1 + 1e-6))).all()
