"""What freezing saves: step time and memory of a training step under several policies, as ratios to training all."""

import copy
import os
import statistics
from collections.abc import Callable

import torch

from lightning_seg.bench.network_profile import Conditions, training_memory
from lightning_seg.bench.timing import ratio
from lightning_seg.networks.base import channels_of
from lightning_seg.plotting.tables import text_table
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import Frozen, FrozenStages, Full

ALL = "nothing frozen"


def under_policies(model: SemanticSegmentation, device: torch.device) -> dict[str, SemanticSegmentation]:
    """Return copies of a task that freeze more and more of the backbone."""
    count = len(model.network.backbone.stages())
    policies: dict[str, Full] = {ALL: Full()}
    policies |= {f"{n} of {count} stages frozen": FrozenStages(n) for n in range(1, count)}
    policies |= {
        "backbone frozen": Frozen(),
        "backbone frozen, its features kept": Frozen(cache_gb=8),
        "backbone frozen, its BatchNorm moves": Frozen(batch_norm="train"),
    }
    tasks = {}
    for name, policy in policies.items():
        network = copy.deepcopy(model.network).requires_grad_(True)
        task = SemanticSegmentation(
            network, model.optimizer, model.class_names, copy.deepcopy(model.loss), finetune=policy
        )
        policy.begin(network)
        tasks[name] = task.to(device).train()
    return tasks


def steps(task: SemanticSegmentation, conditions: Conditions, count: int) -> Callable[[], float]:
    """Return a function that takes training steps on one batch in memory and returns their seconds."""
    images = conditions.images(conditions.batch_size, channels_of(task.network))
    masks = images[:, 0] % len(task.class_names)
    optimizer = task.optimizer(task.finetune.parameter_groups(task.network))

    def run() -> float:
        start = conditions.clock()
        for _ in range(count):
            with conditions.autocast():
                logits = task.network(images)
                outputs = logits if isinstance(logits, tuple) else (logits,)
                loss = torch.stack([task.loss(output, masks) for output in outputs]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return conditions.clock() - start

    return run


def bytes_of_training(task: SemanticSegmentation, conditions: Conditions) -> float:
    """Return what a training step needs at most: counted tensors on a CPU, the allocator's peak on a GPU."""
    if conditions.device.type != "cuda":
        fixed, image = training_memory(copy.deepcopy(task), conditions)
        return fixed + image * conditions.batch_size
    before = torch.cuda.memory_allocated(conditions.device)
    torch.cuda.reset_peak_memory_stats(conditions.device)
    steps(copy.deepcopy(task), conditions, 2)()
    return torch.cuda.max_memory_allocated(conditions.device) - before


def table(times: dict[str, list[float]], memory: dict[str, float], count: int) -> str:
    """Lay out medians and ratios to the policy that trains everything."""
    rows = []
    for name, seconds in times.items():
        middle, size = statistics.median(seconds) / count * 1000, memory[name]
        time = 1 / ratio(times, name, ALL)
        rows.append(
            [name, f"{middle:.1f}", f"{time:.2f}x", f"{size / 1e6:.0f}", f"{size / memory[ALL]:.2f}x"]
        )
    text = text_table(["", "ms/step", "time", "MB", "memory"], rows)
    rounds = len(times[ALL])
    return f"{text}\n{rounds} rounds of turns, medians; load of the machine {os.getloadavg()[0]:.1f}"
