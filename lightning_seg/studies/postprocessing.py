"""What does a chain of post-processing change in the scores of a run, and is that certain?"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import track

from lightning_seg.data.base import SegmentationData
from lightning_seg.data.dataset import Split
from lightning_seg.errors import UserError
from lightning_seg.experiment.loading import load_run
from lightning_seg.metrics.boundary import BoundaryF1
from lightning_seg.metrics.images import counted, overlap
from lightning_seg.metrics.scores import miou_and_iou
from lightning_seg.postprocess.effect import ALONE, Prediction, compare, measure
from lightning_seg.postprocess.recipe import Recipe, read_recipe, tune
from lightning_seg.runs.directory import JsonObject

Part = tuple[str, list[int]]
"""A split and the places of the images in it that are used."""


@dataclass(frozen=True)
class PostprocessingStudy:
    """How to judge a chain of post-processing.

    Attributes:
        chain: The YAML file of its steps.
        each: Judge each step by itself instead of the chain.
        trials: Trials of tuning for mIoU on the validation split; 0 takes the settings as they are.
        tune_images: How many images of that split to tune on; None for all.
        split: Report on this split; None for the test split. Of a split that is tuned on the second half is reported.
        block: Neighboring images that are resampled together.
    """

    chain: Path
    each: bool = False
    trials: int = 0
    tune_images: int | None = None
    split: str | None = None
    block: int = 1

    def apply(self, run: Path, settings: Sequence[str] = ()) -> str:
        """Judge the chain on a run, write the report into its directory and return it.

        Args:
            run: The run directory.
            settings: Settings to change, ``--key=value``.

        Raises:
            UserError: The run gives no class to each pixel, or there is nothing to tune.
        """
        loaded = load_run(run, settings)
        model, data = loaded.semantic_task().eval(), loaded.data
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        recipe = read_recipe(self.chain, data.class_names)
        if self.trials and not recipe.tunable:
            raise UserError(
                f"{self.chain} names no ranges to tune in; see the files in experiments/postprocess/."
            )
        to_tune_on, to_report_on = self._parts(data)
        recipes, remarks = recipe.single() if self.each else [recipe], list[str]()
        if self.trials:
            predictions = predict(model, data, to_tune_on)
            recipes, remarks = _tuned(recipes, data.class_names, predictions, self.trials)
        boundary = BoundaryF1()
        chains = [(r.name, r.build(data.class_names)) for r in recipes]
        rows, sentences = compare(measure(predict(model, data, to_report_on), chains, boundary), self.block)
        protocol = {
            "run": str(run),
            "chain": str(self.chain),
            "data": type(data).__name__,
            "split": to_report_on[0],
            "images": len(to_report_on[1]),
            "use_of_splits": self._use_of_splits(data, to_tune_on, to_report_on),
            "tuning": remarks,
            "temperature": model.temperature,
            "boundary_f1": f"tolerance {100 * boundary.tolerance:g} % of the diagonal",
            "block": self.block,
        }
        text = _text(protocol, rows, sentences)
        for row in rows:
            row["iou"] = dict(zip(data.class_names, row["iou"], strict=True))
        steps = [step for r in recipes for step in r.steps]
        content = {"protocol": protocol, "rows": rows, "sentences": sentences, "steps": steps}
        stem = f"postprocess-{self.chain.stem}"
        (run / f"{stem}.md").write_text(text + "\n")
        (run / f"{stem}.json").write_text(json.dumps(_plain(content), indent=2) + "\n")
        (run / f"{stem}.yaml").write_text(yaml.safe_dump(steps, sort_keys=False))
        return f"{text}\n\n{run}/{stem}.md, .json, and the steps in .yaml"

    def _parts(self, data: SegmentationData) -> tuple[Part, Part]:
        """Choose the images to tune on and those to report on."""
        split = self.split or data.test_split
        try:
            images = len(data.samples(split))
        except UserError as error:
            if split == data.val_split:
                raise
            raise UserError(f"{error}\nTo report on {data.val_split!r}: --split {data.val_split}") from None
        report = list(range(images))
        if not self.trials:
            return (data.val_split, []), (split, report)
        tuning = list(range(len(data.samples(data.val_split))))
        if split == data.val_split:
            if images < 2:
                raise UserError(f"the split {split!r} has one image: too few to tune on one half of them.")
            tuning, report = tuning[: images // 2], report[images // 2 :]
        if self.tune_images and self.tune_images < len(tuning):
            tuning = [tuning[i * len(tuning) // self.tune_images] for i in range(self.tune_images)]
        return (data.val_split, tuning), (split, report)

    def _use_of_splits(self, data: SegmentationData, tuning: Part, report: Part) -> str:
        """Say which images were used for what."""
        count = len(data.samples(report[0]))
        part = "" if len(report[1]) == count else f", the second half of its {count}"
        words = f"Reported on {len(report[1])} images of {report[0]}{part}."
        if report[0] == data.val_split:
            words += f" {report[0]} has also chosen the checkpoint."
        if not self.trials:
            return f"{words} Settings as the chain gives them."
        spaced = f", {len(tuning[1])} of them" if self.tune_images else ""
        whole = "its first half" if report[0] == tuning[0] else "all of it"
        return f"Tuned in {self.trials} trials on {tuning[0]} ({whole}{spaced}), for mIoU. {words}"


def predict(model: Any, data: SegmentationData, part: Part) -> Iterator[Prediction]:
    """Predict images of a split; each is read, predicted and forgotten before the next."""
    split = Split(data, part[0])
    console = Console(stderr=True)
    for place in track(
        part[1], f"{part[0]}:", console=console, transient=True, disable=not console.is_terminal
    ):
        sample = split[place]
        with torch.inference_mode():
            logits = model(sample["image"][None].to(model.device))
        probabilities = (logits.float() / model.temperature).softmax(1)[0].cpu().numpy()
        image = sample["image"].permute(1, 2, 0).contiguous().numpy()
        yield probabilities, split.data.pixels.picture(image), sample["mask"].numpy()


def _tuned(
    recipes: list[Recipe], class_names: tuple[str, ...], predictions: Iterable[Prediction], trials: int
) -> tuple[list[Recipe], list[str]]:
    """Tune each recipe for the mIoU of the predictions, which lie in a file for each image meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        files: list[Path] = []
        for probabilities, image, truth in predictions:
            files.append(Path(folder, f"{len(files)}.npz"))
            np.savez(files[-1], p=probabilities.astype(np.float16), image=image, truth=truth)

        def miou(recipe: Recipe) -> float:
            chain = recipe.build(class_names)
            total = np.zeros((len(class_names), 3), np.int64)
            for file in files:
                with np.load(file) as kept:
                    probabilities, image, truth = kept["p"].astype(np.float32), kept["image"], kept["truth"]
                labels = chain(probabilities, image)
                total += overlap(counted(labels, truth), truth, len(class_names))
            return float(miou_and_iou(total)[0])

        alone = miou(Recipe(ALONE, [], []))
        tuned, remarks = [], []
        for recipe in recipes:
            best = tune(recipe, miou, trials) if recipe.tunable else recipe
            changes = [
                f"{name.partition('.')[2]} {_short(recipe.settings[name])} -> {_short(value)}"
                for name, value in best.settings.items()
            ]
            remarks.append(
                f"{recipe.name}: {', '.join(changes) or 'nothing to tune'}; mIoU on the images tuned on "
                f"{100 * miou(recipe):.1f} -> {100 * miou(best):.1f}, {ALONE} {100 * alone:.1f}"
            )
            print(remarks[-1], flush=True)
            tuned.append(best)
    return tuned, remarks


def _text(protocol: JsonObject, rows: list[JsonObject], sentences: list[str]) -> str:
    """Write the report as Markdown that can be read as it is."""
    table = [["", "mIoU %", "change", "", "boundary F1 %", "change", "", "ms an image"]]
    for row in rows:
        cells = [row["name"]]
        for name in ("miou", "boundary_f1"):
            change = ""
            if f"{name}_change" in row:
                change = f"{row[f'{name}_change']:+.2f} ± {row[f'{name}_half_width']:.2f}"
            cells += [f"{row[name]:.1f}", change, row.get(f"{name}_verdict", "")]
        table.append([*cells, f"{row['milliseconds']:.0f}"])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    left = (0, 3, 6)
    lines = ["| " + " | ".join(_aligned(line, widths, left)) + " |" for line in table]
    rule = [
        "-" * w if i in left else "-" * (w - 1) + ":" for i, w in enumerate(map(lambda w: max(w, 3), widths))
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    unanswered = [
        f"{row['name']} predicts no class for {100 - row['answered']:.1f} % of the pixels: false negatives."
        for row in rows
        if row["answered"] < 100
    ]
    block = "" if protocol["block"] == 1 else f" in blocks of {protocol['block']}"
    temperature = protocol["temperature"]
    calibrated = "" if temperature == 1 else f" Probabilities are calibrated: temperature {temperature:.3g}."
    holm = f"; verdicts are corrected for {len(rows) - 1} comparisons (Bonferroni)" if len(rows) > 2 else ""
    return "\n".join(
        [
            f"# Post-processing of {protocol['run']} by {protocol['chain']}",
            "",
            f"{protocol['data']}. {protocol['use_of_splits']}{calibrated}",
            f"Boundary F1: {protocol['boundary_f1']}. Changes with 95 % intervals over other images{block}{holm}.",
            "",
            *lines,
            "",
            *[f"- {line}" for line in [*sentences, *unanswered]],
            *(["", "Tuning:", *[f"- {line}" for line in protocol["tuning"]]] if protocol["tuning"] else []),
        ]
    )


def _aligned(line: list[str], widths: list[int], left: tuple[int, ...]) -> list[str]:
    return [
        cell.ljust(max(w, 3)) if i in left else cell.rjust(max(w, 3))
        for i, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN: a score that does not exist is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
