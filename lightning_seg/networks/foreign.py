"""Modules of other libraries by their class paths: their arguments, the number of classes among them, and building.

A class path may be that of a class, of a function that makes a module, or of a class method such as
``transformers.SegformerForSemanticSegmentation.from_pretrained``.
"""

import difflib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_seg.errors import UserError
from lightning_seg.networks.base import BackboneNetwork

Mean = tuple[float, ...]
# What libraries and papers call the number of classes, the most certain names first.
CLASSES = (
    "num_classes", "n_classes", "nclasses", "num_class", "n_class", "nclass", "num_labels", "classes", "n_cls",
    "out_channels", "n_channels_out", "output_channels", "out_ch", "out_chans", "output_nc", "out_dim", "nc",
)  # fmt: skip
_CHANNELS = (
    "in_channels",
    "n_channels",
    "num_channels",
    "in_chans",
    "input_channels",
    "in_ch",
    "input_nc",
    "img_ch",
)
_PLAIN = (bool, int, float, str, type(None))
IMAGENET: tuple[Mean, Mean] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_foreign(target: object) -> bool:
    """Whether something makes modules that are no networks of this package: a class of them, a function, a method."""
    if isinstance(target, type):
        return issubclass(target, nn.Module) and not issubclass(target, BackboneNetwork)
    if not callable(target):
        return False
    made = _hints(target).get("return")
    return not (isinstance(made, type) and issubclass(made, BackboneNetwork))


def knows(path: str, name: str) -> bool:
    """Whether what a class path names has an argument of this name, other than by ``**kwargs``."""
    return name in inspect.signature(pkgutil.resolve_name(path)).parameters


def complete(path: str, arguments: Mapping[str, Any], setting: str = "model.network") -> dict[str, Any]:
    """Check the names of arguments, and add the defaults of those that are not given, so that they are recorded.

    The number of classes of a network is left out: it is the data's.

    Args:
        path: Class path of the module.
        arguments: Those given, by name.
        setting: The setting that it is for, for messages.

    Raises:
        UserError: There is no argument of a name.
    """
    known = inspect.signature(pkgutil.resolve_name(path)).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in arguments:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"It has {', '.join(known)}."
                raise UserError(f"{setting}: {path} has no argument {name!r}. {hint}")
    defaults = {
        name: p.default for name, p in known.items() if _is_plain(p.default) and p.default is not p.empty
    }
    if setting == "model.network":
        for name in (classes_argument(path) or "", *_CHANNELS):  # the data's
            defaults.pop(name, None)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()} | dict(arguments)


def classes_argument(path: str) -> str | None:
    """Return the name of the argument that takes the number of classes; None if there is none of a usual name."""
    target = pkgutil.resolve_name(path)
    if _config_parameter(target):
        return None
    if hasattr(getattr(target, "__self__", None), "config_class"):  # `from_pretrained` of transformers
        return "num_labels"
    known = inspect.signature(target).parameters
    return next((name for name in CLASSES if name in known), None)


def build(path: str, arguments: Mapping[str, Any], num_classes: int, in_channels: int = 3) -> nn.Module:
    """Make a module for a number of classes and of channels.

    Args:
        path: Class path of the module.
        arguments: Its arguments; ``{class_path: ..., init_args: ...}`` stands for an object. The ``config`` of a
            model of transformers is its settings, or the name or folder of a pretrained one.
        num_classes: Handed to the argument of a usual name, if there is one and it is not among `arguments`.
        in_channels: Channels of an image, likewise.

    Raises:
        UserError: Another number of classes is given, an argument is missing, or it makes no module.
    """
    target = pkgutil.resolve_name(path)
    given = {name: _built(value) for name, value in arguments.items()}
    known = inspect.signature(target).parameters
    name = classes_argument(path)
    if name is not None and given.setdefault(name, num_classes) != num_classes:
        raise UserError(
            f"model.network: {path} has {name} {given[name]}, the data {num_classes} classes. Leave {name} away; it is"
            " taken from the data."
        )
    for channels in _CHANNELS:
        needed = channels in known and (known[channels].default is known[channels].empty or in_channels != 3)
        if needed and given.setdefault(channels, in_channels) != in_channels:
            raise UserError(
                f"model.network: {path} has {channels} {given[channels]}, the images of the data {in_channels}. Leave"
                f" {channels} away; it is taken from the data."
            )
    if config := _config_parameter(target):
        given[config] = _config(_hints(target)[config], arguments.get(config), num_classes, in_channels)
    missing = [
        n for n, p in known.items() if p.default is p.empty and p.kind in (0, 1, 3) and n not in given
    ]  # fmt: skip
    if missing:
        raise UserError(f"model.network: {path} needs {', '.join(missing)}; say so under init_args.")
    module = target(**given)
    if not isinstance(module, nn.Module) or isinstance(module, BackboneNetwork):
        raise UserError(f"model.network: {path} makes a {type(module).__name__}, not a module to adapt.")
    return module


def normalization(path: str, arguments: Mapping[str, Any]) -> tuple[Mean, Mean]:
    """Return the mean and the standard deviation that a module expects: what smp says of its encoder, or ImageNet's."""
    name, weights = arguments.get("encoder_name"), arguments.get("encoder_weights")
    if not path.startswith("segmentation_models_pytorch.") or not (name and weights):
        return IMAGENET
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    try:
        stated = get_preprocessing_params(name, pretrained=weights)
    except Exception as error:  # it asks a hub
        raise UserError(
            f"model.network: smp cannot say how the images of {name} with the weights {weights} are normalized:"
            f" {type(error).__name__}. State mean and std beside class_path."
        ) from error
    if stated.get("input_space", "RGB") != "RGB" or list(stated.get("input_range") or [0, 1]) != [0, 1]:
        raise UserError(
            f"model.network: {name} with the weights {weights} expects {stated}, not RGB images of 0..1. State mean and"
            " std beside class_path, for images of 0..1, if you know what it expects of them."
        )
    return tuple(map(float, stated["mean"])), tuple(map(float, stated["std"]))


def _built(value: Any) -> Any:
    """Build the objects that are named by class paths within an argument."""
    if isinstance(value, Mapping):
        inner = {key: _built(part) for key, part in value.items()}
        if "class_path" not in value:
            return inner
        try:
            target = pkgutil.resolve_name(value["class_path"])
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"model.network: {value['class_path']} cannot be imported: {error}.") from None
        return target(**inner.get("init_args") or {}, **inner.get("dict_kwargs") or {})
    return [_built(part) for part in value] if isinstance(value, list) else value


def _config_parameter(target: object) -> str | None:
    """Return the argument that takes a configuration of transformers, which holds the number of classes."""
    hints = _hints(target)
    return next(
        (name for name, kind in hints.items() if name != "return" and hasattr(kind, "model_type")), None
    )


def _config(kind: Any, given: Any, num_classes: int, in_channels: int) -> Any:
    channels = {} if in_channels == 3 else {"num_channels": in_channels}
    if isinstance(given, str):
        return kind.from_pretrained(given, num_labels=num_classes, **channels)
    if isinstance(given, Mapping) and "class_path" in given:
        given = (given.get("init_args") or {}) | (given.get("dict_kwargs") or {})
    if (stated := (given or {}).get("num_labels", num_classes)) != num_classes:
        raise UserError(
            f"model.network: config has num_labels {stated}, the data {num_classes} classes. Leave num_labels away; it"
            " is taken from the data."
        )
    return kind(
        **{name: _built(value) for name, value in (given or {}).items()}
        | {"num_labels": num_classes}
        | channels
    )


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009
    except Exception:  # of names that only a type checker imports
        return {}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list | tuple) and all(map(_is_plain, value)))
