"""What settings and classes were called in version 0.1.0: an old experiment or run ends in one error that says so."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_seg import PUBLIC
from lightning_seg.errors import UserError, parameters_of
from lightning_seg.runs.directory import JsonObject

# A setting by the end of its path.
SETTINGS: dict[str, str] = {
    "compile": "model.compile",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "lr_scaling": "model.lr_scaling",
    "gap.share": "overfitting.train_eval_fraction",
    "gap": "overfitting",
    "saving": "checkpointing",
    "backbone_lr": "backbone_lr_mult",
    "data.init_args.shares": "data.init_args.split_ratios",
    "data.init_args.class_crops": "data.init_args.class_balanced_crops",
    "data.init_args.scale": "data.init_args.scale_range",
    "data.init_args.fit": "data.init_args.large_scale_jitter",
}
# Class paths.
CLASSES: dict[str, str] = {
    "lightning_seg.callbacks.gap.Gap": "lightning_seg.callbacks.overfitting.OverfittingMonitor",
    "lightning_seg.callbacks.kernels.Kernels": "lightning_seg.callbacks.cudnn.CudnnBenchmark",
    "lightning_seg.callbacks.objects.ObjectPredictions": "lightning_seg.callbacks.prediction_writer.ObjectWriter",
    "lightning_seg.callbacks.predictions.Predictions": "lightning_seg.callbacks.prediction_writer.PredictionWriter",
    "lightning_seg.callbacks.record.Record": "lightning_seg.callbacks.run_record.RunRecord",
    "lightning_seg.callbacks.saving.Saving": "lightning_seg.callbacks.checkpointing.Checkpointing",
    "lightning_seg.losses.Dice": "lightning_seg.training.losses.DiceLoss",
    "lightning_seg.losses.Focal": "lightning_seg.training.losses.FocalLoss",
    "lightning_seg.losses.Jaccard": "lightning_seg.training.losses.JaccardLoss",
    "lightning_seg.losses.Lovasz": "lightning_seg.training.losses.LovaszLoss",
    "lightning_seg.losses.Sum": "lightning_seg.training.losses.CompoundLoss",
    "lightning_seg.losses.Tversky": "lightning_seg.training.losses.TverskyLoss",
    "lightning_seg.networks.backbone.Backbone": "lightning_seg.networks.backbones.timm_backbone.TimmBackbone",
    "lightning_seg.networks.plain.PlainEncoder": "lightning_seg.networks.backbones.plain.PlainBackbone",
    "lightning_seg.networks.unet.UNet2015": "lightning_seg.networks.unet.ClassicUNet",
    "lightning_seg.schedules.Step": "lightning_seg.training.schedules.MultiStep",
}
# Arguments whose old names are common words, so that they are old in these classes alone. A class is known by its last
# name: of its path today, of that in 0.1.0, or the name alone.
ARGUMENTS: dict[str, dict[str, str]] = {
    "OneCycle": {
        "rising": "pct_start of OneCycle",
        "start": "div_factor of OneCycle (its value is 1 / start)",
        "end": "final_div_factor of OneCycle (its value is start / end)",
    },
    "MultiStep": {"at": "milestones of MultiStep", "factor": "gamma of MultiStep"},
}
ARGUMENTS["Step"] = ARGUMENTS["MultiStep"]
_SCHEDULES = {"", "lightning_seg.schedules", "lightning_seg.training.schedules"}

# Modules whose classes have kept their names, but are elsewhere now.
MOVED = frozenset(
    """
    callbacks.saving callbacks.stopping data.ade20k data.augment data.camvid data.cityscapes data.coco
    data.folder data.hugging_face data.isbi data.mixing data.oxford_pet data.pennfudan data.shapes
    data.transforms data.voc finetune inference.logits lora losses networks.anchors
    networks.backbone networks.mask_rcnn networks.mask_rcnn_c4 networks.mix_transformer schedules sharding
    """.split()
)


def refuse_old_names(files: Mapping[Path, JsonObject], options: Sequence[str]) -> None:
    """Refuse settings that have another name now.

    Args:
        files: The settings of each file.
        options: Of the command line, ``--key=value``.

    Raises:
        UserError: Names all of them with their new names, and the file.
    """
    given = {file: list(_settings(settings)) for file, settings in files.items()}
    pairs = [option.lstrip("-").partition("=")[::2] for option in options if option.startswith("--")]
    classes = {  # by the setting that they are the value of; the last one counts
        path.removesuffix(".class_path"): value
        for pairs in (*given.values(), pairs)
        for path, value in pairs
        if isinstance(value, str)
    }
    for place, settings in [*given.items(), ("the command line", pairs)]:
        renamed = dict(
            filter(
                None, (found for pair in settings for found in (_setting(pair[0], classes), _class(pair[1])))
            )
        )
        if renamed:
            listed = ", ".join(f"{old} is now {new}" for old, new in renamed.items())
            raise UserError(f"{place} uses names of version 0.1.0: {listed}.")


def _settings(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each setting."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _settings(inner, f"{path}.{name}" if path else str(name))
        yield path, None
    elif isinstance(value, list):
        for inner in value:
            yield from _settings(inner, path)
    else:
        yield path, value


def _setting(path: str, classes: Mapping[str, str]) -> tuple[str, str] | None:
    owner, _, argument = path.rpartition(".")
    module, _, name = classes.get(owner.removesuffix(".init_args"), "").rpartition(".")
    if module in _SCHEDULES and (renamed := ARGUMENTS.get(name, {}).get(argument)):
        return path, renamed
    for old, new in SETTINGS.items():
        if _ends(path, old) and not _ends(path, new):
            return (path, new) if _has(path, new.rpartition(".")[2], classes) else None
        if path.startswith(f"{old}."):
            return (old, new) if _has(old, new.rpartition(".")[2], classes) else None
    return None


def _has(path: str, name: str, classes: Mapping[str, str]) -> bool:
    """Whether the class that a setting belongs to has one of another name; one that is not known here may have it."""
    owner, init_args, _ = path.rpartition(".init_args.")
    given = classes.get(owner) if init_args else None
    if given is None:
        return True
    known = CLASSES.get(given, given)
    known = known if known in PUBLIC else known.rpartition(".")[2]
    if known not in PUBLIC:
        return True
    return name in parameters_of(getattr(importlib.import_module(PUBLIC[known]), known))


def _class(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, str):
        return None
    if value in CLASSES:
        return value, CLASSES[value]
    module, _, name = value.rpartition(".")
    if module.removeprefix("lightning_seg.") in MOVED and name in PUBLIC:
        return value, f"{PUBLIC[name]}.{name}"
    return None


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
