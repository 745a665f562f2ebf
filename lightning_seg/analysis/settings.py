"""The settings of runs as people speak of them: short names, values as text, ordered by importance."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject
from lightning_seg.runs.records import Record

MISSING = "–"

# What a setting is called; the order is that of importance. Of those in the second table the value says enough.
_NAMES = {
    "model.network": "network",
    "model.network.backbone": "backbone",
    "model.network.weights": "weights",
    "model.finetune": "finetune",
    "model.loss": "loss",
    "model.optimizer.lr": "lr",
    "model.optimizer": "optimizer",
    "model.lr_scheduler": "schedule",
    "effective_batch_size": "batch",
    "trainer.max_epochs": "epochs",
    "trainer.max_steps": "steps",
    "data": "data",
}
_PLAIN = (
    "model.network",
    "model.network.backbone",
    "model.finetune",
    "model.loss",
    "model.optimizer",
    "data",
)
_ORDER = (
    *_NAMES,
    "model.network",
    "model.finetune",
    "model.loss",
    "model.optimizer",
    "model.lr_scheduler",
    "model",
    "data",
)
# What a setting is where none is given.
_DEFAULTS = {"model.finetune": "Full", "model.loss": "CrossEntropy", "model.lr_scheduler": "constant"}
# Both follow from other settings, which say it better.
_SHADOWS = {
    "data.batch_size": "effective_batch_size",
    "trainer.accumulate_grad_batches": "effective_batch_size",
    "data_fingerprint": "",
}


def described(record: Record, everything: bool = False) -> dict[str, str]:
    """Return settings as text, such as ``{"model.optimizer": "SGD", "model.optimizer.lr": "1e-3"}``.

    Args:
        record: The run.
        everything: Also those that do not make a run the experiment it is.
    """
    found = {}
    for key, value in (record.everything if everything else record.settings).items():
        if key.endswith(".init_args"):  # there are none
            continue
        name = key.removesuffix(".class_path")
        text = value.rsplit(".", 1)[-1] if name != key and isinstance(value, str) else value_text(value)
        name = name.replace(".init_args", "")
        found[name] = _DEFAULTS[name] if value is None and name in _DEFAULTS else text
    return found


def varied_settings(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """List the settings in which some runs differ, the most important first.

    Args:
        runs: What `described` returns.
    """
    keys = dict.fromkeys(key for settings in runs for key in settings)
    found = []
    for key in keys:
        values = {settings.get(key, MISSING) for settings in runs}
        parent = key.rpartition(".")[0]
        # Momentum comes with SGD and is missing with Adam: "optimizer" says so already.
        if len({settings.get(parent) for settings in runs}) > 1:
            values.discard(MISSING)
        if len(values) > 1:
            found.append(key)
    said = [key for key in found if not _said_by_another(key, found, runs)]
    return sorted(said or found, key=lambda key: (_importance(key), list(keys).index(key)))


def short_names(keys: Sequence[str]) -> list[str]:
    """Name settings by one word, or by as much of their end as tells them apart."""
    names = [_NAMES.get(key, key.rpartition(".")[2]) for key in keys]
    return [
        name if names.count(name) == 1 else ".".join(key.split(".")[-2:])
        for key, name in zip(keys, names, strict=True)
    ]


def label(keys: Sequence[str], settings: Mapping[str, str], most: int = 3) -> str:
    """Describe a run by some of its settings: ``resnet50 lr 1e-4``.

    Args:
        keys: The settings, the most important first.
        settings: What `described` returns.
        most: How many to name; of more it says how many.
    """
    parts = []
    for key, name in zip(keys, short_names(keys), strict=True):
        text = settings.get(key, MISSING)
        text = text if len(text) <= 30 else f"{text[:29]}…"
        parts.append(text.removesuffix("Loss") if key in _PLAIN and text != MISSING else f"{name} {text}")
    more = [f"+{len(parts) - most}"] if len(parts) > most else []
    return " ".join([*parts[:most], *more])


def find_setting(wanted: str, runs: Sequence[Mapping[str, str]], option: str) -> str:
    """Find the setting that a short name means.

    Args:
        wanted: ``lr``, ``finetune``, ``model.optimizer.init_args.lr`` ...
        runs: What `described` returns.
        option: Of the command, for the message.

    Raises:
        UserError: No run has it, or several settings have that name.
    """
    known = dict.fromkeys(key for settings in runs for key in settings)
    plain = wanted.removesuffix(".class_path").replace(".init_args", "")
    named = [key for key, name in _NAMES.items() if name == plain and key in known]
    keys = [key for key in known if key == plain] or named or [k for k in known if k.endswith(f".{plain}")]
    if not keys:
        names = dict.fromkeys([*short_names(list(known)), *known])
        close = difflib.get_close_matches(wanted, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"{option} {wanted}: no run has that setting{hint}")
    if len(keys) > 1:
        raise UserError(f"{option} {wanted} may mean {', '.join(keys)}; give one of them in full")
    return keys[0]


def matches(text: str, settings: Mapping[str, str], wanted: str) -> bool:
    """Say whether a setting has a value: ``1e-3`` is 0.001, ``Frozen`` any case, ``Dice`` is DiceLoss."""
    have = settings.get(text, MISSING)
    try:
        return float(have) == float(wanted)
    except ValueError:
        return wanted.lower() in (have.lower(), have.lower().removesuffix("loss"))


def value_text(value: object) -> str:
    """Return a value as people write it: 1e-4, none, true, Flip+Crop."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.4g}" if value == 0 or abs(value) >= 0.01 else f"{value:.3e}"
        return re.sub(r"\.?0*e([-+])0*", r"e\1", text)
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and "class_path" in v for v in value):
            return "+".join(v["class_path"].rsplit(".", 1)[-1] for v in value)
        text = ", ".join(map(value_text, value))
        return f"[{text}]" if len(value) < 5 else f"{len(value)}: {text}"
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, dict) else str(value)


def provenance(records: Iterable[Record]) -> str:
    """Say in what the runs of a group differ though their settings are the same: commit, versions, precision."""
    facts: dict[str, dict[str, None]] = {}
    for record in records:
        environment = record.environment
        seen = {"commit": _code(environment)}
        if environment.get("user_code"):
            seen["your code"] = ", ".join(map(_code, environment["user_code"]))
        seen |= {name: str(v) for name, v in (environment.get("packages") or {}).items()}
        seen["precision"] = str(record.everything.get("trainer.precision") or "not recorded")
        for name, value in seen.items():
            facts.setdefault(name, {})[value] = None
    return ", ".join(f"{name} ({' / '.join(values)})" for name, values in facts.items() if len(values) > 1)


def _code(facts: JsonObject) -> str:
    """Name a commit, and what was not committed by a digest: two patches on one commit are two programs."""
    text = str(facts.get("commit") or "unknown")[:7]
    dirty = facts.get("dirty", facts.get("uncommitted_changes", False))  # the second is its name before 0.2
    if dirty is None:
        text += " with unknown changes"
    elif dirty:
        text += f" with uncommitted changes {str(facts.get('patch_sha256') or '')[:6]}".rstrip()
    return text


def _importance(key: str) -> int:
    fits = [i for i, known in enumerate(_ORDER) if key == known]
    fits += [len(_NAMES) + i for i, known in enumerate(_ORDER[len(_NAMES) :]) if key.startswith(f"{known}.")]
    return min(fits, default=len(_ORDER) + len(_NAMES))


def _said_by_another(key: str, found: Sequence[str], runs: Sequence[Mapping[str, str]]) -> bool:
    """Say whether a setting only repeats one that is shown: two are the same where one is."""
    if key not in _SHADOWS:
        return False
    others = [_SHADOWS[key]] if _SHADOWS[key] else [k for k in found if k.startswith("data")]
    for other in others:
        if other in found and other != key:
            pairs = {(settings.get(key), settings.get(other)) for settings in runs}
            if len(pairs) == len({second for _, second in pairs}):
                return True
    return False
