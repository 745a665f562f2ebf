"""What only a GPU can show: no training step waits for it, and it computes what the processor computes."""

import lightning as L
import pytest
import torch

from lightning_seg.callbacks.nonfinite import NonFinite
from lightning_seg.callbacks.progress import Progress
from lightning_seg.experiment.experiment import TaskAndData
from lightning_seg.training.precision import choose_precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]
TINY = [
    "--model.network.init_args.backbone=test_resnet",
    "--data.init_args.batch_size=4",
    "--data.init_args.crop_size=[64,64]",
    "--data.init_args.num_workers=0",
]


class Watch(L.Callback):
    """Forbids waiting within training steps, from the third on: the first ones make room and choose kernels.

    A step of validation waits: `torch.bincount` looks at its smallest and largest number.
    """

    steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx >= 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")
        self.steps += batch_idx >= 2


def fit(*settings):
    """Train five steps and validate; return the task and how many steps were watched."""
    made = TaskAndData(["-c", "experiments/quickstart.yaml", *settings])
    watch = Watch()
    trainer = L.Trainer(
        max_steps=5, limit_val_batches=3, num_sanity_val_steps=0, accelerator="gpu", devices=1,
        precision="bf16-mixed", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Progress(), NonFinite(), watch], limit_train_batches=5,
    )  # fmt: skip
    try:
        trainer.fit(made.model, made.datamodule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return made, watch.steps


@pytest.mark.parametrize(
    "settings",
    [
        ["--model.loss=CrossEntropy", "--model.loss.class_weights=inverse_sqrt"],
        ["--model.loss=FocalLoss"],
        ["--model.loss=OHEMCrossEntropy"],
        ["--model.loss=DiceLoss"],
        ["--model.loss=LovaszLoss"],
        ["--data.init_args.color={brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 0.05}"],
        ["--data.init_args.mix=CutMix"],
        ["--model.finetune=Frozen"],
        ["--model.finetune=LoRA"],
        ["--model.compile=true"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_no_training_step_waits_for_the_device(settings):
    made, steps = fit(*TINY, *settings)
    assert steps == 3
    assert made.model.matrix.sum() > 0


@pytest.mark.skipif(
    torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False),
    reason="needs a GPU with bfloat16",
)
def test_a_gpu_that_has_bfloat16_trains_in_it():
    network = TaskAndData(["-c", "experiments/quickstart.yaml", *TINY]).model.network
    assert choose_precision(network, torch.device("cuda")).precision == "bf16-mixed"


def test_logits_and_loss_of_a_step_are_those_of_the_processor():
    made = TaskAndData(["-c", "experiments/quickstart.yaml", *TINY])
    task = made.model.eval()
    images = torch.randint(256, (2, 3, 65, 90), dtype=torch.uint8)
    masks = torch.randint(6, (2, 65, 90), dtype=torch.uint8)
    masks[:, :5] = 255
    found = []
    for device in ("cpu", "cuda"):
        task.to(device)
        logits = task(images.to(device))
        assert logits.dtype == torch.float32
        found.append((logits.cpu(), task.loss(logits, masks.to(device)).cpu()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=2e-3, atol=2e-3)  # cuDNN's tf32
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)


def test_a_frozen_backbone_is_the_same_to_the_bit_on_a_device():
    settings = [*TINY, "--model.finetune=Frozen"]
    before = TaskAndData(["-c", "experiments/quickstart.yaml", *settings]).model.network
    kept = {name: value.clone() for name, value in before.backbone.state_dict().items()}
    made, _ = fit(*settings)
    for name, value in made.model.network.backbone.state_dict().items():
        assert torch.equal(value.cpu(), kept[name]), name
