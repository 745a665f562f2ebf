"""Fine-tuning policies: which parts of a pretrained backbone train, when, how fast, and what its BatchNorm does."""

from dataclasses import replace
from typing import Literal

from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.base import BackboneNetwork
from lightning_seg.training.finetune.groups import ParameterGroup, depth
from lightning_seg.training.finetune.parts import BatchNorm, Part, batch_norms


class Full:
    """Train everything, the backbone if wanted at a learning rate of its own.

    Args:
        backbone_lr_mult: Factor on the learning rate for the backbone.
        batch_norm: What the backbone's BatchNorm does in the parts that train: ``train`` uses and updates the
            statistics of the batch, ``eval`` keeps those of the pretraining, ``frozen`` also keeps scale and shift.

    Raises:
        UserError: `backbone_lr_mult` is not above 0.

    Examples:
        >>> [part.lr_factor for part in Full(backbone_lr_mult=0.1).parts(UNet(2, "test_resnet", weights=False))]
        [0.1, 0.1, 0.1, 0.1, 0.1, 1.0, 1.0]
    """

    def __init__(self, backbone_lr_mult: float = 1.0, batch_norm: BatchNorm = "train") -> None:
        if backbone_lr_mult <= 0:
            raise UserError(
                f"backbone_lr_mult must be above 0, got {backbone_lr_mult}; to train no backbone use Frozen."
            )
        self.backbone_lr_mult = backbone_lr_mult
        self.batch_norm: BatchNorm = batch_norm

    def frozen_stages(self, stages: int) -> int:
        """Return how many of the backbone's stages, from the image on, never train."""
        return 0

    def stage_lr(self, stage: int, stages: int) -> float:
        """Return the factor on the learning rate of one of the backbone's stages, counted from the image.

        Args:
            stage: Its position; that of a plain transformer's final norm is `stages`.
            stages: How many there are, a final norm not counted.
        """
        return self.backbone_lr_mult

    def apply(self, network: BackboneNetwork) -> None:
        """Switch off the gradients of what never trains. Call it once, before the optimizer is made.

        Raises:
            UserError: The policy is about a backbone, and the network has none.
        """
        stages = self._stages(network)
        if not stages and self._needs_backbone():
            raise UserError(
                f"model.finetune: {type(self).__name__} is about the backbone, and this network has none that is known."
                " Name it: model.network.backbone, the part of the module, or a list of parts from the image on."
            )
        for stage in stages[: self.frozen_stages(len(stages))]:
            stage.requires_grad_(False)
        if self.batch_norm == "frozen":
            for norm in batch_norms(network.backbone):
                norm.requires_grad_(False)

    def begin(self, network: BackboneNetwork) -> None:
        """Prepare for a training. Call it once the weights are there."""

    def begin_test(self, network: BackboneNetwork) -> None:
        """Prepare for a scoring of weights that are there."""

    def end(self, network: BackboneNetwork) -> None:
        """Clean up after a training or a scoring."""

    def advance(self, network: BackboneNetwork, epoch: int, progress: float) -> bool:
        """Unfreeze the parts that are due. Call it before every training step.

        Args:
            network: The network.
            epoch: The current epoch, from 0.
            progress: Optimizer steps done, as a fraction of all.

        Returns:
            Whether anything changed; `set_mode` is to be called then.
        """
        return False

    def set_mode(self, network: BackboneNetwork) -> None:
        """Put what does not train back into evaluation mode. Call it after every ``network.train()``."""
        if not network.training:
            return
        for stage in self._stages(network)[: self._num_frozen(network)]:
            stage.eval()  # neither BatchNorm's statistics nor dropout move
        if self.batch_norm != "train":
            for norm in batch_norms(network.backbone):
                norm.eval()

    def parameter_groups(self, network: BackboneNetwork) -> list[ParameterGroup]:
        """Return groups of trainable parameters, with their ``lr_factor`` and whether they are the backbone's."""
        factors = {
            id(parameter): self.stage_lr(i, depth(network))
            for i, stage in enumerate(self._stages(network))
            for parameter in stage.parameters()
        }
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for parameter in network.parameters():
            if parameter.requires_grad:
                inside = id(parameter) in factors
                groups.setdefault((factors.get(id(parameter), 1.0), not inside), []).append(parameter)
        return [
            {"params": parameters, "lr_factor": factor, "backbone": not outside}
            for (factor, outside), parameters in sorted(groups.items())
        ]

    def parts(self, network: BackboneNetwork) -> list[Part]:
        """Describe what happens to each part of the network. Call it before training."""
        stages = network.backbone.stages()
        frozen = self.frozen_stages(len(stages))
        found = []
        for i, (name, stage) in enumerate(stages):
            mode: BatchNorm = "frozen" if i < frozen else self.batch_norm
            found.append(self._part(f"backbone.{name}", stage, mode, self.stage_lr(i, depth(network))))
        rest = [(name, part) for name, part in network.named_children() if name != "backbone"]
        return found + [self._part(name, part, "train", 1.0) for name, part in rest if [*part.parameters()]]

    def _part(self, name: str, module: nn.Module, mode: BatchNorm, factor: float) -> Part:
        parameters = list(module.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        has_norms = next(batch_norms(module), None) is not None
        return Part(
            name=name,
            parameters=sum(p.numel() for p in parameters),
            trainable=trainable,
            lr_factor=factor if trainable else None,
            batch_norm=mode if has_norms else None,
        )

    def _stages(self, network: BackboneNetwork) -> list[nn.ModuleList]:
        return [stage for _, stage in network.backbone.stages()]

    def _needs_backbone(self) -> bool:
        """Whether it treats any backbone otherwise than the rest."""
        try:
            return self.batch_norm != "train" or self.stage_lr(0, 1) != 1 or self.frozen_stages(1) > 0
        except UserError:  # it wants more stages
            return True

    def _num_frozen(self, network: BackboneNetwork) -> int:
        """How many stages do not train at present."""
        return self.frozen_stages(len(self._stages(network)))


class Frozen(Full):
    """Train decoder and head on a backbone that does not change: feature extraction.

    Args:
        batch_norm: With ``train`` no parameter of the backbone trains, but its BatchNorm uses and updates the
            statistics of the batch, as in code that only switches gradients off; else nothing moves.
        cache_gb: Gigabytes of the processor's memory in which the feature maps of images that come again are kept
            while it trains: those of validation, and those of training where nothing random changes them. A resumed
            run is then equal up to rounding, not bit by bit.
        cache_on: Where they are kept: in memory (``ram``), or in a folder of the cache (``disk``) that all runs share
            which have this backbone, these weights and these images; those of the test are then kept, too.

    Raises:
        UserError: `cache_gb` is set although BatchNorm's statistics change.

    Examples:
        >>> [part.batch_norm for part in Frozen().parts(UNet(2, "test_resnet", weights=False))]
        ['frozen', 'frozen', 'frozen', 'frozen', 'frozen', 'train', None]
    """

    def __init__(
        self, batch_norm: BatchNorm = "frozen", cache_gb: float = 0, cache_on: Literal["ram", "disk"] = "ram"
    ) -> None:
        super().__init__(batch_norm=batch_norm)
        if cache_on == "disk" and not cache_gb:
            raise UserError("cache_on: disk needs to know how much to keep, as in cache_gb: 20.")
        if cache_gb and batch_norm == "train":
            raise UserError(
                "cache_gb keeps features, and those of batch_norm: train move; leave one of them out."
            )
        self.cache_gb, self.cache_on = cache_gb, cache_on

    def begin(self, network: BackboneNetwork) -> None:
        """Turn on the feature cache, if wanted.

        Raises:
            UserError: The network cannot cache features.
        """
        network.cache_features(self.cache_gb, on_disk=self.cache_on == "disk")

    def begin_test(self, network: BackboneNetwork) -> None:
        """Turn on the feature cache if it outlives the test: each image comes once."""
        if self.cache_on == "disk":
            self.begin(network)

    def end(self, network: BackboneNetwork) -> None:
        """Drop the cached features."""
        network.cache_features(0)

    def frozen_stages(self, stages: int) -> int:
        """Freeze all."""
        return stages

    def set_mode(self, network: BackboneNetwork) -> None:
        """Put the backbone back into evaluation mode, save for what was asked of its BatchNorm."""
        super().set_mode(network)
        if network.training and self.batch_norm == "train":
            for norm in batch_norms(network.backbone):
                norm.train()

    def parts(self, network: BackboneNetwork) -> list[Part]:
        """Describe what happens to each part of the network."""
        described = super().parts(network)
        if self.batch_norm == "train":
            described = [replace(part, batch_norm=part.batch_norm and "train") for part in described]
        return described


class LinearProbe(Frozen):
    """Train one 1x1 convolution, perhaps after a BatchNorm, on frozen features, to measure what these contain.

    It is `Frozen`, and refuses networks other than `lightning_seg.networks.linear.Linear`, which add more layers.

    Args:
        batch_norm: What the backbone's BatchNorm does (see `Frozen`).
        cache_gb: Gigabytes in which features are kept (see `Frozen`).
        cache_on: Where they are kept (see `Frozen`).

    Examples:
        >>> LinearProbe().frozen_stages(5)
        5
    """

    def apply(self, network: BackboneNetwork) -> None:
        """Freeze the backbone.

        Raises:
            UserError: The network has a decoder.
        """
        trained = [part for name, part in network.named_children() if name != "backbone"]
        layers = [m for part in trained for m in part.modules() if [*m.parameters(recurse=False)]]
        layers = [layer for layer in layers if not isinstance(layer, nn.BatchNorm2d)]
        if [getattr(layer, "kernel_size", None) for layer in layers] != [(1, 1)]:
            raise UserError(
                f"LinearProbe trains one 1x1 convolution, but {type(network).__name__} has {len(layers)} layers with "
                "parameters after its backbone. Use the network lightning_seg.networks.linear.Linear, or Frozen to "
                "train a whole decoder on frozen features."
            )
        super().apply(network)


class FrozenStages(Full):
    """Freeze the backbone's first stages, from the image on, and train the rest.

    Args:
        stages: Number of stages to freeze.
        backbone_lr_mult: Factor on the learning rate for the stages that train.
        batch_norm: What BatchNorm does in the stages that train (see `Full`).

    Examples:
        >>> [part.batch_norm for part in FrozenStages(2).parts(UNet(2, "test_resnet", weights=False))]
        ['frozen', 'frozen', 'train', 'train', 'train', 'train', None]
    """

    def __init__(self, stages: int, backbone_lr_mult: float = 1.0, batch_norm: BatchNorm = "train") -> None:
        super().__init__(backbone_lr_mult, batch_norm)
        self.stages = stages

    def frozen_stages(self, stages: int) -> int:
        """Freeze as many as were asked for.

        Raises:
            UserError: The backbone has fewer.
        """
        if not 0 <= self.stages <= stages:
            raise UserError(f"FrozenStages(stages={self.stages}): this backbone has stages 0 to {stages}.")
        return self.stages


class GradualUnfreeze(Full):
    """Train the head first, then one stage of the backbone after the other, the deepest first (arXiv:1801.06146).

    A stage that waits is as frozen as in `Frozen`. What trains follows from the step alone, so that a resumed run
    goes on as it was.

    Args:
        schedule: When the deepest stage begins to train, the one before it, and so on: all as fractions of the
            training below 1, or all as whole epochs; 0 is the start. Stages without a time stay frozen.
        backbone_lr_mult: Factor on the learning rate for the stages that train.
        batch_norm: What BatchNorm does in the stages that train (see `Full`).

    Raises:
        UserError: The times of `schedule` are not in order, or not all of one kind.

    Examples:
        >>> GradualUnfreeze(schedule=[0.2, 0.5]).frozen_stages(5)  # the first three never train
        3
    """

    def __init__(
        self, schedule: list[float], backbone_lr_mult: float = 1.0, batch_norm: BatchNorm = "train"
    ) -> None:
        super().__init__(backbone_lr_mult, batch_norm)
        # Which of half the training and epoch 2 comes first depends on its length: one kind of time only.
        fractions, epochs = all(0 <= t < 1 for t in schedule), all(t >= 0 and t % 1 == 0 for t in schedule)
        if not (fractions or epochs) or schedule != sorted(schedule):
            raise UserError(
                "GradualUnfreeze needs its schedule in order, and all times as fractions of the training below 1 or "
                f"all as whole epochs, such as [0.1, 0.3, 0.5] or [2, 4, 6]; got {schedule}."
            )
        self.schedule = schedule
        self._waiting = 0  # stages that do not train at present; all that ever do until training begins
        self._parameters: list[list[nn.Parameter]] = []  # those of each stage that train at some time

    def frozen_stages(self, stages: int) -> int:
        """Freeze those for which the schedule has no time.

        Raises:
            UserError: The schedule has more times than the backbone has stages.
        """
        if len(self.schedule) > stages:
            raise UserError(
                f"GradualUnfreeze has {len(self.schedule)} times in its schedule, but this backbone has "
                f"{stages} stages."
            )
        return stages - len(self.schedule)

    def apply(self, network: BackboneNetwork) -> None:
        """Switch off the gradients of what never trains."""
        super().apply(network)
        stages = self._stages(network)
        self._parameters = [[p for p in stage.parameters() if p.requires_grad] for stage in stages]

    def advance(self, network: BackboneNetwork, epoch: int, progress: float) -> bool:
        """Unfreeze the stages that are due (see `Full.advance`)."""
        begun = sum((progress if time < 1 else epoch) >= time for time in self.schedule)
        waiting = len(self._parameters) - begun
        if waiting == self._waiting:
            return False
        self._waiting = waiting
        for i, parameters in enumerate(self._parameters):
            for parameter in parameters:
                parameter.requires_grad_(i >= waiting)
        return True

    def parts(self, network: BackboneNetwork) -> list[Part]:
        """Describe what happens to each part of the network, and when."""
        described = super().parts(network)
        last = len(self._parameters) - 1
        for i, time in enumerate(self.schedule):
            described[last - i] = replace(described[last - i], start=time)
        return described

    def _num_frozen(self, network: BackboneNetwork) -> int:
        return max(super()._num_frozen(network), self._waiting)


class LayerwiseDecay(Full):
    """Train everything, each step of the backbone slower than the next: discriminative learning rates.

    Steps are the blocks of a plain vision transformer, its embeddings being one of them, and the stages of any other
    backbone; the run's table of parts names them. The factor of the last step is `decay`, that of the step before it
    `decay` squared, and so on to the image (arXiv:1801.06146; blocks: BEiT, arXiv:2106.08254, MAE, DINOv3). The final
    norm of a plain transformer trains as fast as the decoder.

    Args:
        decay: Ratio of the learning rates of neighboring steps, above 0 and up to 1.
        batch_norm: What the backbone's BatchNorm does (see `Full`).
        from_last_block: Count from the last step, which then trains as fast as the decoder, and give the embeddings of
            a plain transformer the rate of its first block, as in EoMT (arXiv:2503.19108).

    Raises:
        UserError: `decay` is not above 0 and up to 1.

    Examples:
        >>> [round(LayerwiseDecay(decay=0.5).stage_lr(stage, 4), 3) for stage in range(4)]
        [0.062, 0.125, 0.25, 0.5]
    """

    def __init__(
        self, decay: float = 0.7, batch_norm: BatchNorm = "train", from_last_block: bool = False
    ) -> None:
        super().__init__(batch_norm=batch_norm)
        self.from_last_block = from_last_block
        if not 0 < decay <= 1:
            raise UserError(f"LayerwiseDecay needs a decay above 0 and up to 1, such as 0.7; got {decay}.")
        self.decay = decay

    def apply(self, network: BackboneNetwork) -> None:
        """Switch off the gradients of what never trains.

        Raises:
            UserError: Blocks are to be counted that the backbone does not have.
        """
        if self.from_last_block and not network.backbone.plain:
            raise UserError("LayerwiseDecay: from_last_block is for plain vision transformers; leave it out.")
        super().apply(network)

    def stage_lr(self, stage: int, stages: int) -> float:
        """Return `decay` to the power of the step's distance from the decoder, or from the last step."""
        if self.from_last_block:
            return float(self.decay ** max(0, stages - 1 - max(stage, 1)))
        return float(self.decay ** (stages - stage))
