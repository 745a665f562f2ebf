"""Files of tensors: read without running code, and searched for the one state dict that fits a network."""

import argparse
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_seg.errors import UserError

# Modules that wrap a network: their names say nothing about what a tensor is of.
_WRAPPERS = {"module", "_orig_mod", "model", "network", "state_dict"}
# What tools put before the names of some tensors of a network, too, where files of several were joined.
_MIXED = _WRAPPERS | {"encoder", "encoder_q", "backbone"}
_MAX_DEPTH = 8  # of nested dictionaries, and of prefixes

ADDED = "added_"  # begins the names of what fine-tuning policies put beside the pretrained parts


@dataclass(frozen=True)
class Translation:
    """The tensors of a file under the names of a network.

    Attributes:
        tensors: Those that the network asks for, as far as they are there.
        left_out: Names in the file of parts that the network does not have.
        foreign: Names in the file that show that it is of another network, such as those of further layers.
        converted: What was changed beyond names, in words.
    """

    tensors: dict[str, Tensor]
    left_out: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    converted: list[str] = field(default_factory=list)


Translate = Callable[[dict[str, Tensor]], Translation]


@dataclass
class _Candidate:
    place: str  # keys of nested dictionaries, joined by dots
    prefix: str  # of the names of its tensors
    found: Translation
    outside: list[str]  # names in the same dictionary without this prefix
    misfit: str
    misses: int
    mixed: list[str] = field(default_factory=list)  # prefixes, where not all names have the same

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.place, self.prefix.removesuffix(".")) if part)


def load_fitting(
    module: nn.Module,
    tree: object,
    source: str,
    what: str,
    translate: Translate | None = None,
    choice: str = "",
    setting: str = "model.network.init_args.weights",
) -> str:
    """Load the one state dict in nested dictionaries that fits a module; all of its tensors, or none.

    Prefixes of names, such as ``module.`` or ``encoder.``, are stripped where exactly one stripping fits; where names
    have several of them, each loses its own.

    Args:
        module: What the tensors are for.
        tree: A state dict, or dictionaries and lists with state dicts somewhere inside.
        source: Where it is from, for messages.
        what: What the module is, for messages.
        translate: Gives tensors the module's names; the names are its own already unless given.
        choice: Keys of the nested dictionaries, and a prefix, joined by dots, to choose among several that fit.
        setting: The setting that named the source, for messages.

    Returns:
        What was loaded, converted and left out, in words.

    Raises:
        UserError: None fits, or several that differ; the module is as it was.
    """
    own = plain_state(module)
    candidates = list(_candidates(tree, own, translate or (lambda state: by_name(state, own))))
    if choice:
        chosen = [c for c in candidates if f".{choice}." in f".{c.name}."]
        if not chosen:
            names = ", ".join(dict.fromkeys(c.name for c in candidates if c.name)) or "none"
            raise UserError(f"{setting}: {source} has no tensors under {choice!r}. Names there: {names}.")
        candidates = chosen
    fitting = _different([candidate for candidate in candidates if not candidate.misfit])
    if len(fitting) > 1:
        names = ", ".join(candidate.name or "the top level" for candidate in fitting)
        raise UserError(
            f"{setting}: {source} holds {len(fitting)} different sets of tensors that fit {what}: {names}. "
            f"Choose one by its name, such as {setting}: {source}#{max(candidate.name for candidate in fitting)}."
        )
    if not candidates:
        raise UserError(
            f"{setting}: the weights in {source} are not those of {what}: there are no named tensors in it."
        )
    if not fitting:
        nearest = min(candidates, key=lambda candidate: candidate.misses)
        place = f" (under {nearest.name})" if nearest.name else ""
        raise UserError(
            f"{setting}: the weights in {source}{place} are not those of {what}: {nearest.misfit}."
        )
    best = fitting[0]
    module.load_state_dict(own | best.found.tensors)
    return _describe(best, source, own)


def plain_state(module: nn.Module, added: bool = False) -> dict[str, Tensor]:
    """Return a module's state dict as it is without parametrizations, such as the changes of LoRA.

    Args:
        module: The module.
        added: Whether with what fine-tuning policies have added, such as prompts.
    """
    mark = ".parametrizations."
    state: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        if f".{ADDED}" in key and not added:
            continue
        layer, _, inner = key.partition(mark)
        if inner.endswith(".original"):
            state[f"{layer}.{inner.removesuffix('.original')}"] = value
        elif not inner:
            state[key] = value
    return state


def by_name(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Translation:
    """Take the tensors that have the names of a network; others below its modules are foreign."""
    tops = {key.split(".")[0] for key in own}
    rest = [key for key in state if key not in own]
    foreign = [key for key in rest if key.split(".")[0] in tops]
    left = [key for key in rest if key.split(".")[0] not in tops]
    return Translation({key: state[key] for key in own if key in state}, left, foreign)


def misfit(own: Mapping[str, Tensor], found: Translation) -> tuple[str, int]:
    """Say why tensors do not fit a network, and how many; an empty string if they do.

    Args:
        own: The network's state dict. BatchNorm's counters of batches, which no default reads, may be missing.
        found: The tensors from the file.
    """
    theirs = found.tensors
    missing = [key for key in own if key not in theirs and not is_counter(key)]
    # a dtype of another kind, integers for real numbers, would be converted silently
    other = [
        key
        for key, value in theirs.items()
        if key in own
        and (
            value.shape != own[key].shape
            or (value.is_floating_point() != own[key].is_floating_point() and not is_counter(key))
            or value.layout != torch.strided
            or value.is_quantized
            or value.is_meta
        )
    ]
    if missing:
        return f"{len(missing)} of {len(own)} tensors are missing, the first being {missing[0]}", len(missing)
    if other:
        here, there = own[other[0]], theirs[other[0]]
        return (
            f"{len(other)} of {len(own)} tensors differ in shape or kind; {other[0]} is {_kind(here)} here and"
            f" {_kind(there)} there",
            len(other),
        )
    if found.foreign:
        why = f"it has {len(found.foreign)} tensors that this network has no place for"
        return f"{why}, the first being {found.foreign[0]}", len(found.foreign)
    broken = [key for key, value in theirs.items() if value.is_floating_point() and not _all_finite(value)]
    if broken:
        return f"{len(broken)} of its tensors hold NaN or infinity, the first being {broken[0]}", 1
    return "", 0


def _all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. Their sum says so in a twentieth of the time, unless it overflows."""
    return bool(values.sum(dtype=torch.float32).isfinite() or values.isfinite().all())


def is_counter(key: str) -> bool:
    """Whether a tensor counts the batches that a BatchNorm has seen."""
    return key.endswith("num_batches_tracked")


def read_tree(path: Path, setting: str) -> object:
    """Read what torch or safetensors saved, tensors and plain types only, without running code.

    Args:
        path: The file.
        setting: The setting that named it, for messages.

    Raises:
        UserError: There is no such file, it is damaged, or it holds something else.
    """
    if path.is_dir():
        is_run = (path / "config.yaml").is_file() or any(path.glob("*/config.yaml"))
        remedy = (
            f"For the weights of a run: {setting}=run:{path}"
            if is_run
            else f"Name a file in it: {setting}=PATH"
        )
        raise UserError(f"Expected a weights file at {path.absolute()}, which is a folder. {remedy}.")
    if not path.is_file():
        raise UserError(
            f"Expected a weights file at {path.absolute()}, found none. Correct the path in {setting}=PATH."
        )
    expected = f"{setting.lstrip('-')}: expected tensors saved by torch or safetensors in {path}, but "
    with path.open("rb") as file:  # whatever its name says
        is_safetensors = file.read(9)[8:] == b"{"
    if not is_safetensors and zipfile.is_zipfile(path):
        if damage := damage_of(path):
            raise UserError(f"{expected}the file {damage}. Copy it again from where it came from.")
        if any(name.endswith(".npy") for name in zipfile.ZipFile(path).namelist()):
            raise UserError(f"{expected}it is an archive of NumPy arrays, which are not read.")
    try:
        if is_safetensors:
            from safetensors.torch import load_file

            return load_file(path)
        # what many training scripts save beside the weights; it is a record of plain values
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zip and safetensors all raise their own
        raise UserError(f"{expected}{why_unreadable(error)}") from None


def damage_of(path: Path) -> str | None:
    """Say what is wrong with a file that torch saved, compared with the checksums in it; None if it is whole.

    torch itself reads flipped bits without an error.
    """
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except FileNotFoundError:
        return "does not exist"
    except Exception as error:  # damaged archives raise many kinds, UnicodeDecodeError among them
        return f"is damaged or incomplete ({error})"
    return f"is damaged (wrong checksum of {broken})" if broken else None


def split_choice(place: str) -> tuple[Path, str]:
    """Split ``FILE#NAME`` into the file and the name of the tensors in it; a file may have a # in its name.

    Raises:
        UserError: It is empty.
    """
    if not place.strip():
        raise UserError(
            "model.network.init_args.weights (or detector_weights) is empty. Name a file; true is for the weights of "
            "the publisher, false for random ones."
        )
    path = Path(place).expanduser()
    file, _, choice = place.rpartition("#")
    if not file or path.is_file():
        return path, ""
    return Path(file).expanduser(), choice


def why_unreadable(error: Exception) -> str:
    """Say why `torch.load` or safetensors could not read a file, without their advice to read it unsafely."""
    if unknown := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"it also holds Python objects ({unknown[1]}), which could run code and are not read. Where the file was"
            " made, save the tensors alone: torch.save(model.state_dict(), FILE)."
        )
    return f"it is damaged, incomplete or of another kind ({type(error).__name__})."


def nested_states(tree: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors of all nested dictionaries that hold some, with the keys that lead there, joined by dots."""
    if isinstance(tree, list | tuple):
        tree = {str(i): item for i, item in enumerate(tree) if isinstance(item, Mapping)}
    if not isinstance(tree, Mapping) or depth > _MAX_DEPTH:
        return
    state = {
        key: value.detach()
        for key, value in tree.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if state:
        yield place, state
    for key, value in tree.items():
        if isinstance(key, str) and isinstance(value, Mapping | list | tuple):
            yield from nested_states(value, f"{place}.{key}" if place else key, depth + 1)


def _candidates(tree: object, own: Mapping[str, Tensor], translate: Translate) -> Iterator[_Candidate]:
    least = sum(not is_counter(key) for key in own) / 2
    for place, state in nested_states(tree):
        counts = Counter(
            "".join(f"{part}." for part in parts[:depth])
            for parts in (key.split(".") for key in state)
            for depth in range(1, min(len(parts), _MAX_DEPTH))
        )
        for prefix in ["", *(prefix for prefix, count in counts.items() if count >= least)]:
            inner = {
                key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
            }
            outside = [key for key in state if not key.startswith(prefix)]
            found = translate(inner)
            why, misses = misfit(own, found)
            if why and misses and not prefix and len(state) and "missing" in why:
                why += f"; found are {', '.join(list(state)[:3])}, ..."
            yield _Candidate(place, prefix, found, outside, why, misses)
        bare, mixed = _without_mixed(state, own)
        if mixed and not misfit(own, found := translate(bare))[0]:
            yield _Candidate(place, "", found, [], "", 0, mixed)


def _without_mixed(
    state: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Take from each name its own prefixes; nothing where all have the same, or two names would become one."""
    bare: dict[str, Tensor] = {}
    prefixes = set()
    for key, value in state.items():
        name = key
        while name not in own and "." in name and name.split(".")[0] in _MIXED:
            name = name.partition(".")[2]
        if name in bare:
            return {}, []
        bare[name] = value
        prefixes.add(key.removesuffix(name))
    return (bare, sorted(prefixes - {""})) if len(prefixes) > 1 else ({}, [])


def _different(fitting: list[_Candidate]) -> list[_Candidate]:
    """Keep one of those that mean the same tensors, that with the longest prefix."""
    kept: list[_Candidate] = []
    for candidate in sorted(fitting, key=lambda c: -len(c.prefix)):
        if not any(_equal(candidate.found.tensors, other.found.tensors) for other in kept):
            kept.append(candidate)
    return kept


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key] is b[key] or torch.equal(a[key], b[key]) for key in a)


def _describe(best: _Candidate, source: str, own: Mapping[str, Tensor]) -> str:
    tensors = best.found.tensors
    words = f"{len(tensors)} tensors of {source}"
    if best.place:
        words += f"#{best.place}"
    if best.prefix:
        words += f", prefix {best.prefix} stripped"
    if best.mixed:
        words += f", prefixes {' and '.join(best.mixed)} stripped from the names that have them"
    rounded = sorted(
        {str(v.dtype).removeprefix("torch.") for k, v in tensors.items() if v.dtype != own[k].dtype}
    )
    if rounded:
        words += f", from {' and '.join(rounded)}"
    for converted in best.found.converted:
        words += f", {converted}"
    if counters := sum(key not in tensors for key in own):
        words += f", without {counters} counters of batches"
    groups = Counter(map(_group, [*best.found.left_out, *best.outside]))
    if groups:
        named = [f"{name} ({count})" for name, count in groups.most_common(8)]
        words += f"; left out: {', '.join(named)}" + (
            f" and {len(groups) - 8} more" if len(groups) > 8 else ""
        )
    return words


def _group(name: str) -> str:
    """The part of a network that a tensor is of: its name up to the first module that is no wrapper."""
    parts = name.split(".")
    depth = next((i for i, part in enumerate(parts) if part not in _WRAPPERS), len(parts) - 1)
    return ".".join(parts[: depth + 1])


def _kind(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
