"""What W&B is told about a run in the words people use: its name, its settings, and which runs are its repetitions."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import yaml

from lightning_seg.analysis.settings import described, label
from lightning_seg.runs.directory import SEARCHES, JsonObject
from lightning_seg.runs.records import Record

# Key in W&B's configuration, in the order of importance: where it stands in a run's settings.
KEYS = {
    "network": "model.network.class_path",
    "backbone": "model.network.init_args.backbone",
    "weights": "model.network.init_args.weights",
    "finetune": "model.finetune.class_path",
    "loss": "model.loss.class_path",
    "lr": "model.optimizer.init_args.lr",
    "batch": "effective_batch_size",
    "epochs": "trainer.max_epochs",
    "data": "data.class_path",
    "seed": "seed_everything",
}
_CLASSES = ("network", "finetune", "loss", "data")
VARIANT = "variant"
SETTINGS = "settings"  # all of them, as config.yaml has them, below this key
_MOST = 4  # settings in a name


def wandb_key(setting: str) -> str:
    """Return the key of a setting in W&B's configuration: ``lr`` for ``model.optimizer.init_args.lr``.

    Args:
        setting: As config.yaml spells it, or a key of `KEYS` or of ``environment``.
    """
    if setting in (*KEYS, VARIANT, "params", "experiment") or setting.startswith((SETTINGS, "environment")):
        return setting
    known = {path.removesuffix(".class_path"): key for key, path in KEYS.items()}
    if setting == "data_fingerprint":
        return f"environment.{setting}"
    return known.get(setting.removesuffix(".class_path"), f"{SETTINGS}.{setting}")


def short_settings(record: Record, overrides: Sequence[str]) -> JsonObject:
    """Return a run's settings under the keys of `KEYS`, with its number of parameters and its variant.

    Args:
        record: Configuration and environment of the run; without an environment the variant is left out.
        overrides: The arguments by which the run differs from its experiment, ``--key=value``.
    """
    texts = described(record)
    found: JsonObject = {"experiment": record.experiment}
    for key, path in KEYS.items():
        found[key] = texts.get(_plain(path)) if key in _CLASSES else record.everything.get(path)
    if record.environment:
        found["params"] = record.environment.get("parameters")
        found[VARIANT] = variant(record, overrides)
    return found


def run_name(record: Record, overrides: Sequence[str]) -> str:
    """Name a run by what is different: ``unet_camvid · lr 1e-4 · seed 1``."""
    return " · ".join([*_parts(record, overrides), f"seed {record.seed}"])


def variant(record: Record, overrides: Sequence[str]) -> str:
    """Name all runs with the settings of this one, whatever their seed: ``unet_camvid · lr 1e-4 · #2c3f1a``."""
    settings = json.dumps(record.settings, sort_keys=True, default=str)
    return " · ".join([*_parts(record, overrides), f"#{hashlib.sha256(settings.encode()).hexdigest()[:6]}"])


def _parts(record: Record, overrides: Sequence[str]) -> list[str]:
    if "/" in record.experiment and not record.experiment.startswith(
        SEARCHES
    ):  # a variant of an ablation: its name says what is different
        return [record.experiment]
    texts = described(record)
    important = [_plain(path) for path in KEYS.values()]
    changed = [key for key in dict.fromkeys(_keys(overrides)) if key in texts]
    changed.sort(key=lambda key: (important.index(key) if key in important else len(important), key))
    parts = [label([key], texts) for key in changed]
    more = [f"+{len(parts) - _MOST}"] if len(parts) > _MOST else []
    return [record.experiment, *parts[:_MOST], *more]


def _keys(overrides: Sequence[str]) -> Iterator[str]:
    """Yield the settings that arguments change, as `described` calls them."""
    for i, word in enumerate(overrides):
        if not word.startswith("--"):
            continue
        key, _, text = word.removeprefix("--").partition("=")
        after = overrides[i + 1] if i + 1 < len(overrides) else ""
        try:
            value = yaml.safe_load(text or after)
        except yaml.YAMLError:
            value = None
        yield from _flat(_plain(key.removesuffix("+")), value)


def _plain(path: str) -> str:
    """Spell a setting as `described` does."""
    return path.removesuffix(".class_path").replace(".init_args", "")


def _flat(key: str, value: object) -> Iterator[str]:
    yield key
    for name, inner in (value.get("init_args") or {}).items() if isinstance(value, dict) else ():
        yield from _flat(f"{key}.{name}", inner)
