"""What a network costs and how far it sees: parameters, work, memory, speed, receptive field."""

import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_seg.networks.base import Network, channels_of
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.losses import CrossEntropy

PARTS = ("backbone", "decoder", "head", "auxiliary")


@dataclass(frozen=True)
class Conditions:
    """What figures depend on besides the network.

    Args:
        size: Height and width of the images in pixels.
        batch_size: Images at a time, for the speed.
        device: Where to measure.
        bf16: Whether to measure in bfloat16 autocast instead of float32.
    """

    size: tuple[int, int] = (512, 512)
    batch_size: int = 1
    device: torch.device = torch.device("cpu")
    bf16: bool = False

    def autocast(self) -> torch.autocast:
        """Return the context in which the network runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def images(self, batch_size: int = 1, channels: int = 3) -> Tensor:
        """Make noise (B, C, H, W) uint8 in the memory layout of real batches."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(
            256, (batch_size, channels, *self.size), generator=generator, dtype=torch.uint8
        )
        return images.to(self.device).contiguous(memory_format=torch.channels_last)

    def clock(self) -> float:
        """Return the time in seconds once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __str__(self) -> str:
        name = f"CPU, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        height, width = self.size
        precision = "bfloat16" if self.bf16 else "float32"
        return f"{height}x{width} pixels, batch of {self.batch_size}, {precision}, {name}"


@dataclass(frozen=True)
class Description:
    """The figures of one network.

    Attributes:
        name: The experiment or run.
        network: Architecture and backbone.
        parameters: Parameters of each part.
        trainable: Those of them that train.
        multiply_adds: Multiply-adds of each part for one image.
        output_stride: Pixels of the image in one cell of the deepest feature map.
        fixed_memory: Bytes in training for weights, gradients and the optimizer's state.
        image_memory: Bytes in training for what each image leaves for the backward pass.
        images_per_second: Speed of inference.
        disturbed: Whether other programs ran during the measurement of the speed.
        field: Influence (H, W) of each pixel of the image on the logit in its center.
    """

    name: str
    network: str
    parameters: dict[str, int]
    trainable: dict[str, int]
    multiply_adds: dict[str, int]
    output_stride: int
    fixed_memory: int
    image_memory: int
    images_per_second: float
    disturbed: bool
    field: np.ndarray

    def memory(self, images: float) -> float:
        """Estimate the memory in bytes of training on so many images at a time."""
        return self.fixed_memory + images * self.image_memory


def measure(name: str, model: SemanticSegmentation, conditions: Conditions) -> Description:
    """Measure a model, which a training step modifies: it cannot be used afterwards.

    Args:
        name: What to call it.
        model: The model.
        conditions: Size of the images, device and so on.
    """
    network = model.to(conditions.device).network.eval()
    parts = [part for part in PARTS if getattr(network, part, None) is not None]
    backbone = getattr(network.backbone, "name", type(network.backbone).__name__)
    parameters = {part: list(getattr(network, part).parameters()) for part in parts}
    work, field = multiply_adds(network, conditions), receptive_field(network, conditions)
    fixed, image = training_memory(model, conditions)
    # last: what inference mode leaves behind cannot be trained
    speed, disturbed = images_per_second(network.eval(), conditions)
    return Description(
        name=name,
        network=f"{network.title}, {backbone}",
        parameters={part: sum(p.numel() for p in owned) for part, owned in parameters.items()},
        trainable={
            part: sum(p.numel() for p in owned if p.requires_grad) for part, owned in parameters.items()
        },
        multiply_adds={part: work.get(part, 0) for part in parts},
        output_stride=network.encoder.strides[-1],
        fixed_memory=fixed,
        image_memory=image,
        images_per_second=speed,
        disturbed=disturbed,
        field=field,
    )


def multiply_adds(network: Network, conditions: Conditions) -> dict[str, int]:
    """Count the multiply-adds of each part of a network for one image: convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(conditions.images(1, channels_of(network)))
    prefix = f"{type(network).__name__}."
    counts = counter.get_flop_counts()
    # A multiply-add is two operations; keys are the paths of modules, such as UNet.backbone.
    work = {
        key.removeprefix(prefix): sum(operations.values()) // 2
        for key, operations in counts.items()
        if key.startswith(prefix)
    }
    # The backbone of a foreign module is called within the decoder, part by part.
    inside = sum(count for key, count in work.items() if re.fullmatch(r"backbone\.parts\.\d+", key))
    if inside and "backbone" not in work:
        work |= {"backbone": inside, "decoder": work["decoder"] - inside}
    return {key: count for key, count in work.items() if "." not in key}


def images_per_second(
    network: torch.nn.Module, conditions: Conditions, seconds: float = 2.0
) -> tuple[float, bool]:
    """Measure the speed of inference: after a warm-up, the median over so many seconds, at least three calls.

    Returns:
        Images per second, and whether other programs kept the processor busy meanwhile.
    """
    images = conditions.images(conditions.batch_size, channels_of(network))
    times: list[float] = []
    with torch.inference_mode(), conditions.autocast():
        for _ in range(2):  # the first calls choose algorithms and allocate memory
            network(images)
        waited = _waited()
        while len(times) < 3 or sum(times) < seconds:
            start = conditions.clock()
            network(images)
            times.append(conditions.clock() - start)
    return conditions.batch_size / statistics.median(times), _waited() - waited > 0.1 * sum(times)


def _waited() -> float:
    """Seconds that this thread could have run but had no core; 0 where the system does not say."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def training_memory(model: SemanticSegmentation, conditions: Conditions) -> tuple[int, int]:
    """Estimate the memory of training by taking one step.

    Returns:
        Bytes for weights, gradients and the optimizer's state, and bytes of what the backward pass of each image
        needs. Working memory of single operations comes on top.
    """
    network = model.network
    optimizer = model.optimizer(model.finetune.parameter_groups(network))
    model.train()
    loss, two = _loss_and_saved(network, conditions, 2)  # a batch of one may be padded more
    loss.backward()
    optimizer.step()
    _, three = _loss_and_saved(network, conditions, 3)
    # What does not grow with the batch are copies of weights, such as those that autocast makes.
    image = three - two
    copies = two - 2 * image
    state = [value for values in optimizer.state.values() for value in values.values()]
    gradients = [p.grad for p in network.parameters()]
    kept = [*network.parameters(), *network.buffers(), *state, *gradients]
    return sum(t.nbytes for t in kept if isinstance(t, Tensor)) + copies, image


def _loss_and_saved(network: Network, conditions: Conditions, batch_size: int) -> tuple[Tensor, int]:
    """Run a training step's forward pass; also return the bytes that it keeps for the backward pass."""
    owned = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            saved[storage.data_ptr()] = storage.nbytes()  # several tensors may share one
        return tensor

    masks = torch.zeros(batch_size, *conditions.size, dtype=torch.uint8, device=conditions.device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), conditions.autocast():
        logits = network(conditions.images(batch_size, channels_of(network)))
        outputs = logits if isinstance(logits, tuple) else (logits,)
        loss = torch.stack([CrossEntropy()(output, masks) for output in outputs]).sum()
    return loss, sum(saved.values())


def receptive_field(network: Network, conditions: Conditions, count: int = 4) -> np.ndarray:
    """Compute the effective receptive field: the gradient of the center logit with respect to each pixel.

    The largest logit in the center is taken; absolute values are averaged over images of noise (Luo et al.,
    arXiv:1701.04128).

    Args:
        network: The network.
        conditions: Size and device; the gradient is always computed in float32.
        count: Number of images.

    Returns:
        Absolute gradient (H, W).
    """
    generator = torch.Generator().manual_seed(0)
    height, width = conditions.size
    total = torch.zeros(height, width)
    network.eval()
    for _ in range(count):
        noise = 255 * torch.rand(1, channels_of(network), height, width, generator=generator)
        images = noise.to(conditions.device).requires_grad_()
        center = network(images)[0, :, height // 2, width // 2].max()
        (gradient,) = torch.autograd.grad(center, images)
        total += gradient[0].abs().sum(0).cpu()
    return (total / count).numpy()


def field_side(field: np.ndarray, share: float) -> int | None:
    """Find the smallest square around the center that holds a share of the gradient.

    Args:
        field: Absolute gradient (H, W).
        share: Fraction of the sum; 1 asks for every pixel that has any.

    Returns:
        The square's side in pixels, or None if it does not fit into the image.
    """
    height, width = field.shape
    rows, columns = np.abs(np.arange(height) - height // 2), np.abs(np.arange(width) - width // 2)
    distance = np.maximum(rows[:, None], columns)
    within = np.cumsum(np.bincount(distance.ravel(), field.astype(np.float64).ravel()))
    if share == 1:
        radius = int(distance[field > 0].max(initial=0))
    else:
        radius = int(np.searchsorted(within, share * within[-1]))
    side = 2 * radius + 1
    return side if side < min(height, width) else None
