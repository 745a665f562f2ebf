"""The task: what it makes of its batches."""

import lightning as L
import pytest
import torch
import torch.nn.functional as F

from lightning_seg.networks.unet import UNet
from lightning_seg.tasks.semantic import SemanticSegmentation


@pytest.fixture
def task(monkeypatch):
    torch.manual_seed(0)
    network = UNet(3, "test_resnet", weights=False, decoder_channels=(32, 16, 16, 8, 8))
    made = SemanticSegmentation(network, torch.optim.SGD, ("a", "b", "c"))
    monkeypatch.setattr(made, "log", lambda *args, **kwargs: None)
    return made.eval()


def test_mixed_images_are_paid_for_both_masks(task):
    images = torch.randint(255, (2, 3, 32, 32), dtype=torch.uint8)
    first, second = torch.randint(3, (2, 2, 32, 32), dtype=torch.uint8)
    loss = task.training_step({"image": images, "mask": first, "mask2": second, "mix": 0.3}, 0)
    logits = task(images)
    expected = 0.3 * F.cross_entropy(logits, first.long()) + 0.7 * F.cross_entropy(logits, second.long())
    torch.testing.assert_close(loss, expected)


def test_padding_for_transport_changes_no_score(task):
    """Images of different size in one batch are scored as if each had come alone."""
    images = [torch.randint(255, (1, 3, h, w), dtype=torch.uint8) for h, w in ((30, 40), (37, 33))]
    masks = [torch.randint(3, (1, *image.shape[-2:]), dtype=torch.uint8) for image in images]
    with torch.inference_mode():
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            task._evaluate({"image": image, "mask": mask, "index": torch.tensor([i])})
        alone = task.confusion.compute().clone()
        task.confusion.reset()
        batch = {
            "image": torch.cat([F.pad(x, (0, 40 - x.shape[-1], 0, 37 - x.shape[-2])) for x in images]),
            "mask": torch.cat(
                [F.pad(x, (0, 40 - x.shape[-1], 0, 37 - x.shape[-2]), value=255) for x in masks]
            ),
            "size": torch.tensor([[30, 40], [37, 33]]),
            "index": torch.arange(2),
        }
        task._evaluate(batch)
    assert torch.equal(task.confusion.compute(), alone) and alone.sum() == 30 * 40 + 37 * 33


def test_adam_is_fused_unless_the_settings_say_otherwise():
    from lightning_seg.experiment.experiment import TaskAndData

    def optimizer(*settings):
        model = TaskAndData(["-c", "experiments/quickstart.yaml", *settings]).model
        model.trainer = L.Trainer(accelerator="cpu", logger=False)
        return model._make_optimizer()

    made = optimizer()
    assert isinstance(made, torch.optim.AdamW) and made.defaults["fused"] is True
    assert [group["lr_factor"] for group in made.param_groups] == [1.0, 1.0]
    assert optimizer("--model.optimizer.init_args.fused=false").defaults["fused"] is False
    assert optimizer("--model.optimizer.init_args.foreach=true").defaults["fused"] is None
    assert optimizer("--model.optimizer=torch.optim.SGD").defaults["fused"] is None
