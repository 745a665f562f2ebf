"""Metrics of torchmetrics among the scores beyond overlap: what they want to be given, and what their value depends on.

As for losses, a copy is tried before training: whether it takes labels, probabilities or one map a class; whether its
value changes with what stands under `ignore_index`, with the size of batches, or with how images lie on processes.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError

Pair = tuple[Tensor, Tensor]


def _labels(probabilities: Tensor, labels: Tensor, truth: Tensor) -> Pair:
    return labels.long(), truth.long()


def _probabilities(probabilities: Tensor, labels: Tensor, truth: Tensor) -> Pair:
    return probabilities, truth.long()


def _second(probabilities: Tensor, labels: Tensor, truth: Tensor) -> Pair:
    return probabilities[:, 1], truth.long()


def _maps(probabilities: Tensor, labels: Tensor, truth: Tensor) -> Pair:
    return _one_hot(labels, probabilities.shape[1]), _one_hot(truth, probabilities.shape[1])


def _probability_maps(probabilities: Tensor, labels: Tensor, truth: Tensor) -> Pair:
    return probabilities, _one_hot(truth, probabilities.shape[1])


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return one map a class (B, C, H, W), `IGNORE_INDEX` in all of them where nothing counts."""
    void = labels == IGNORE_INDEX
    hot = F.one_hot(torch.where(void, 0, labels.long()), classes).movedim(-1, 1)
    return torch.where(void[:, None], IGNORE_INDEX, hot)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Pair]] = {
    "labels": _labels,
    "probabilities": _probabilities,
    "probability of the second class": _second,
    "one map a class": _maps,
    "probabilities, truth one map a class": _probability_maps,
}
_INPUT_FORMATS = {"index": ["labels"], "one-hot": ["one map a class"]}  # of torchmetrics.segmentation


class TorchMetric:
    """A metric of torchmetrics, given one image at a time in the form that it wants.

    Args:
        metric: The metric.
        num_classes: C.

    Attributes:
        form: What it is given, one of `FORMS`.
        ignores: Whether its value is independent of what stands under `ignore_index`, and of how much does.
        depends_on: What else its value depends on: "batch", "processes", or both.

    Raises:
        UserError: It takes none of the forms, or its value is neither a number nor one a class.
    """

    def __init__(self, metric: Metric, num_classes: int) -> None:
        self.metric = metric
        self.num_classes = num_classes
        self.name = type(metric).__name__
        self.void_images = 0
        self._device = torch.device("cpu")
        self._tried: dict[str, float | np.ndarray] = {}  # its values on made-up images
        with torch.random.fork_rng(devices=()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            images = self._images()
            self.form = self._find_form(images)
            self.ignores = self._find_ignore(images)
            self.depends_on = self._find_dependence(images)

    def start(self, device: torch.device) -> None:
        """Forget everything, on the device of the evaluation."""
        self._device = device
        self.metric.to(device)
        self.metric.reset()
        self.void_images = 0

    def update(self, probabilities: Tensor, labels: Tensor, truth: Tensor) -> None:
        """Add images one by one: probabilities (B, C, H, W), labels and truth (B, H, W)."""
        for i in range(len(truth)):
            if not self.ignores and bool((truth[i] == IGNORE_INDEX).any()):
                self.void_images += 1
                continue
            one = slice(i, i + 1)
            self.metric.update(*FORMS[self.form](probabilities[one], labels[one], truth[one]))

    def scores(self) -> dict[str, float | np.ndarray]:
        """Return the value, over all processes, by the name of the class; NaN if it counted ignored pixels."""
        void = torch.tensor(self.void_images, device=self._device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(void)
        if not void:
            return self._values(self.metric)
        print(
            f"{self.name} has no ignore_index, and {int(void)} images have ignored pixels: it gets no score. Many"
            " classes of torchmetrics.classification have that argument."
        )
        return {name: np.nan * value for name, value in self._tried.items()}

    def describe(self) -> str:
        """Say what the metric is given, what becomes of ignored pixels, and what its value depends on."""
        void = "ignored pixels do not count" if self.ignores else "no score where any pixel is ignored"
        words = f"{self.name} is given {self.form}, one image at a time; {void}"
        if "batch" in self.depends_on:
            words += "; its value is that of batches of one image"
        if "processes" in self.depends_on:
            words += "; its value changes with the number of processes"
        return words

    def protocol(self) -> dict[str, Any]:
        """Describe it for test.json: class, settings, what it is given and what its value depends on."""
        known = inspect.signature(type(self.metric)).parameters
        plain = (bool, int, float, str, list, tuple, type(None))
        stated = {name: getattr(self.metric, name) for name in known if hasattr(self.metric, name)}
        settings = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in stated.items()}
        settings = {name: value for name, value in settings.items() if isinstance(value, plain)}
        return {
            "name": self.name,
            "class": f"{type(self.metric).__module__}.{type(self.metric).__name__}",
            "settings": settings,
            "given": f"{self.form}, one image at a time",
            "ignores_void": self.ignores,
            "depends_on": self.depends_on,
        }

    def _values(self, metric: Metric) -> dict[str, float | np.ndarray]:
        result = metric.compute()
        parts = result if isinstance(result, dict) else {"": result}
        # the best value and where it is, as of PrecisionAtFixedRecall
        if isinstance(result, tuple) and len(result) == 2:
            parts = {"": result[0], "threshold": result[1]}
        found: dict[str, float | np.ndarray] = {}
        for key, value in parts.items():
            name = f"{self.name}{f'_{key}' if key else ''}"
            value = torch.as_tensor(value).detach().cpu().double()
            if value.numel() == 1:
                found[name] = float(value)
            elif value.shape == (self.num_classes,):
                found[f"{name}_per_class"] = value.numpy()
            else:
                raise TypeError(
                    f"its value has the shape {tuple(value.shape)}, neither a number nor one a class"
                )
        return found

    def _find_form(self, images: list[tuple[Tensor, Tensor, Tensor]]) -> str:
        for argument in ("num_classes", "num_labels"):
            if (stated := getattr(self.metric, argument, None)) not in (None, self.num_classes):
                raise UserError(
                    f"model.metrics: {self.name} has {argument} {stated}, the data {self.num_classes} classes."
                )
        if self.name.startswith("Binary"):  # some would take more classes, and mean nothing
            if self.num_classes != 2:
                raise UserError(
                    f"model.metrics: {self.name} is for 2 classes, the data has {self.num_classes}: take the one for"
                    f" many, {self.name.replace('Binary', 'Multiclass')}, if there is one."
                )
            forms = ["probability of the second class"]
        elif hasattr(self.metric, "num_labels"):
            forms = ["one map a class", "probabilities, truth one map a class"]
        else:
            forms = _INPUT_FORMATS.get(getattr(self.metric, "input_format", ""), ["labels", "probabilities"])
        reasons = []
        for form in forms:
            self.form = form
            try:
                self._tried = self._measured(images)
                return form
            except Exception as error:  # of any metric
                reasons.append(f"{form}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
        raise UserError(f"model.metrics: {self.name} takes nothing that is here.\n  " + "\n  ".join(reasons))

    def _find_ignore(self, images: list[tuple[Tensor, Tensor, Tensor]]) -> bool:
        if "map" in self.form and getattr(self.metric, "ignore_index", None) != IGNORE_INDEX:
            return False  # it would count the mark of ignored pixels as a number
        values = []
        void = torch.rand(images[0][2].shape) < 0.3
        for shift in range(min(3, self.num_classes)):
            changed = []
            for probabilities, _, truth in images:
                other = torch.where(void[:, None], probabilities.roll(shift, 1), probabilities)
                masked = torch.where(void, IGNORE_INDEX, truth)
                if shift == 1:  # more of them are not more mistakes either
                    other = F.pad(other, (0, 0, 0, 5), mode="replicate")
                    masked = F.pad(masked, (0, 0, 0, 5), value=IGNORE_INDEX)
                changed.append((other, other.argmax(1), masked))
            try:
                values.append(self._measured(changed))
            except Exception:  # a class number that is out of range
                return False
        return all(_same(value, values[0]) for value in values)

    def _find_dependence(self, images: list[tuple[Tensor, Tensor, Tensor]]) -> list[str]:
        alone = self._measured(images)
        found = []
        try:
            together = self._measured([tuple(map(torch.cat, zip(*images, strict=True)))])  # type: ignore[list-item]
            found += [] if _same(alone, together) else ["batch"]
        except Exception:  # it takes one image only
            found.append("batch")
        try:
            parts = [self._filled(images[:1]), self._filled(images[1:])]
            parts[0].merge_state(parts[1])
            found += [] if _same(alone, self._values(parts[0])) else ["processes"]
        except Exception:  # it cannot be merged
            found.append("processes")
        return found

    def _measured(self, images: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float | np.ndarray]:
        return self._values(self._filled(images))

    def _filled(self, images: list[tuple[Tensor, Tensor, Tensor]]) -> Metric:
        metric = self.metric.clone()
        metric.reset()
        for image in images:
            metric.update(*FORMS[self.form](*image))
        return metric

    def _images(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Make four images whose sizes differ from the number of classes: probabilities, labels and truth."""
        sides = [side for side in (17, 18, 19) if side != self.num_classes][:2]
        images = []
        for hardness in (0.3, 1.0, 2.0, 3.0):
            truth = torch.randint(self.num_classes, (1, *sides))
            noise = torch.randn(1, self.num_classes, *sides) * hardness
            probabilities = (noise + 2 * F.one_hot(truth, self.num_classes).movedim(-1, 1)).softmax(1)
            images.append((probabilities, probabilities.argmax(1), truth))
        return images


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.allclose(one[name], other[name], rtol=1e-5, atol=1e-7, equal_nan=True) for name in one)
