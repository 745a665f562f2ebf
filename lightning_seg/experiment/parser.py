"""The parser of experiment files: a wrong setting is answered in a line or two."""

from typing import Never

from lightning.pytorch.cli import LightningArgumentParser

from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError, did_you_mean, parameters_of_subclasses, without_noise
from lightning_seg.networks.base import BackboneNetwork


class Parser(LightningArgumentParser):
    """Reports a wrong setting in a line or two, with the nearest right one, instead of a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        message = without_noise(message)
        known = {action.dest for action in self._actions if action.dest}
        for base in (BackboneNetwork, SegmentationData):
            known |= parameters_of_subclasses(base)
        hint = did_you_mean(message, known)
        raise UserError(f"{message}{hint}\n'lightning-seg fit --help' lists the settings.") from None
