"""Post-processing steps and chains of them.

There are two kinds of steps: those that refine probabilities, such as a CRF, and those that change labels, such as
morphology, which may read the probabilities to find the next best class. Steps on probabilities come first, because
labels cannot be turned back into probabilities.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.inference.precision import full_precision


class Step:
    """A step of post-processing.

    Attributes:
        classes: Names or numbers of the classes that it changes. None means all.
        class_names: The classes in label order, once it is bound to them.

    Examples:
        >>> step = RemoveSmall(smallest=5, classes=["cup"]).bind(("other", "cup", "plate"))
        >>> step.numbers(3)
        [1]
    """

    classes: Sequence[str | int] | None = None
    class_names: tuple[str, ...] = ()

    def bind(self, class_names: Sequence[str]) -> Self:
        """Return a copy of the step that knows the names of the classes.

        Raises:
            UserError: It is told to work on a class that does not exist.
        """
        bound = copy.copy(self)
        bound.class_names = tuple(class_names)
        if class_names:
            bound.numbers(len(class_names))
        return bound

    def numbers(self, num_classes: int) -> list[int]:
        """Return the numbers of the classes that it changes.

        Raises:
            UserError: There is no such class.
        """
        if self.classes is None:
            return list(range(num_classes))
        known: dict[str | int, int] = {name: number for number, name in enumerate(self.class_names)}
        known |= {number: number for number in range(num_classes)}
        for name in self.classes:
            if name not in known:
                raise UserError(
                    f"{type(self).__name__}.classes: there is no class {name!r}; "
                    f"there are {', '.join(self.class_names) or f'0 to {num_classes - 1}'}."
                )
        return [known[name] for name in self.classes]


class ProbabilityStep(Step, ABC):
    """A step that refines probabilities.

    Examples:
        >>> class Sharpen(ProbabilityStep):
        ...     def __call__(self, probabilities, image):
        ...         return probabilities**2 / (probabilities**2).sum(0)
        >>> Sharpen()(np.array([[[0.8]], [[0.2]]]), None).round(2).ravel()
        array([0.94, 0.06])
    """

    @abstractmethod
    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Refine probabilities.

        Args:
            probabilities: (C, H, W) float32, summing to 1 over the classes; not modified.
            image: RGB (H, W, 3) uint8.

        Returns:
            The same shape and type.
        """


class LabelStep(Step, ABC):
    """A step that changes labels.

    Examples:
        >>> class Invert(LabelStep):
        ...     def __call__(self, labels, probabilities, image):
        ...         return 1 - labels
        >>> Invert()(np.array([[0, 1]]), None, None)
        array([[1, 0]])
    """

    @abstractmethod
    def __call__(self, labels: np.ndarray, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Change labels.

        Args:
            labels: (H, W) uint8, `IGNORE_INDEX` where an earlier step rejected the prediction; not modified.
            probabilities: (C, H, W) float32, summing to 1 over the classes.
            image: RGB (H, W, 3) uint8.

        Returns:
            The new labels.
        """


class Chain:
    """A sequence of steps that maps probabilities and image to labels.

    Args:
        steps: The steps; those on probabilities first.
        class_names: The classes in label order, for steps that name the classes they change.

    Raises:
        UserError: A step on probabilities comes after one on labels, or a step names an unknown class.
    """

    def __init__(self, steps: Sequence[Step], class_names: Sequence[str] = ()) -> None:
        self.steps = tuple(step.bind(class_names) for step in steps)
        on_labels = ""
        for step in self.steps:
            if isinstance(step, LabelStep):
                on_labels = type(step).__name__
            elif on_labels:
                raise UserError(
                    f"{type(step).__name__} works on probabilities and would undo what {on_labels} did to the "
                    f"labels: put {type(step).__name__} before {on_labels}."
                )

    def __call__(self, probabilities: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the final labels (H, W) uint8 of probabilities (C, H, W) float32 and an image (H, W, 3) uint8."""
        labels = None
        for step in self.steps:
            if isinstance(step, ProbabilityStep):
                probabilities = step(probabilities, image)
            elif isinstance(step, LabelStep):
                labels = step(
                    most_probable(probabilities) if labels is None else labels, probabilities, image
                )
        return most_probable(probabilities) if labels is None else labels

    def of_logits(self, logits: Tensor, image: Tensor) -> Tensor:
        """Return the final labels (H, W) uint8 of logits (C, H, W) and an image (3, H, W) uint8, on any device."""
        probabilities = logits.float().softmax(0).cpu().numpy()
        with (
            full_precision(torch.device("cpu")),
            full_precision(logits.device),
        ):  # steps may compute on either
            labels = self(probabilities, image.permute(1, 2, 0).contiguous().cpu().numpy())
        return torch.from_numpy(labels).to(logits.device)


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """Return the most probable class (H, W) uint8 of (C, H, W)."""
    return torch.from_numpy(probabilities).max(0)[1].byte().numpy()  # as argmax, but six times faster


def next_best(probabilities: np.ndarray, labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the most probable class other than the present one.

    Args:
        probabilities: (C, H, W), C > 1.
        labels: (H, W) uint8.
        where: (H, W) bool, true at K pixels.

    Returns:
        (K,) uint8.
    """
    rest, present = probabilities[:, where].copy(), labels[where]
    answered = present != IGNORE_INDEX
    rest[present[answered], np.flatnonzero(answered)] = -1
    return rest.argmax(0).astype(np.uint8)
