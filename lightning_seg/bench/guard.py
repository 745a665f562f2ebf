"""A short form of the benchmarks for continuous integration: fails where a ratio has fallen for good."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_seg.bench import evaluate, samples, start, train
from lightning_seg.bench.timing import Goal, ratio, table, take_turns
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.shapes import Shapes
from lightning_seg.data.transforms.color import ColorJitter
from lightning_seg.experiment.experiment import TaskAndData

# A quarter or more below what a quiet machine of two cores measures: noise passes, a real loss does not.
TRAIN = (Goal(train.OURS, train.BARE, 0.8), Goal(train.FROZEN, train.OURS, 1.3))
SCORES = (
    Goal(evaluate.LOGITS, evaluate.USUAL_LOGITS, 6),
    Goal(evaluate.LABELS, evaluate.USUAL_LABELS, 25),
    Goal(evaluate.DETERMINISTIC, evaluate.LOGITS, 0.8),
)
VALIDATION = (Goal(evaluate.VALIDATION, evaluate.FORWARD, 0.8),)
# Of files the other is torchvision, not decoding alone: augmenting waits for memory and decoding does not, so that
# their ratio is 0.76 on one machine and 0.50 on another with the same code; beside torchvision it is 3.2 on both.
DATA = (Goal(samples.CACHED, samples.TORCHVISION, 8), Goal(samples.FILES, samples.TORCHVISION, 2.4))
START = (Goal(start.HELP, start.IMPORT, 8), Goal(start.ERROR, start.IMPORT, 0.7))


def run(experiment: TaskAndData, rounds: int) -> list[str]:
    """Compare in short turns and print the tables.

    Args:
        experiment: The quickstart, with batches of 8.
        rounds: How often each way is timed.

    Returns:
        The ratios that are below their floor, twice.
    """
    bench = train.TrainBench(experiment, 3, processor_time=True)
    size = (256, 256)
    train.silence()
    below = guard(_named(bench.ways(), TRAIN), train.BARE, TRAIN, rounds, 8)
    below += guard(evaluate.scoring(4, size, 21, bench), evaluate.USUAL_LOGITS, SCORES, rounds, 4)
    below += guard(evaluate.validation(bench, size), evaluate.FORWARD, VALIDATION, rounds, 8)
    with tempfile.TemporaryDirectory() as folder:
        data, images = samples.sample_ways(_photographs(Path(folder)))
        below += guard(data, samples.TORCHVISION, DATA, rounds, images)
        below += guard(_named(start.ways(Path(folder)), START), start.IMPORT, START, rounds)
    return below


def guard(
    ways: Mapping[str, Callable[[], float]], base: str, floors: tuple[Goal, ...], rounds: int, unit: int = 1
) -> list[str]:
    """Time ways in turns and print the table; what is below a floor is measured once more before it is believed.

    Args:
        ways: Functions that return seconds.
        base: The way whose speed is 1.
        floors: The least ratios.
        rounds: How often each way is timed.
        unit: Images in what is timed.

    Returns:
        The ratios that are below their floor, twice.
    """
    times = take_turns(ways, rounds)
    print(table(times, base, floors, unit) + "\n", flush=True)
    if not _below(times, floors):
        return []
    times = take_turns(ways, 2 * rounds + 1)
    print("once more, because of what was missed\n" + table(times, base, floors, unit) + "\n", flush=True)
    return _below(times, floors)


def _named(
    ways: Mapping[str, Callable[[], float]], floors: tuple[Goal, ...]
) -> dict[str, Callable[[], float]]:
    """Leave out what no floor is about."""
    names = {name for floor in floors for name in (floor.ours, floor.other)}
    return {name: way for name, way in ways.items() if name in names}


def _below(times: Mapping[str, list[float]], floors: tuple[Goal, ...]) -> list[str]:
    speeds = [(floor, ratio(times, floor.ours, floor.other)) for floor in floors]
    return [
        f"{floor.ours} / {floor.other} is {speed:.2f}x, not {floor.least:g}x"
        for floor, speed in speeds
        if speed < floor.least
    ]


def _photographs(folder: Path) -> Folder:
    """Write drawn images of CamVid's size, with grain, as PNG files, and return them as a data set."""
    drawn = Shapes((360, 480), 16, batch_size=8, crop_size=(320, 320))
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind / "train").mkdir(parents=True)
    for i, sample in enumerate(drawn.list_samples("train")):
        image, mask = drawn.read(sample)
        grainy = np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / "images" / "train" / f"{i}.png")
        Image.fromarray(mask).save(folder / "masks" / "train" / f"{i}.png")
    color = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    names = list(drawn.class_names)
    return Folder(str(folder), names, batch_size=8, crop_size=(320, 320), scale_range=(0.5, 2.0), color=color)
