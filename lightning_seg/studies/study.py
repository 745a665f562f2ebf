"""The two phases of an ablation: runs that choose settings by validation scores, then fresh ones that are reported."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_seg.analysis.metrics import lower_is_better
from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject
from lightning_seg.studies.plan import Ablation, resolved, slot_arguments
from lightning_seg.studies.slots import Slot
from lightning_seg.studies.tuning import Point, Tuning
from lightning_seg.studies.variant_tuning import FOLDER, Chosen, TuningSlot, VariantTuning


class Study:
    """All runs of an ablation: those that choose settings, and those that are reported.

    Args:
        ablation: The ablation.
        runs: Folder of all runs.
        arguments: Further settings for all runs, ``--key=value``.

    Attributes:
        tunings: The tuning of each variant that is tuned.

    Raises:
        UserError: A setting of a variant is wrong, or choosing would look at the images of the test.
    """

    def __init__(self, ablation: Ablation, runs: Path, arguments: Sequence[str] = ()) -> None:
        if any(argument.split("=")[0] == "--seed_everything" for argument in arguments):
            raise UserError("--seed_everything has no effect here: --seeds=0,1 says which seeds are reported")
        self.ablation, self._runs, self._arguments = ablation, runs, arguments
        self._final: dict[tuple[str, str], tuple[tuple[str, ...], JsonObject]] = {}
        self._slots: dict[tuple[str, int, str], Slot] = {}
        seen: list[object] = []
        for variant in ablation.variants:
            common, config = self._settings_of(variant)
            steps = config["data"], config["trainer"]["devices"]
            if steps not in seen:
                seen.append(steps)
                _refuse_few_images(common, config, variant)
        self.tunings = {
            variant: VariantTuning(variant, tuning, self._maker(variant, tuning))
            for variant, tuning in ablation.tune.items()
        }

    @cached_property
    def folder(self) -> Path:
        """Of the ablation."""
        return self._runs / self.ablation.name

    def tuning_slots(self) -> list[TuningSlot]:
        """List the runs that choose, as far as is known: the first seed of all choices first."""
        return sorted(
            (slot for tuning in self.tunings.values() for slot in tuning.slots()), key=lambda slot: slot.seed
        )

    def chosen(self) -> dict[str, Chosen]:
        """Return what was chosen for each variant whose tuning is done."""
        return self._look()[0]

    def untunable(self) -> dict[str, str]:
        """Say of each variant for which nothing can be chosen why."""
        return self._look()[1]

    def _look(self) -> tuple[dict[str, Chosen], dict[str, str]]:
        chosen, problems = {}, {}
        for name, one in self.tunings.items():
            try:
                if (found := one.chosen()) is not None:
                    chosen[name] = found
            except UserError as error:
                problems[name] = str(error)
        return chosen, problems

    def slots(self) -> list[Slot]:
        """List the runs that are reported whose settings are known, the first seed of all variants first."""
        chosen = self.chosen()
        known = [v for v in self.ablation.variants if v not in self.tunings or v in chosen]
        return [self._slot(v, seed, chosen.get(v)) for seed in self.ablation.seeds for v in known]

    def waiting(self) -> list[Slot]:
        """List the runs that are reported whose settings are still to be chosen."""
        chosen, problems = self._look()
        left = [variant for variant in self.tunings if variant not in chosen and variant not in problems]
        return [self._slot(variant, seed, None) for seed in self.ablation.seeds for variant in left]

    def as_chosen(self) -> Ablation:
        """Return the ablation with what was chosen as settings of its variants."""
        chosen = self.chosen()
        variants = {
            name: (*overrides, *(chosen[name].best.overrides if name in chosen else ()))
            for name, overrides in self.ablation.variants.items()
        }
        return replace(self.ablation, variants=variants, tune={})

    def _slot(self, variant: str, seed: int, chosen: Chosen | None) -> Slot:
        point = chosen.best if chosen else None
        key = variant, seed, point.label if point else ""
        if key not in self._slots:
            common, config = self._settings_of(variant, point)
            self._slots[key] = Slot(
                self.folder, variant, seed, (*common, f"--seed_everything={seed}"), config
            )
        return self._slots[key]

    def _settings_of(self, variant: str, point: Point | None = None) -> tuple[tuple[str, ...], JsonObject]:
        key = variant, point.label if point else ""
        if key not in self._final:
            place = f"{self.ablation.name}/{variant}"
            overrides = (*self._arguments, *(point.overrides if point else ()))
            common = slot_arguments(self.ablation, variant, self._runs, overrides, place)
            self._final[key] = common, resolved(common, variant)
        return self._final[key]

    def _maker(self, variant: str, tuning: Tuning) -> Callable[[Point, int], TuningSlot]:
        """Return what makes the runs of a variant's choices."""
        common, config = self._settings_of(variant)
        _refuse_test_images(common, config, variant)
        tuned = [
            key for key in tuning.settings if any(a.split("=")[0] == f"--{key}" for a in self._arguments)
        ]
        if tuned:
            raise UserError(f"--{tuned[0]} is tuned: take it from the command line, or from tune")
        monitor = config["checkpoint"]
        by = tuning.by or monitor["monitor"]
        less = (
            monitor["mode"] == "min" if by == monitor["monitor"] else lower_is_better(by.removeprefix("val/"))
        )
        if tuning.goal:
            less = tuning.goal == "minimize"
        decisive = len({(own.by, own.goal) for own in self.ablation.tune.values()}) == 1
        read: dict[str, JsonObject] = {}

        def make(point: Point, seed: int) -> TuningSlot:
            place = f"{self.ablation.name}/{FOLDER}/{variant}-{point.label}"
            overrides = (*self._arguments, *point.overrides)
            common = slot_arguments(self.ablation, variant, self._runs, overrides, place)
            if point.label not in read:
                like = next(iter(read.values()), None)
                known = None if like is None else _with_values(like, point)
                try:
                    read[point.label] = known or resolved(common, f"{variant} {point.label}")
                except UserError as error:
                    raise UserError(
                        f"{error}\nA variant that has no such setting needs a 'tune' of its own, or 'tune: null'."
                    ) from None
            arguments = (*common, f"--seed_everything={seed}")
            sign = -1 if less else 1
            return TuningSlot(
                self.folder, variant, seed, arguments, read[point.label], point, by, sign, decisive
            )

        return make


def _with_values(config: JsonObject, point: Point) -> JsonObject | None:
    """Put the numbers of a choice into settings that were read; None where only the parser knows what they mean."""
    found = copy.deepcopy(dict(config))
    for key, value in point.values:
        *folders, leaf = key.split(".")
        inner: Any = found
        for folder in folders:
            inner = inner.get(folder) if isinstance(inner, dict) else None
        same = isinstance(inner, dict) and type(inner.get(leaf)) is type(value)
        if not same or not isinstance(value, int | float):
            return None
        inner[leaf] = value
    return found


def _refuse_few_images(arguments: Sequence[str], config: JsonObject, variant: str) -> None:
    """Refuse a share of the training images that does not fill one step: every run would end with that."""
    if config["data"]["init_args"].get("train_share", 1) >= 1:
        return
    from lightning_seg.data.shares import refuse_too_few
    from lightning_seg.experiment.experiment import ExperimentSettings
    from lightning_seg.experiment.limits import asked_devices

    data = ExperimentSettings(list(arguments)).build_data()
    try:
        images = len(data.samples(data.train_split)) * data.samples_per_image
    except UserError:
        return  # the data is not there yet
    trainer = config["trainer"]
    devices = (asked_devices(trainer["devices"]) or 1) * trainer["num_nodes"]
    try:
        refuse_too_few(data.train_split, images, data.batch_size, devices, data.train_share)
    except UserError as error:
        raise UserError(f"variant {variant}: {error}") from None


def _refuse_test_images(arguments: Sequence[str], config: JsonObject, variant: str) -> None:
    """Refuse to choose by images that the test will score."""
    from lightning_seg.experiment.experiment import ExperimentSettings

    fields = config["data"]["init_args"]
    train, val, test = fields.get("train_split", ""), fields["val_split"], fields["test_split"]
    if fields.get("fold") is None and (both := {*train.split("+")} & {*val.split("+"), *test.split("+")}):
        raise UserError(
            f"variant {variant}: the split {', '.join(sorted(both))} is trained on"
            f" (data.init_args.train_split={train}), so it can neither choose (val_split={val}) nor be tested"
            f" (test_split={test})"
        )
    shared = "a fold is" if fields.get("fold") is not None else ""
    if both := {*val.split("+")} & {*test.split("+")}:
        shared = f"the split {', '.join(sorted(both))} is"
    if not shared:
        data = ExperimentSettings(list(arguments)).build_data()
        try:
            chooses = {repr(sample) for sample in data.samples(val)}
            trains = {repr(sample) for sample in data.samples(train)} if train else set()
        except UserError:
            return  # the data is not there yet
        for key, split, images in (("val_split", val, chooses), ("test_split", test, None)):
            try:
                own = {repr(sample) for sample in data.samples(split)} if images is None else images
            except UserError:
                continue
            if both := trains & own:
                raise UserError(
                    f"variant {variant}: {len(both)} of the {len(own)} images of data.init_args.{key}={split} are"
                    f" trained on, too (data.init_args.train_split={train}): leave them out of the one or the other"
                )
        try:
            shared = "some of them are" if chooses & {repr(sample) for sample in data.samples(test)} else ""
        except UserError:
            shared = f"without a split {test} they are"
    if shared:
        plain = fields.get("fold") is None and val.isidentifier()
        halves = (
            f": --data.init_args.val_split={val}[:0.5] --data.init_args.test_split={val}[0.5:] halves them"
        )
        raise UserError(
            f"variant {variant}: tune chooses by the images of data.init_args.val_split={val}, and {shared} what the"
            f" test scores, so the answer would be too good. Give test_split images of its own{halves * plain}"
        )
