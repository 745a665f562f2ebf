"""The same training step in other frameworks, each at its default settings: DeepLabV3+ on the same backbone."""

import importlib
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_seg.bench.train import AUTOTIMM, NOTEBOOK, TORCHGEO, TrainBench
from lightning_seg.errors import UserError
from lightning_seg.networks.deeplab import DeepLabV3Plus


def peers(bench: TrainBench) -> dict[str, Callable[[], float]]:
    """Return a way to make a training step for each framework that is installed.

    They get what their own data pipelines would deliver: normalized float images and int64 masks.

    Args:
        bench: The experiment to repeat; it has to be DeepLabV3+.
    """
    network = bench.experiment.model.network
    if not isinstance(network, DeepLabV3Plus):
        raise UserError(
            f"--peers compares DeepLabV3+, which all of them have; this experiment has {type(network).__name__}. "
            "Try deeplab_camvid with --model.network.init_args.backbone=resnet18."
        )
    backbone: Any = network.backbone
    name = backbone.name.split(".")[0]
    with torch.no_grad():
        images = backbone.normalize(bench.batch["image"]).contiguous()
    batch = {"image": images, "mask": bench.batch["mask"].long()}
    ways = {}
    for title, make in ((NOTEBOOK, _notebook), (TORCHGEO, _torchgeo), (AUTOTIMM, _autotimm)):
        try:
            module = make(name, bench.num_classes)
        except ImportError as error:
            print(f"{title} is not timed: {error}; pip install 'lightning-seg[peers]'")
        else:
            # AutoTimm builds on the package pytorch_lightning, whose classes are others than lightning's.
            package = (
                L if isinstance(module, L.LightningModule) else importlib.import_module("pytorch_lightning")
            )
            ways[title] = bench.fitted(module, batch, "32-true", package.Trainer)
    return ways


def _torchgeo(backbone: str, num_classes: int) -> L.LightningModule:
    from torchgeo.trainers import SemanticSegmentationTask

    return SemanticSegmentationTask(
        model="deeplabv3+", backbone=backbone, num_classes=num_classes, ignore_index=255
    )


def _autotimm(backbone: str, num_classes: int) -> L.LightningModule:
    from autotimm import FeatureBackboneConfig, SemanticSegmentor

    config = FeatureBackboneConfig(backbone, pretrained=False)
    return SemanticSegmentor(config, num_classes=num_classes, head_type="deeplabv3plus", ignore_index=255)


def _notebook(backbone: str, num_classes: int) -> L.LightningModule:
    return _Notebook(backbone, num_classes)


class _Notebook(L.LightningModule):
    """What tutorials write: smp's network and the usual metrics of torchmetrics in every step."""

    def __init__(self, backbone: str, num_classes: int) -> None:
        import segmentation_models_pytorch as smp
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

        super().__init__()
        self.network = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=num_classes)
        options: dict[str, Any] = {"num_classes": num_classes, "ignore_index": 255}
        kinds = (MulticlassJaccardIndex, MulticlassF1Score, MulticlassAccuracy)
        self.metrics = MetricCollection([kind(**options) for kind in kinds], prefix="train_")
        self.loss = nn.CrossEntropyLoss(ignore_index=255)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self.network(batch["image"])
        loss = self.loss(logits, batch["mask"])
        self.metrics(logits.argmax(1), batch["mask"])
        self.log("train_loss", loss)
        self.log_dict(self.metrics)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)
