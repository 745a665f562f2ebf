"""The tuning of one variant: its runs, and what they have chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import JsonObject
from lightning_seg.runs.records import Record
from lightning_seg.studies import tuning as rules
from lightning_seg.studies.slots import Slot, State
from lightning_seg.studies.tuning import Point, Tuning

FOLDER = "tuning"  # in the ablation's: the runs that only choose
_FAILURES = (
    3  # choices after which, within a limit of minutes, a variant is given up of which none has trained
)
SETTLED: tuple[State, ...] = ("done", "failed", "given up")


@dataclass(eq=False)
class TuningSlot(Slot):
    """One run that helps to choose the settings of a variant; it is never tested.

    Attributes:
        point: The choice that it tries.
        by: The curve whose best value counts.
        sign: 1 where more is better, -1 where less is.
        decisive: Whether all variants are chosen for by this curve, so that without it there is no study.
    """

    command: ClassVar[str] = "fit"

    point: Point
    by: str
    sign: int
    decisive: bool = True
    _bracket: int | None = field(default=None, repr=False)
    _rivals: Sequence["TuningSlot"] = field(default=(), repr=False)
    _ended: Record | None = field(default=None, repr=False)
    _values: list[float] = field(default_factory=list, repr=False)

    @property
    def name(self) -> str:
        """Variant, choice and seed, for people."""
        return f"{self.variant} {self.point.label} seed {self.seed} (tuning)"

    @property
    def home(self) -> Path:
        """The folder of the runs of this choice."""
        return self.folder / FOLDER / f"{self.variant}-{self.point.label}"

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder / "logs" / f"{FOLDER}-{self.variant}-{self.point.label}-seed{self.seed}.log"

    def finished(self, record: Record) -> bool:
        """Say whether a run has trained to its end."""
        return bool(record.environment.get("trained"))

    def continuing(self, record: Record) -> list[str]:
        """Return the command that continues a run, without a test."""
        return ["resume", str(record.path), "--no-test", *self._elsewhere(record)]

    def _test_sets(self) -> JsonObject:
        """Return none: what chooses is never tested."""
        return {}

    def scored(self, record: Record) -> str:
        """Say what a finished run has scored."""
        values = self._curve(record)
        return f"{self.by} {self.sign * max(values):.4f}" if values else f"no {self.by}"

    def unusable(self) -> str:
        """Say that the finished run lacks the curve, as others would, too; nothing if it has it."""
        run = self.run()
        if run is None or not self.finished(run) or self.by in run.columns() or not self.decisive:
            return ""
        return self._lacks(run)

    def _lacks(self, run: Record) -> str:
        known = [name for name in run.curves() if name.startswith("val/")]
        return (
            f"{self.name} has no {self.by} to choose by; its validations have {', '.join(known) or 'nothing'}: name one"
            " of them in tune's by; runs that are done count"
        )

    def run(self) -> Record | None:
        """Find the run; one that has ended is looked for once."""
        if self._ended is None and (run := super().run()) is not None:
            if not self.finished(run):
                return run
            self._ended = run
        return self._ended

    def state(self) -> State:
        """Say how far the run is."""
        return "done" if self._ended is not None else super().state()

    def hopeless(self) -> str:
        """Say that others of its bracket were better after as many validations; nothing if it should go on."""
        run = None if self._bracket is None else self.run()
        if run is None or self._bracket is None:
            return ""
        others = [self._curve(other) for slot in self._rivals if (other := slot.run()) is not None]
        return rules.rank_at_rung(self._curve(run), others, self._bracket)

    def meet(self, bracket: int, rivals: Sequence["TuningSlot"]) -> None:
        """Compare the run with others from now on, to give it up if it is hopeless beside them.

        Args:
            bracket: When it is first compared (see `lightning_seg.studies.tuning.brackets`).
            rivals: The runs that it is compared with.
        """
        self._bracket, self._rivals = bracket, rivals

    def value(self) -> float:
        """Return the best value of the curve, more is better.

        Raises:
            UserError: The run has no such curve.
        """
        run = self.run()
        self._values = self._values or ([] if run is None else self._curve(run))
        if not self._values:
            raise UserError(f"{self.name} has no {self.by}" if run is None else self._lacks(run))
        return max(self._values)

    def diverged(self) -> bool:
        """Whether the run has the curve, and none of its values is a number."""
        run = self.run()
        return run is not None and not self._curve(run) and self.by in run.columns()

    def _curve(self, record: Record) -> list[float]:
        points = record.curves(classes=self.by.count("/") > 1).get(self.by)
        return [] if points is None else [self.sign * value for value in points[:, 2].tolist()]


@dataclass(frozen=True)
class Tried:
    """How one choice of settings did.

    Attributes:
        point: The choice.
        scores: Of its runs, one a seed; empty if a run of it failed or was given up.
        state: How it ended.
    """

    point: Point
    scores: tuple[float, ...]
    state: Literal["done", "failed", "given up"]

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without scores."""
        return float(np.mean(self.scores)) if self.scores else float("nan")


@dataclass(frozen=True)
class Chosen:
    """What tuning found for a variant.

    Attributes:
        variant: Its name.
        tuning: How it was tuned.
        by: The curve that chose.
        sign: 1 where more is better, -1 where less is.
        best: The choice.
        tried: All choices, in the order in which they were tried.
        base: How many of them were there before going beyond an edge.
        at_edge: The settings whose best value is the smallest or largest of those tried.
        refused: What lies beyond an edge and makes no sense, and why.
        runs: How many runs it took.
        seconds: How long these trained; NaN if that is not recorded.
    """

    variant: str
    tuning: Tuning
    by: str
    sign: int
    best: Point
    tried: tuple[Tried, ...]
    base: int
    at_edge: tuple[str, ...]
    refused: str
    runs: int
    seconds: float


class VariantTuning:
    """The tuning of one variant, as far as it is.

    Args:
        variant: Its name.
        tuning: How it is tuned.
        make: Makes the run of a choice and a seed; raises a UserError where the choice makes no sense.
    """

    def __init__(self, variant: str, tuning: Tuning, make: Callable[[Point, int], TuningSlot]) -> None:
        self.variant, self.tuning, self._make = variant, tuning, make
        self.points = rules.points(tuning)
        self._slots: dict[str, list[TuningSlot]] = {}
        self.refused = ""

    def slots_of(self, point: Point) -> list[TuningSlot]:
        """Return the runs of a choice."""
        if point.label not in self._slots:
            self._slots[point.label] = [self._make(point, seed) for seed in self.tuning.seeds]
        return self._slots[point.label]

    def rounds(self) -> list[list[Point]]:
        """List the choices that are to be tried as far as is known: the first ones, then those beyond the edges."""
        found = [self._begun()]
        while len(found) <= self.tuning.extend and all(map(self._settled, tried := sum(found, []))):
            best = self._best(tried)
            further = [] if best is None else rules.beyond(self.tuning, tried, best)
            allowed = [point for point in further if self._allowed(point)]
            if not allowed:
                break
            found.append(allowed)
        return found

    def slots(self) -> list[TuningSlot]:
        """List the runs as far as is known, the first seed of all choices first; a choice that is out needs no more."""
        points = sum(self.rounds(), [])
        each = [self.slots_of(point) for point in points]
        if self.tuning.early_stop:
            self._meet(each)
        found = []
        for i in range(len(self.tuning.seeds)):
            for slots in each:
                states = [slot.state() for slot in slots[: i + 1]]
                if states[i] != "missing" or not {"failed", "given up"} & {*states[:i]}:
                    found.append(slots[i])
        return found

    def chosen(self) -> Chosen | None:
        """Return what was chosen, or None as long as runs are left.

        Raises:
            UserError: All choices failed.
        """
        rounds = self.rounds()
        points = sum(rounds, [])
        if not points or not all(map(self._settled, points)):
            return None
        if (
            self.tuning.minutes is not None
            and len(points) < len(self.points)
            and not (self._spent() or self._out(points))
        ):
            return None
        tried = tuple(map(self._tried, points))
        best = self._best(points)
        if best is None:
            slot = self.slots_of(points[0])[0]
            raise UserError(
                f"{self.variant} cannot be tuned: all {len(points)} choices failed, the first by"
                f" {slot.failure or ('values that are no numbers' if slot.diverged() else 'its rivals')} ({slot.log});"
                " --retry tries again"
            )
        records = [run for point in points for slot in self.slots_of(point) if (run := slot.run())]
        return Chosen(
            variant=self.variant,
            tuning=self.tuning,
            by=self.slots_of(best)[0].by,
            sign=self.slots_of(best)[0].sign,
            best=best,
            tried=tried,
            base=len(rounds[0]),
            at_edge=tuple(rules.edges(self.tuning, points, best)),
            refused=self.refused,
            runs=len(records),
            seconds=float(sum(record.training[2] for record in records)),
        )

    def _begun(self) -> list[Point]:
        """Return the choices of the first round; within a limit of minutes those tried, and one more."""
        if self.tuning.minutes is None:
            return self.points
        found: list[Point] = []
        for point in self.points:
            if self._spent(found) or self._out(found):
                break
            found.append(point)
            if not self._settled(point):
                break
        return found

    def _spent(self, points: Sequence[Point] | None = None) -> bool:
        """Whether choices took all the minutes that there are."""
        points = self._begun() if points is None else points
        records = [run for point in points for slot in self.slots_of(point) if (run := slot.run())]
        seconds = sum(record.training[2] for record in records if np.isfinite(record.training[2]))
        return self.tuning.minutes is not None and seconds >= 60 * self.tuning.minutes

    def _out(self, points: Sequence[Point]) -> bool:
        """Whether so many choices failed, and nothing else became of them, that the others will fail, too."""
        return len(points) >= _FAILURES and all(
            any(slot.state() == "failed" for slot in self.slots_of(point)) for point in points
        )

    def _settled(self, point: Point) -> bool:
        states = [slot.state() for slot in self.slots_of(point)]
        out = bool({"failed", "given up"} & {*states}) and not {"running", "half done"} & {*states}
        return out or all(state == "done" for state in states)

    def _tried(self, point: Point) -> Tried:
        slots = self.slots_of(point)
        states = [slot.state() for slot in slots]
        if all(state == "done" for state in states):
            if any(slot.diverged() for slot in slots):
                return Tried(point, (), "failed")
            return Tried(point, tuple(slot.sign * slot.value() for slot in slots), "done")
        return Tried(point, (), "failed" if "failed" in states else "given up")

    def _best(self, points: Sequence[Point]) -> Point | None:
        """Return the choice with the best mean; of equal ones the first."""
        tried = [one for one in map(self._tried, points) if one.scores]
        sign = self.slots_of(points[0])[0].sign if points else 1
        return max(tried, key=lambda one: sign * one.mean).point if tried else None

    def _allowed(self, point: Point) -> bool:
        """Whether the settings of a choice can be read; what lies beyond an edge may make no sense."""
        try:
            self.slots_of(point)
        except UserError as error:
            self.refused = f"{point.label} ({str(error).splitlines()[0]})"
            return False
        return True

    def _meet(self, each: Sequence[Sequence[TuningSlot]]) -> None:
        """Tell the runs of a bracket of each other."""
        length = _validations(each[0][0].config) if each else 1
        given = rules.brackets(len(each), length)
        for slots, bracket in zip(each, given, strict=True):
            others = [
                other
                for other, same in zip(each, given, strict=True)
                if same == bracket and other is not slots
            ]
            for i, slot in enumerate(slots):
                slot.meet(bracket, [other[i] for other in others])


def _validations(config: JsonObject) -> int:
    """Estimate how many validations a whole run has; 27 where only its data knows."""
    trainer = config["trainer"]
    steps, epochs = trainer.get("max_steps") or -1, trainer.get("max_epochs") or -1
    every, interval = trainer.get("check_val_every_n_epoch", 1), trainer.get("val_check_interval")
    if every is None:  # by batches, over the ends of epochs
        known = steps > 0 and isinstance(interval, int)
        return max(1, steps * (trainer.get("accumulate_grad_batches") or 1) // interval) if known else 27
    if steps > 0 or epochs < 0:
        return 27
    each = round(1 / interval) if isinstance(interval, float) and 0 < interval <= 1 else 1  # of an epoch
    return max(1, epochs // every * each)
