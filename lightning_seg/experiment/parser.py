"""The parser of experiment files: a wrong setting is answered in a line or two."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lightning_seg.data.base import SegmentationData
from lightning_seg.errors import UserError, did_you_mean, parameters_of_subclasses, without_noise
from lightning_seg.experiment.class_paths import expand_arguments, expand_settings, no_such_class
from lightning_seg.networks.base import BackboneNetwork

_LIMITS = (
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "limit_predict_batches",
    "overfit_batches",
    "val_check_interval",
)
# What jsonargparse says of a name without dots that is no class it knows.
_UNKNOWN = r'Parser key "([\w.]+)":.*dot import path string: (\w+)$'


class Parser(LightningArgumentParser):
    """Knows classes by short names, and reports a wrong setting in a line or two, with the nearest right one.

    Args:
        *args: As of LightningArgumentParser.
        files: The settings of files, already read, that arguments may name.
        **kwargs: As of LightningArgumentParser.
    """

    def __init__(self, *args: Any, files: Mapping[Path, dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._files = files or {}

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Namespace | None = None, **kwargs: Any
    ) -> Namespace:
        """Parse arguments, with the full class path in place of each short name."""
        parsed = super().parse_args(expand_arguments(args), namespace, **kwargs)
        for name, value in _whole_numbers(args, self._files).items():
            if parsed["trainer"].get(name) == value:
                parsed["trainer"][name] = value
        return parsed

    def instantiate_classes(self, cfg: Namespace, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Build the objects; limits of the trainer that are whole numbers stay so (see `_whole_numbers`)."""
        built = super().instantiate_classes(cfg, **kwargs)
        for name in _LIMITS if "trainer" in cfg else ():
            if isinstance(cfg["trainer"].get(name), int) and built["trainer"][name] == cfg["trainer"][name]:
                built["trainer"][name] = cfg["trainer"][name]
        return built

    def error(self, message: str, ex: Exception | None = None) -> Never:  # type: ignore[override]
        """Raise the error for `lightning_seg.cli.main.main` to print."""
        message = without_noise(message)
        known = {action.dest for action in self._actions if action.dest}
        for base in (BackboneNetwork, SegmentationData):
            known |= parameters_of_subclasses(base)
        if unknown := re.search(_UNKNOWN, message, re.DOTALL | re.MULTILINE):
            raise UserError(no_such_class(*unknown.groups())) from None
        hint = did_you_mean(message, known)
        if foreign := re.search(r"Import path (\S+) does not correspond to a subclass of Network", message):
            module = f"init_args: {{module: {{class_path: {foreign[1]}}}}}"
            hint = f"\nA network of another library is wrapped: class_path: Adapter, {module}"
        raise UserError(f"{message}{hint}\n'lightning-seg fit --help' lists the settings.") from None

    def parse_path(self, path: Any, *args: Any, _fail_no_subcommand: bool = True, **kwargs: Any) -> Namespace:
        """Take the settings of a file as they were read before; jsonargparse calls it for ``-c FILE``."""
        try:
            return self.parse_object(expand_settings(self._files[Path(path)]), *args, **kwargs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _whole_numbers(args: Sequence[str], files: Mapping[Path, dict[str, Any]]) -> dict[str, int]:
    """Find the trainer's limits that are given as whole numbers: so many batches, where 1.0 means all of them.

    Their type is `int | float`, and Python has one object for that and for `float | int`: where a library was imported
    that writes it so, such as MONAI, 1 would be parsed as 1.0.
    """
    given: dict[str, Any] = {}
    for settings in files.values():
        trainer = settings.get("trainer")
        given |= trainer if isinstance(trainer, dict) else {}
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name.startswith("--trainer."):
            given[name.removeprefix("--trainer.")] = value if equals else following
    whole = {
        name: str(given[name]) for name in _LIMITS if name in given and not isinstance(given[name], bool)
    }
    return {name: int(text) for name, text in whole.items() if text.isdecimal()}
