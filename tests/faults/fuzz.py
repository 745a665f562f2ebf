"""Damaged experiment files and damaged images: never a traceback, never a hang, never a wrong result in silence.

    python tests/faults/fuzz.py [--count 300] [--seed 0] [experiments] [files]

Each experiment file is a whole one with one thing changed: a name misspelt, a value of another kind, a part lost, moved
or doubled, or a byte of the text. It has to be refused with a message, or to be accepted with every value that it
states in force; then its objects are built. Each image or mask is a good one with bytes changed, lost or added. It has
to be refused with a message that names it, or to be read; where the format has checksums, to the same pixels.
"""

import argparse
import contextlib
import copy
import io
import logging
import math
import os
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import yaml
from PIL import Image

SECONDS = 60  # for one file; far more than any needs

EXPERIMENT = """
seed_everything: 3
name: fuzzed
model:
  network:
    class_path: lightning_seg.networks.unet.UNet
    init_args: {backbone: test_resnet, weights: false, decoder_channels: [32, 16, 16, 8, 8]}
  optimizer:
    class_path: torch.optim.SGD
    init_args: {lr: 0.01, momentum: 0.9, weight_decay: 0.0001}
  lr_scheduler:
    class_path: torch.optim.lr_scheduler.PolynomialLR
    init_args: {power: 0.9}
  loss:
    class_path: lightning_seg.training.losses.CrossEntropy
    init_args: {label_smoothing: 0.1}
  finetune:
    class_path: lightning_seg.training.finetune.policies.Full
    init_args: {backbone_lr_mult: 0.1}
data:
  class_path: lightning_seg.data.datasets.shapes.Shapes
  init_args:
    batch_size: 4
    crop_size: [32, 48]
    scale_range: [0.5, 2.0]
    hflip: 0.5
    image_size: [48, 40]
    train_images: 16
    num_workers: 0
    cache: none
    transforms:
      - {class_path: lightning_seg.data.transforms.randaugment.Cutout, init_args: {holes: 2, size: 0.2}}
trainer: {max_epochs: 2, accelerator: cpu, devices: 1, precision: 32-true, log_every_n_steps: 1, gradient_clip_val: 1.0}
checkpoint: {mode: max}
wandb: {project: fuzz, tags: [a, b]}
pictures: {count: 2}
checkpointing: {every_n_minutes: 5}
"""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3.7, 10**30, 1e308, 1e-320, math.nan, math.inf, -math.inf, "", " ", "abc",
    "1", "1e-3", "none", "null", "yes", "résumé 🦆", "\u202eabc", "a" * 5000, "../../../etc/passwd", "/dev/zero",
    "${HOME}", "os.system",
    "torch.nn.Linear", "lightning_seg.networks.unet", "lightning_seg.networks.deeplab.DeepLabV3Plus", [], [None], [1],
    [1, 2], [1, 2, 3], [-5, 0], ["a", "b"], [[1, 2], [3, 4]], {}, {"a": 1}, {"class_path": "os.system"},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "pwned"]}}, {"init_args": {"lr": 1}},
    {"class_path": "lightning_seg.networks.unet.UNet", "init_args": {"backbone": "resnet9000"}}, list(range(2000)),
]  # fmt: skip


class Finding(Exception):
    """Something that a user must not see."""


@contextlib.contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise if the block takes too long."""

    def stop(*_: Any) -> None:
        raise Finding(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Experiment files


def described(error: BaseException) -> str:
    """Say what an error is and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"


def paths(tree: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Yield the place of every part of a tree of mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def change_tree(tree: Any, draw: random.Random) -> Any:
    """Change one thing."""
    tree = copy.deepcopy(tree)
    path = draw.choice(list(paths(tree)))
    parent, key = at(tree, path[:-1]), path[-1]
    kind = draw.choice(("value", "value", "value", "lose", "name", "move", "nest"))
    if kind == "value":
        parent[key] = copy.deepcopy(draw.choice(VALUES))
    elif kind == "lose":
        del parent[key]
    elif kind == "name" and isinstance(parent, dict):
        letters = list(str(key))
        place = draw.randrange(len(letters))
        draw.choice(
            (lambda: letters.pop(place), lambda: letters.insert(place, "x"), lambda: letters.reverse())
        )()
        parent["".join(letters)] = parent.pop(key)
    elif kind == "move":
        other = draw.choice(list(paths(tree)))
        parent[key] = copy.deepcopy(at(tree, other))
    else:
        deep: Any = parent[key]
        for _ in range(draw.choice((1, 3, 60))):
            deep = draw.choice(({"a": deep}, [deep]))
        parent[key] = deep
    return tree


def change_text(text: str, draw: random.Random) -> bytes:
    """Change the text itself."""
    lines = text.strip().split("\n")
    place = draw.randrange(len(lines))
    kind = draw.choice(("double", "lose", "tab", "indent", "byte", "cut", "alias", "laughs", "object"))
    if kind == "double":
        lines.insert(place, lines[place])
    elif kind == "lose":
        del lines[place]
    elif kind == "tab":
        lines[place] = "\t" + lines[place]
    elif kind == "indent":
        lines[place] = draw.choice((" ", "  ", "      ")) + lines[place].strip()
    elif kind == "alias":
        lines.append("name: &a [*a]")
    elif kind == "laughs":
        lines.append("l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]")
        lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 10)]
    elif kind == "object":
        lines.append("name: !!python/object/apply:os.system ['touch pwned']")
    data = bytearray("\n".join(lines).encode() + b"\n")
    if kind == "byte":
        data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == "cut":
        data = data[: draw.randrange(len(data))]
    return bytes(data)


def try_experiment(file: Path) -> str:
    """Build an experiment and say how it went.

    Raises:
        Finding: It went wrong.
    """
    import torch

    from lightning_seg.errors import UserError
    from lightning_seg.experiment.experiment import Experiment

    run = file.parent / "run"
    run.mkdir(exist_ok=True)
    output = io.StringIO()
    try:
        with limited(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            built = Experiment(["-c", str(file)], run=run, tracked=False)
            optimizer = built.model.optimizer([torch.nn.Parameter(torch.zeros(1))])
            if built.model.lr_scheduler is not None:
                built.model.lr_scheduler(optimizer, 100)
    except UserError as error:
        message = str(error)
        if not message.strip() or "Traceback" in message or len(message) > 6000:
            raise Finding(f"a message of {len(message)} letters: {message[:200]!r}") from None
        return "refused"
    except Finding:
        raise
    except BaseException as error:
        raise Finding(described(error)) from error
    if Path("pwned").exists():
        raise Finding("code was run")
    stated = yaml.safe_load(file.read_text())
    resolved = yaml.safe_load(built.text)
    for path in paths(stated):
        value = at(stated, path)
        if not isinstance(value, dict | list) or not value:
            try:
                ours = at(resolved, path)
            except (KeyError, IndexError, TypeError):
                raise Finding(f"{'.'.join(map(str, path))}: {value!r} was accepted and left out") from None
            if not same(value, ours):
                raise Finding(f"{'.'.join(map(str, path))}: {value!r} was accepted as {ours!r}")
    return "accepted"


def same(stated: Any, ours: Any) -> bool:
    """Whether a value of the file is the value in force; numbers may be spelt as texts, classes in full."""
    if stated in ({}, []):
        return True  # nothing is stated
    if ours is None:
        return stated in (None, "null", "none")
    if isinstance(stated, bool) or isinstance(ours, bool):
        return stated is ours or str(stated).lower() == str(ours).lower()
    try:
        return float(stated) == float(ours) or math.isnan(float(stated))
    except (TypeError, ValueError, OverflowError):
        pass
    if isinstance(ours, dict) and set(ours) <= {"class_path", "init_args"}:
        return str(ours["class_path"]).endswith(str(stated))
    return stated == ours or (isinstance(stated, str) and bool(stated) and str(ours).endswith(stated))


def fuzz_experiments(count: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Try changed experiment files.

    Returns:
        How many were refused and accepted, and what was found.
    """
    draw = random.Random(seed)
    file = folder / "fuzzed.yaml"
    base = yaml.safe_load(EXPERIMENT)
    outcomes: Counter = Counter()
    findings = []
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    file.write_text(EXPERIMENT)
    assert try_experiment(file) == "accepted"
    for number in range(count):
        if draw.random() < 0.75:
            content = yaml.safe_dump(change_tree(base, draw), allow_unicode=True, sort_keys=False).encode()
        else:
            content = change_text(EXPERIMENT, draw)
        file.write_bytes(content)
        try:
            outcomes[try_experiment(file)] += 1
        except Finding as finding:
            kept = folder / f"finding-{number}.yaml"
            kept.write_bytes(content)
            findings.append(f"{kept}: {finding}")
            outcomes["finding"] += 1
    return outcomes, findings


# Image files

SUMS = {"png", "png-grey", "png-palette", "png-deep"}  # kinds whose files have checksums of the pixels


def pictures(draw: random.Random) -> dict[str, bytes]:
    """Make a good file of every kind."""
    rng = np.random.default_rng(draw.randrange(2**32))
    color = np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((5, 5, 1), np.uint8))
    grey = np.kron(rng.integers(0, 6, (6, 8), np.uint8), np.ones((5, 5), np.uint8))
    palette = Image.fromarray(grey)
    palette.putpalette(rng.integers(0, 256, 768).tolist())
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    made = {
        "png": (Image.fromarray(color), "png", {}),
        "jpg": (Image.fromarray(color), "jpeg", {}),
        "bmp": (Image.fromarray(color), "bmp", {}),
        "gif": (Image.fromarray(grey), "gif", {}),
        "webp": (Image.fromarray(color), "webp", {"lossless": True}),
        "ppm": (Image.fromarray(color), "ppm", {}),
        "tif": (Image.fromarray(color), "tiff", {}),
        "tif-deflate": (Image.fromarray(color), "tiff", {"compression": "tiff_adobe_deflate"}),
        "tif-lzw": (Image.fromarray(grey), "tiff", {"compression": "tiff_lzw"}),
        "png-grey": (Image.fromarray(grey), "png", {}),
        "png-palette": (palette, "png", {}),
        "png-deep": (deep, "png", {}),
    }
    files = {}
    for kind, (picture, form, options) in made.items():
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        files[kind] = buffer.getvalue()
    return files


def change_bytes(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Damage a file."""
    content = bytearray(data)
    place = draw.randrange(min(len(content), draw.choice((40, 200, 10**9))))  # headers more often
    kind = draw.choice(
        ("flip", "flip", "many", "cut", "zero", "lose", "add", "number", "join", "other", "empty")
    )
    if kind == "flip":
        content[place] ^= 1 << draw.randrange(8)
    elif kind == "many":
        for _ in range(20):
            content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == "cut":
        del content[place:]
    elif kind == "zero":
        content[place : place + 50] = bytes(len(content[place : place + 50]))
    elif kind == "lose":
        del content[place : place + draw.choice((1, 4, 100))]
    elif kind == "add":
        content[place:place] = draw.randbytes(draw.choice((1, 4, 100)))
    elif kind == "number":  # what may be a size
        content[place : place + 4] = draw.choice(
            (b"\xff" * 4, b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\x0f\x42\x40")
        )
    elif kind == "join":
        content += draw.choice(others)
    elif kind == "other":
        content = bytearray(draw.choice(others))
    else:
        content = bytearray()
    return bytes(content)


def try_file(path: Path, kind: str, good: bytes) -> str:
    """Read a file as image and as mask and say how it went.

    Raises:
        Finding: It went wrong.
    """
    from lightning_seg.data.classes import ColorMask
    from lightning_seg.data.io import read_image, read_mask
    from lightning_seg.errors import UserError

    colors = ColorMask([(0, 0, 0), (255, 255, 255)])
    words = set()
    intact = path.with_name(f"intact{path.suffix}")
    intact.write_bytes(good)
    for name, read in (("image", read_image), ("mask", read_mask), ("colors", colors.read)):
        try:
            with limited(), warnings.catch_warnings(action="ignore"):
                array = read(path)
        except UserError as error:
            if path.name not in str(error) or "Traceback" in str(error):
                raise Finding(f"{name}: the message names no file: {error}") from None
            words.add("refused")
            continue
        except Finding:
            raise
        except BaseException as error:
            raise Finding(f"{name}: {described(error)}") from error
        if array.dtype != np.uint8 or array.ndim != (3 if name == "image" else 2) or array.size == 0:
            raise Finding(f"{name}: an array of {array.dtype} {array.shape}")
        with contextlib.suppress(UserError):
            if np.array_equal(array, read(intact)):
                words.add("the same")
                continue
        if kind in SUMS:
            raise Finding(f"{name}: other pixels, and nobody was told")
        words.add("other pixels")
    return " and ".join(sorted(words))


def fuzz_files(count: int, seed: int, folder: Path) -> tuple[Counter, list[str]]:
    """Try damaged images and masks; see `fuzz_experiments`."""
    draw = random.Random(seed)
    outcomes: Counter = Counter()
    findings = []
    for number in range(count):
        files = pictures(draw)
        kind = draw.choice(list(files))
        content = change_bytes(files[kind], list(files.values()), draw)
        path = folder / f"file-{number}.{kind.partition('-')[0]}"
        path.write_bytes(content)
        replaced = content in files.values()  # a good file of another kind, or damaged to what it was
        try:
            outcomes[f"{kind}: {try_file(path, '' if replaced else kind, files[kind])}"] += 1
            path.unlink()
        except Finding as finding:
            findings.append(f"{path}: {finding}")
            outcomes["finding"] += 1
    return outcomes, findings


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["experiments", "files"])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    found = False
    for what in chosen.what:
        fuzz = {"experiments": fuzz_experiments, "files": fuzz_files}[what]
        outcomes, findings = fuzz(chosen.count, chosen.seed, folder)
        print(f"{what}: {sum(outcomes.values())} tried")
        for name, number in sorted(outcomes.items()):
            print(f"  {number:4}  {name}")
        print("\n".join(findings))
        found |= bool(findings)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
