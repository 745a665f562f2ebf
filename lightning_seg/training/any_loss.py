"""Losses of torch, smp, MONAI and papers' own code: what they want to be given, and whether they ignore pixels.

Nothing about such a class says in which form it wants the masks. So a copy of it is tried before training: the first
form in which right logits cost less than wrong ones is the form that it is given. Then it is tried whether its value
changes with what stands under `ignore_index`.
"""

import copy
import inspect
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_seg import IGNORE_INDEX
from lightning_seg.errors import UserError
from lightning_seg.training.losses import CompoundLoss, LovaszLoss, PixelLoss, TverskyLoss

_OURS = (PixelLoss, TverskyLoss, LovaszLoss)  # which take masks as they are, `IGNORE_INDEX` included


def _numbers(masks: Tensor, num_classes: int, ignore: int) -> Tensor:
    return torch.where(masks == IGNORE_INDEX, ignore, masks.long())


def _numbers_in_channel(masks: Tensor, num_classes: int, ignore: int) -> Tensor:
    return _numbers(masks, num_classes, ignore)[:, None]


def _one_hot(masks: Tensor, num_classes: int, ignore: int) -> Tensor:
    void = (masks == IGNORE_INDEX)[:, None]
    hot = F.one_hot(torch.where(masks == IGNORE_INDEX, 0, masks.long()), num_classes).movedim(-1, 1)
    return torch.where(void, ignore, hot).float()


_FORMS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "class numbers (B, H, W)": _numbers,
    "class numbers (B, 1, H, W)": _numbers_in_channel,
    "one map a class (B, C, H, W)": _one_hot,
}


class AnyLoss(nn.Module):
    """A loss that was not written for this package, given float32 logits and masks in the form that it wants.

    A loss that returns a value for each pixel (``reduction: none``) is averaged over all pixels but the ignored ones.

    Args:
        loss: Maps logits (B, C, H, W) and masks to a scalar or to one value a pixel.
        num_classes: C.

    Attributes:
        form: In which form it gets the masks.
        ignores: Whether its value is independent of what stands under `ignore_index`.
        counts_ignored: Whether it divides by the number of all pixels, those that it ignores included.

    Raises:
        UserError: In no form do right logits cost less than wrong ones.
    """

    def __init__(self, loss: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.loss = loss
        self.num_classes = num_classes
        # As MONAI's MaskedDiceLoss and MaskedLoss, which are told what counts.
        self.masked = "mask" in inspect.signature(loss.forward).parameters
        with torch.random.fork_rng(devices=()), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            self.form = self._find_form()
            self.ignore, self.ignores = self._find_ignore()
            self.counts_ignored = self.ignores and self._is_halved()

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, C, H, W) against masks (B, H, W).

        Raises:
            UserError: The masks have ignored pixels, and the loss cannot ignore them.
        """
        void = masks == IGNORE_INDEX
        if not self.ignores and bool(void.any()):
            raise UserError(
                f"model.loss: {self.name} cannot ignore pixels: its value changes with what stands under ignore_index,"
                " and these masks have ignored pixels (void labels, or the border that augmentation fills). Take a"
                " loss with the argument ignore_index (or mask, as monai.losses.MaskedDiceLoss), or give this one"
                " reduction: none if it has that."
            )
        # Where nothing is counted the logits are constant: no gradient, and no NaN.
        logits = torch.where(void[:, None], 0, logits.float())
        return self._value(self.loss, logits, masks)

    @property
    def name(self) -> str:
        """Of the loss's class."""
        return type(self.loss).__name__

    def describe(self) -> str:
        """Say in which form the loss gets masks, and what becomes of ignored pixels."""
        void = f"ignored pixels as {self.ignore}" if self.ignores else "which may have no ignored pixels"
        if self.counts_ignored:
            void += ", which count in its mean: the more there are, the less the others weigh"
        return f"{self.name} is given {self.form}, {void}"

    def _value(self, loss: nn.Module, logits: Tensor, masks: Tensor) -> Tensor:
        given = [logits, _FORMS[self.form](masks, self.num_classes, self.ignore)]
        if self.masked:
            given.append((masks != IGNORE_INDEX)[:, None].float())
        value: Tensor = loss(*given)
        if value.shape[-2:] != masks.shape[-2:]:
            return value.mean() if value.ndim else value
        counted = (masks != IGNORE_INDEX).to(value.dtype)
        value = value.mean(1) if value.ndim == 4 else value
        return (value * counted).sum() / counted.sum().clamp(min=1)

    def _find_form(self) -> str:
        self.ignore = 0
        masks = self._masks()
        reasons = []
        for form in _FORMS:
            self.form = form
            try:
                right = _logits(masks, self.num_classes, 0)
                wrong = [_logits(masks, self.num_classes, shift) for shift in range(1, self.num_classes)]
                wrong += [
                    torch.full_like(right, float(right.min())),
                    torch.full_like(right, float(right.max())),
                ]
                cost, *costs = [float(self._try(logits, masks)) for logits in (right, *wrong)]
                larger = float(self._try(4 * right, masks))
            except Exception as error:  # of any library
                reasons.append(f"{form}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
                continue
            if larger < cost - 1:
                reasons.append(f"{form}: it falls without end as logits grow; it may want log-probabilities")
            elif not all(cost < other for other in costs):
                reasons.append(f"{form}: right logits do not cost less than wrong ones")
            else:
                return form
        raise UserError(f"model.loss: {self.name} works with masks in no form.\n  " + "\n  ".join(reasons))

    def _find_ignore(self) -> tuple[int, bool]:
        """Find the value for ignored pixels under which the loss does not depend on their logits."""
        masks = self._masks()
        void = torch.rand(masks.shape) < 0.25
        logits = _logits(masks, self.num_classes, 0) + torch.randn(
            len(masks), self.num_classes, *masks.shape[1:]
        )
        stated = getattr(self.loss, "ignore_index", None)
        for self.ignore in dict.fromkeys([*([stated] if isinstance(stated, int) else []), IGNORE_INDEX, 0]):
            try:
                values = []
                for other in (0.0, -8.0, 8.0):
                    changed = logits.clone()
                    changed[:, 0] = torch.where(void, other, changed[:, 0])
                    values.append(self._try(changed, torch.where(void, IGNORE_INDEX, masks)))
            except Exception:  # a class number that is out of range, for one
                continue
            if all(torch.isfinite(v) and torch.allclose(v, values[0], rtol=1e-5, atol=1e-7) for v in values):
                return self.ignore, True
        return 0, False

    def _is_halved(self) -> bool:
        """Say whether the loss halves when as many ignored pixels are put beside the others."""
        masks = self._masks()
        logits = _logits(masks, self.num_classes, 1)
        wider = F.pad(logits, (0, masks.shape[-1])), F.pad(masks, (0, masks.shape[-1]), value=IGNORE_INDEX)
        return torch.allclose(2 * self._try(*wider), self._try(logits, masks), rtol=1e-3)

    def _try(self, logits: Tensor, masks: Tensor) -> Tensor:
        value = self._value(copy.deepcopy(self.loss), logits, masks)
        if not (isinstance(value, Tensor) and value.ndim == 0):
            raise TypeError("it returns no number")
        return value.float()

    def _masks(self) -> Tensor:
        """Make masks (B, H, W) in which all sizes differ, so that nothing fits by accident."""
        sides = [side for side in (2, 3, 16, 17, 18, 19) if side != self.num_classes]
        return torch.randint(self.num_classes, (sides[0], sides[-1], sides[-2]), dtype=torch.uint8)


def _logits(masks: Tensor, num_classes: int, shift: int) -> Tensor:
    """Make logits (B, C, H, W) that are confident of each pixel's class plus `shift`."""
    hot = F.one_hot((masks.long() + shift) % num_classes, num_classes)
    return 7.0 * hot.movedim(-1, 1).float() - 3.0


def adapted(loss: nn.Module, num_classes: int) -> nn.Module:
    """Return a loss that takes logits (B, C, H, W) and masks (B, H, W) with `IGNORE_INDEX`: itself, or an `AnyLoss`.

    Args:
        loss: Of this package, of another, or a `CompoundLoss` of both.
        num_classes: C.
    """
    if isinstance(loss, CompoundLoss):
        return CompoundLoss([adapted(part, num_classes) for part in loss.losses], loss.weights)
    return loss if isinstance(loss, _OURS) else AnyLoss(loss, num_classes)
