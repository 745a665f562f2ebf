"""Try the networks of other libraries and of papers, from training to export, and write docs/networks.md.

Run ``python docs/scripts/networks_table.py [ROW ...]`` after a library or `Adapter` has changed.
"""

import hashlib
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stdout, suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # where class paths of docs.scripts.papers are found

from lightning_seg import Adapter, Experiment, UserError, resume  # noqa: E402
from lightning_seg.experiment.loading import load_run  # noqa: E402
from lightning_seg.experiment.trainer import silence_libraries  # noqa: E402
from lightning_seg.inference.export.check import noise  # noqa: E402
from lightning_seg.inference.export.write import validation_images, write  # noqa: E402
from lightning_seg.networks.base import Network  # noqa: E402
from lightning_seg.runs.directory import LAST_CHECKPOINT, TEST_IMAGES, TEST_SCORES, JsonObject  # noqa: E402
from lightning_seg.training.checkpoint_io import read  # noqa: E402

PAGE = ROOT / "docs/networks.md"
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "transformers", "onnx", "onnxruntime")
SIZE = 96, 128  # for which a network is exported that cannot be for any
COLUMNS = ("train", "freeze", "resume", "two processes", "export")
KILLED_AT = 3  # of four steps
DATA = {
    "class_path": "Shapes",
    "init_args": {
        "image_size": [64, 64], "crop_size": [64, 64], "train_images": 8, "val_images": 2, "test_images": 5,
        "batch_size": 4, "num_workers": 0,
    },
}  # fmt: skip

HEAD = """# Networks of other libraries, tried

Made by `python docs/scripts/networks_table.py` with {versions}.
The rows are all networks of segmentation-models-pytorch (`smp`), the three architectures of torchvision, four models of
transformers, and three networks as the repositories of their papers write them (`docs/scripts/papers.py`). All are
small, with random weights, and named in the YAML by their class paths, as [own_code.md](own_code.md) says; the images
are drawn, 64x64, on a CPU.

- **backbone**: the part that policies freeze; found, but for `UNet` and `BiSeNet`, where it is stated.
- **train**: after four steps all weights are finite, and those of the backbone have changed.
- **freeze**: with the policy `Frozen` the hash of the backbone's state, BatchNorm's statistics included, is that from
  before the training, and the rest has changed.
- **resume**: stopped after three of the four steps, within an epoch, and continued, a run ends with the weights, the
  optimizer's state and the test.json of the one that nothing happened to, bit for bit.
- **two processes**: the confusion matrix of each of the five test images, and all scores, are those of one process.
- **export**: of the ONNX file onnxruntime makes the same label for every pixel, of validation images and of noise of
  other sizes, alone and in a batch. Where that fails, the file is written for images of one size and compared on noise.

"""
_DEPTHS: JsonObject = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
TRANSFORMERS: dict[str, JsonObject] = {  # small configurations
    "Segformer": {**_DEPTHS, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    "UperNet": {
        "backbone_config": {"model_type": "convnext", **_DEPTHS, "out_features": _STAGES},
        "hidden_size": 16, "auxiliary_in_channels": 24, "auxiliary_channels": 8, "pool_scales": [1, 2],
    },
    "DPT": {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
        "backbone_out_indices": [0, 1, 2, 3], "image_size": 64, "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
    },
    "MobileViT": {
        "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "aspp_out_channels": 16,
        "num_attention_heads": 2,
    },
}  # fmt: skip
PAPERS: dict[str, JsonObject] = {
    "UNet": {"init_args": {"width": 8}, "backbone": ["inc", "down1", "down2", "down3", "down4"]},
    "ERFNet": {},
    "BiSeNet": {"init_args": {"width": 8}, "backbone": "cp"},
}


def networks() -> dict[str, JsonObject]:
    """Return ``model.network`` of each row: all of smp, torchvision's architectures, some of transformers, papers'."""
    import segmentation_models_pytorch as smp
    import torchvision

    found: dict[str, JsonObject] = {}
    for cls in smp.MODEL_ARCHITECTURES_MAPPING.values():
        # DPT is for vision transformers alone
        encoder = "tu-vit_tiny_patch16_224" if cls.__name__ == "DPT" else "tu-test_resnet"
        arguments: JsonObject = {"encoder_name": encoder, "encoder_weights": None}
        if cls.__name__ == "DPT":
            arguments["dynamic_img_size"] = True
        found[f"smp.{cls.__name__}"] = {
            "class_path": f"segmentation_models_pytorch.{cls.__name__}",
            "init_args": arguments,
        }
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        if "resnet101" not in name and name != "deeplabv3_resnet50":  # the same class with another backbone
            found[f"torchvision.{name}"] = {
                "class_path": f"torchvision.models.segmentation.{name}",
                "init_args": {"weights_backbone": None},
            }
    for name, config in TRANSFORMERS.items():
        class_path = f"transformers.{name}ForSemanticSegmentation"
        found[class_path] = {"class_path": class_path, "init_args": {"config": config}}
    for name, more in PAPERS.items():
        found[f"papers.{name}"] = {"class_path": f"docs.scripts.papers.{name}", **more}
    return found


class Killed(BaseException):
    """What a kill is for a program: nobody catches it."""


class Kill(Callback):
    """Ends a training in the middle of an epoch, as a kill would."""

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, number: int
    ) -> None:
        """Kill."""
        if trainer.global_step == KILLED_AT:
            raise Killed


class Attempt:
    """A network on its way from training to export.

    Args:
        network: The setting ``model.network``.
        folder: For its runs.

    Attributes:
        run: Its run that nothing happened to, once it is trained.
        backbone: What its policies freeze.
        failed: Why a column does not hold, or how far, for those that do not hold whole.
    """

    def __init__(self, network: Mapping[str, Any], folder: Path) -> None:
        self.network, self.folder = network, folder
        self.run: Path | None = None
        self.backbone = "–"
        self.failed: dict[str, str] = {}

    def do(self) -> "Attempt":
        """Try all columns but that of two processes."""
        for column in COLUMNS:
            if column != "train" and self.run is None:
                self.failed[column] = "–"
                continue
            try:
                getattr(self, f"_{column.replace(' ', '_')}")()
            except Exception as error:  # a network's own, too
                traceback.print_exc()
                self.failed[column] = _reason(error)
        return self

    def begin(self, name: str, finetune: str) -> Experiment:
        """Make a run of four steps, which is saved before it may be killed."""
        return Experiment.from_settings(
            name,
            model={
                "network": self.network,
                "finetune": finetune,
                "optimizer": {"class_path": "SGD", "init_args": {"lr": 0.01, "momentum": 0.9}},
                "lr_scheduler": "Poly",
            },
            data=DATA,
            trainer={"max_epochs": 2, "accelerator": "cpu", "devices": 1, "precision": "32-true"},
            checkpointing={"every_n_steps": KILLED_AT},
            overfitting={"train_eval_fraction": 0},
            tracking=[],
            runs=str(self.folder),
        )  # fmt: skip

    def _train(self) -> None:
        experiment = self.begin("whole", "Full")
        network = experiment.model.network
        assert isinstance(network, Adapter)
        self.backbone = network.backbone.name
        before = _copied(network)
        self.run = experiment.train()
        after = _state(self.run)
        wrong = [key for key, value in after.items() if not value.isfinite().all()]
        stays = all(torch.equal(before[key], after[key]) for key in before if key.startswith("backbone."))
        if wrong or stays:
            raise UserError(f"{wrong[0]} is not finite" if wrong else "its backbone has not changed")

    def _freeze(self) -> None:
        experiment = self.begin("frozen", "Frozen")
        before = _copied(experiment.model.network)
        after = _state(experiment.train())
        frozen = [key for key in before if key.startswith("backbone.")]
        if _digest(before, frozen) != _digest(after, frozen):
            raise UserError("its backbone has changed")
        if _digest(before, sorted(before)) == _digest(after, sorted(before)):
            raise UserError("nothing has changed")

    def _resume(self) -> None:
        experiment = self.begin("killed", "Full")
        experiment.trainer.callbacks.append(Kill())
        with suppress(Killed):
            experiment.train()
        run = experiment.run_directory
        assert self.run is not None and not (run / TEST_SCORES).exists()
        resume(run)
        one, other = (read(folder / LAST_CHECKPOINT) for folder in (self.run, run))
        for part in ("state_dict", "optimizer_states"):
            if not _same(one[part], other[part]):
                raise UserError(f"{part} of the resumed run are others")
        if (self.run / TEST_SCORES).read_text() != (run / TEST_SCORES).read_text():
            raise UserError("the test scores of the resumed run are others")

    def _two_processes(self) -> None:
        assert self.run is not None
        alone = _scores(self.run)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        fork = multiprocessing.get_context("fork")  # everything is imported
        both = [fork.Process(target=_test, args=(self.run, rank, port)) for rank in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(600)
        if any(process.exitcode for process in both):
            raise UserError(
                "it fails: " + " ".join(file.read_text() for file in self.run.glob("failed*.txt"))
            )
        if _scores(self.run) != alone:
            raise UserError("the scores are others")

    def _export(self) -> None:
        assert self.run is not None
        loaded = load_run(self.run)
        network = loaded.task.network
        assert isinstance(network, Network)
        file, images = self.folder / "model.onnx", [*validation_images(loaded.data), *noise()]
        try:
            _, checks = write(network, file, "onnx", False, torch.uint8, {}, images)
        except UserError:
            _, checks = write(network, file, "onnx", False, torch.uint8, {}, noise(size=SIZE), size=SIZE)
            self.failed["export"] = "for images of one size, by `--size`"
        if (least := min(one.agreement for one in checks)) < 1:
            raise UserError(f"{100 * least:.3f} % of the labels are equal")


def _test(run: Path, rank: int, port: int) -> None:
    """Test a run as one of two processes."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1",
        "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # as importing it anew would have it
    try:
        loaded = load_run(run, ["--trainer.devices=2", "--trainer.strategy=ddp"])
        trainer = loaded.make_trainer()
        assert trainer.world_size == 2
        trainer.test(**loaded.trainer_arguments, verbose=False)
    except BaseException as error:
        (run / f"failed{rank}.txt").write_text(_reason(error))
        raise


def _scores(run: Path) -> list[str]:
    """Return the counts of each image, and the scores and scores of each class, as text."""
    written = json.loads((run / TEST_SCORES).read_text())
    counts = np.load(run / TEST_IMAGES)["confusion"]
    return [str(counts.tolist()), str(written["scores"]), str(written["per_class"])]


def _copied(network: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def _state(run: Path) -> dict[str, Tensor]:
    """Return the network's state in the last checkpoint of a run."""
    state = read(run / LAST_CHECKPOINT)["state_dict"]
    return {key.removeprefix("network."): v for key, v in state.items() if key.startswith("network.")}


def _digest(state: Mapping[str, Tensor], keys: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for key in keys:
        digest.update(key.encode() + state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    text = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= 220 else f"{text[:217]}..."


def line(name: str, one: Attempt) -> str:
    """Render the row of a network."""
    cells = [one.failed.get(column, "yes") for column in COLUMNS]
    return f"| `{name}` | {one.backbone} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Write the page, or those of its rows that are asked for."""
    warnings.simplefilter("ignore")
    silence_libraries()
    torch.set_num_threads(1)
    known = networks()
    for name in arguments or known:
        with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(StringIO()):
            one = Attempt(known[name], Path(folder)).do()
        print(name, one.failed, flush=True)
        _write({name: line(name, one)}, known)


def _write(new: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """Put rows into the page."""
    written = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = {text.split("`")[1]: text for text in written if text.startswith("| `")} | new
    head = ["network", "backbone", *COLUMNS]
    lines = [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(rows[name] for name in known if name in rows),
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    PAGE.write_text(HEAD.format(versions=versions) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
