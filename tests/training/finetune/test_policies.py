"""Fine-tuning policies: what is frozen does not move, statistics included, in whole trainings."""

import functools
import hashlib
import logging
import os
import warnings

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_seg.errors import UserError
from lightning_seg.networks.linear import Linear
from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.groups import scale_learning_rates
from lightning_seg.training.finetune.lora import LoRA
from lightning_seg.training.finetune.parts import table
from lightning_seg.training.finetune.policies import (
    Frozen,
    FrozenStages,
    Full,
    GradualUnfreeze,
    LayerwiseDecay,
    LinearProbe,
    batch_norms,
)
from tests.processes import run_ranks

STAGES = 5  # of the backbone test_resnet
# Name: the policy, how many stages stand still in the first and in the second epoch, and what moves of the
# BatchNorm layers of the backbone in the stages that train: statistics, scale and shift.
POLICIES = {
    "full": (lambda: Full(), 0, 0, True, True),
    "full-eval": (lambda: Full(0.1, batch_norm="eval"), 0, 0, False, True),
    "full-frozen": (lambda: Full(batch_norm="frozen"), 0, 0, False, False),
    "frozen": (lambda: Frozen(), 5, 5, False, False),
    "frozen-train": (lambda: Frozen(batch_norm="train"), 5, 5, True, False),
    "linear": (lambda: LinearProbe(), 5, 5, False, False),
    "stages": (lambda: FrozenStages(3), 3, 3, True, True),
    "stages-eval": (lambda: FrozenStages(2, 0.5, "eval"), 2, 2, False, True),
    "gradual": (lambda: GradualUnfreeze([0, 0.5, 0.5]), 4, 2, True, True),
    "gradual-frozen": (lambda: GradualUnfreeze([1, 1], 0.1, "frozen"), 5, 3, False, False),
    "decay": (lambda: LayerwiseDecay(0.5), 0, 0, True, True),
    "lora": (lambda: LoRA(rank=2), 0, 0, False, False),  # on a transformer
}
IN_TWO_PROCESSES = ["full", "frozen", "frozen-train", "linear", "stages", "gradual", "decay", "lora"]
SLOW = pytest.mark.slow  # two more processes import torch and train under each policy, twice
CASES = [(name, 1) for name in POLICIES] + [pytest.param(name, 2, marks=SLOW) for name in IN_TWO_PROCESSES]


def make(name):
    torch.manual_seed(0)
    policy = POLICIES[name][0]()
    if isinstance(policy, LinearProbe):
        network = Linear(3, "test_resnet", weights=False, maps=2)
    elif isinstance(policy, LoRA):
        network = Linear(3, "test_vit", weights=False)
    else:
        network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    for norm in batch_norms(network.backbone):
        nn.init.ones_(norm.weight)  # timm begins with 0 in places, through which nothing learns if frozen
    return SemanticSegmentation(
        network, lambda groups: torch.optim.AdamW(groups, lr=1e-3), ("a", "b", "c"), finetune=policy
    )


class Keep(L.Callback):
    """Keeps the network's tensors before training and after each epoch, and a checkpoint of the first epoch."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.kept = []

    def on_train_start(self, trainer, pl_module):
        self.kept.append({k: v.clone() for k, v in pl_module.network.state_dict().items()})

    def on_train_epoch_end(self, trainer, pl_module):
        self.on_train_start(trainer, pl_module)
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.checkpoint)


def batches():
    """Four batches; with two processes each sees every second one."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (8, 3, 64, 64), generator=generator, dtype=torch.uint8)
    masks = torch.randint(3, (8, 64, 64), generator=generator, dtype=torch.uint8)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    samples = [
        {"image": i, "mask": m, "index": n} for n, (i, m) in enumerate(zip(images, masks, strict=True))
    ]
    return DataLoader(samples[rank::world], batch_size=2)


def fit(name, checkpoint, resume=False):
    """Train two epochs; return the tensors before and after each."""
    keep = Keep(checkpoint)
    world = int(os.environ.get("WORLD_SIZE", 1))
    trainer = L.Trainer(
        accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_epochs=2, callbacks=[keep],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=1,
    )  # fmt: skip
    trainer.fit(make(name), batches(), batches(), ckpt_path=checkpoint if resume else None, weights_only=True)
    return keep.kept


def train_all(folder):
    """Train under each policy, and again from the end of the first epoch."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rank = os.environ.get("RANK", "0")
    for name in POLICIES if "RANK" not in os.environ else IN_TWO_PROCESSES:
        whole = fit(name, folder / f"{name}.ckpt")
        resumed = fit(name, folder / f"{name}.ckpt", resume=True)
        torch.save({"whole": whole, "resumed": resumed}, folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of the trainings in so many processes, made when they are first asked for."""

    @functools.cache
    def folder(count):
        made = tmp_path_factory.mktemp(f"of{count}")
        if count == 1:
            train_all(made)
        else:
            run_ranks(count, train_all, made)
        return made

    return folder


def expected_frozen(name, epoch):
    """The names of the tensors that must not change in an epoch."""
    _, *still, statistics, affine = POLICIES[name]
    network = make(name).network
    names = {id(t): n for n, t in network.state_dict(keep_vars=True).items()}
    if name == "lora":
        return {n for n in names.values() if n.startswith("backbone") and not n.endswith((".up", ".down"))}
    stages = [stage for _, stage in network.backbone.stages()]
    assert len(stages) == STAGES
    frozen = {names[id(p)] for stage in stages[: still[epoch]] for p in stage.parameters()}
    for i, stage in enumerate(stages):
        for norm in batch_norms(stage):
            if not statistics or (i < still[epoch] and name != "frozen-train"):
                frozen |= {names[id(b)] for b in norm.buffers()}
            if not affine:
                frozen |= {names[id(p)] for p in norm.parameters()}
    return frozen


def sha(tensors, names):
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("name", "count"), CASES)
def test_frozen_tensors_are_bit_identical_and_all_others_move(trained, name, count):
    kept = torch.load(trained(count) / f"{name}-0.pt")
    whole, resumed = kept["whole"], kept["resumed"]
    assert len(whole) == 3 and len(resumed) == 2
    pairs = {0: [whole[:2]], 1: [whole[1:], resumed]}  # before and after each of the two epochs
    for epoch, trainings in pairs.items():
        still = expected_frozen(name, epoch)
        for before, after in trainings:
            assert sha(before, still) == sha(after, still)
            assert {n for n in before if torch.equal(before[n], after[n])} == still


@pytest.mark.parametrize(("name", "count"), CASES)
def test_resuming_changes_nothing(trained, name, count):
    kept = torch.load(trained(count) / f"{name}-0.pt")
    whole, resumed = kept["whole"][-1], kept["resumed"][-1]
    assert sha(whole, whole) == sha(resumed, resumed)


@SLOW
@pytest.mark.parametrize("name", IN_TWO_PROCESSES)
def test_processes_keep_the_same_network(trained, name):
    """They see different images: gradients or statistics of their own would drive them apart."""
    a, b = (torch.load(trained(2) / f"{name}-{rank}.pt")["whole"][-1] for rank in range(2))
    assert sha(a, a) == sha(b, b)


@pytest.mark.parametrize("name", POLICIES)
def test_only_trainable_parameters_reach_the_optimizer(name):
    task = make(name)
    given = {id(p) for group in task.finetune.parameter_groups(task.network) for p in group["params"]}
    still = expected_frozen(name, 1)
    assert given == {id(p) for n, p in task.network.named_parameters() if n not in still}


def rates(policy):
    """The learning rate of each stage and of the head, where the optimizer's is 1."""
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    task = SemanticSegmentation(
        network, lambda g: torch.optim.SGD(g, lr=1.0), ("a", "b", "c"), finetune=policy
    )
    optimizer = task.optimizer(policy.parameter_groups(network))
    scale_learning_rates(optimizer)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    parts = [*(stage for _, stage in network.backbone.stages()), network.decoder, network.head]
    found = [{of.get(id(p)) for p in part.parameters()} for part in parts]
    assert all(len(rates) == 1 for rates in found)
    return [rate for (rate,) in found]


def test_stages_have_their_own_learning_rates():
    assert rates(Full(backbone_lr_mult=0.1)) == [0.1] * 5 + [1, 1]
    assert rates(FrozenStages(3, backbone_lr_mult=0.5)) == [None] * 3 + [0.5] * 2 + [1, 1]
    assert rates(GradualUnfreeze([2, 3], backbone_lr_mult=0.1)) == [None] * 3 + [0.1] * 2 + [1, 1]
    assert rates(LayerwiseDecay(0.5)) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1]


def saved_bytes(policy):
    """What the forward pass keeps of the backbone for the backward pass."""
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(16, 8, 8, 8, 8))
    policy.apply(network)
    policy.advance(network, 0, 0.0)
    network.train()
    policy.set_mode(network)
    weights = {p.untyped_storage().data_ptr() for p in network.state_dict(keep_vars=True).values()}
    sizes = []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.backbone(torch.rand(1, 3, 64, 64))
    return sum(sizes)


def test_frozen_stages_build_no_graph():
    assert saved_bytes(Frozen()) == saved_bytes(Frozen("train")) == saved_bytes(GradualUnfreeze([1])) == 0
    sizes = [saved_bytes(FrozenStages(n)) for n in range(6)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 6 and sizes[0] == saved_bytes(Full())


@pytest.mark.parametrize(
    ("make_policy", "message"),
    [
        (lambda: Full(backbone_lr_mult=0), "use Frozen"),
        (lambda: FrozenStages(6), "stages 0 to 5"),
        (lambda: LayerwiseDecay(1.5), "above 0 and up to 1"),
        (lambda: GradualUnfreeze([3, 1]), "in order"),
        (lambda: GradualUnfreeze([1.5]), "whole epoch"),
        (lambda: GradualUnfreeze([0.5, 2]), "all times as fractions of the training below 1 or all as"),
        (lambda: GradualUnfreeze([0.5, 1]), r"got \[0.5, 1\]"),
        (lambda: GradualUnfreeze([-1, 2]), "whole epochs"),
        (lambda: GradualUnfreeze([1] * 6), "5 stages"),
        (lambda: LinearProbe(), "networks.linear.Linear"),
    ],
)
def test_what_makes_no_sense_is_refused(make_policy, message):
    with pytest.raises(UserError, match=message):
        rates(make_policy())


def test_table_says_what_trains_when_and_how_fast():
    task = make("gradual")
    parts = task.finetune.parts(task.network)
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in task.network.parameters())
    assert [part.start for part in parts] == [0, 0, 0.5, 0.5, 0, 0, 0]
    assert [part.trainable > 0 for part in parts] == [False] * 2 + [True] * 5
    text = table(parts)
    assert "from 50 % of the steps" in text
    assert "from epoch 1" in table(make("gradual-frozen").finetune.parts(make("gradual-frozen").network))
    modes = [part.batch_norm for part in Frozen("train").parts(make("frozen-train").network)]
    assert modes == ["train"] * 5 + ["train", None]
