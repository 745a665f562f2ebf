"""What freezing saves: step time and memory of a training step under several policies, as ratios to training all."""

import argparse
import copy
import os
import statistics
from collections.abc import Callable

import torch

from lightning_seg.bench.network_profile import Conditions, training_memory
from lightning_seg.bench.turns import ratio, take_turns
from lightning_seg.cli.main import config_arguments
from lightning_seg.experiment.experiment import DataOnly, device_of, quiet
from lightning_seg.tasks.semantic import SemanticSegmentation
from lightning_seg.training.finetune.policies import Frozen, FrozenStages, Full

ALL = "nothing frozen"


def main(args: list[str]) -> None:
    """Measure the training step of an experiment, ``NAME [--rounds 5] [--steps 3] [--key=value ...]``."""
    parser = argparse.ArgumentParser(prog="lightning-seg bench frozen NAME", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5, help="How often each policy takes its turn.")
    parser.add_argument("--steps", type=int, default=3, help="Training steps in a turn.")
    options, rest = parser.parse_known_args(args)
    experiment = DataOnly(quiet(config_arguments(rest)))
    data, trainer = experiment.datamodule, experiment.config.trainer
    conditions = Conditions(
        size=data.crop_size,
        batch_size=data.batch_size,
        device=device_of(trainer.accelerator),
        bf16=str(trainer.precision).startswith("bf16"),
    )
    tasks = under_policies(experiment.model, conditions.device)
    memory = {name: bytes_of_training(task, conditions) for name, task in tasks.items()}
    ways = {name: steps(task, conditions, options.steps) for name, task in tasks.items()}
    times = take_turns(ways, options.rounds)
    network = experiment.model.network
    print(
        f"one training step: {type(network).__name__}, {getattr(network.backbone, 'name', '')}, {conditions}"
    )
    print(table(times, memory, options.steps))


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
    images = conditions.images(conditions.batch_size)
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
    width = max(map(len, times))
    lines = [f"{'':{width}}  ms/step  time   MB      memory"]
    for name, seconds in times.items():
        middle, size = statistics.median(seconds) / count * 1000, memory[name]
        time = 1 / ratio(times, name, ALL)
        lines.append(
            f"{name:{width}}  {middle:7.1f}  {time:4.2f}x  {size / 1e6:6.0f}  {size / memory[ALL]:5.2f}x"
        )
    rounds = len(times[ALL])
    lines.append(f"{rounds} rounds of turns, medians; load of the machine {os.getloadavg()[0]:.1f}")
    return "\n".join(lines)
