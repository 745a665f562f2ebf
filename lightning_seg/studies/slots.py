"""One run of an ablation: where it is, how far it is, and who may work on it."""

import fcntl
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import yaml

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import BEST_CHECKPOINT, LAST_CHECKPOINT, TEST_SETS, JsonObject
from lightning_seg.runs.records import Record, flatten, read, settings_of

State = Literal["done", "running", "half done", "failed", "missing", "given up"]
_PLACES = ("data.init_args.root", "data.init_args.num_workers")  # may differ from one start to the next
_SETTLED = ("trainer.precision",)  # a run decides where the experiment leaves it open


@dataclass(eq=False)
class Slot:
    """One run of an ablation: a variant with a seed, under settings that are known in full.

    Attributes:
        folder: Of the ablation, ``runs/<ablation>``.
        variant: Its name.
        seed: Of everything.
        arguments: What makes the run, as the command ``exp`` takes it.
        config: All settings, as the run's config.yaml will hold them.
    """

    command: ClassVar[str] = "exp"  # that makes the run

    folder: Path
    variant: str
    seed: int
    arguments: tuple[str, ...]
    config: JsonObject

    @cached_property
    def settings(self) -> JsonObject:
        """Those settings that count (see `lightning_seg.runs.records.Record.settings`), as ``a.b.c: value``."""
        return settings_of(self.config)

    @property
    def name(self) -> str:
        """Variant and seed, for people."""
        return f"{self.variant} seed {self.seed}"

    @property
    def home(self) -> Path:
        """The folder of the runs of this variant."""
        return self.folder / self.variant

    @property
    def log(self) -> Path:
        """What the run prints. While the run is made, the file is locked: see `lock`."""
        return self.folder / "logs" / f"{self.variant}-seed{self.seed}.log"

    def finished(self, record: Record) -> bool:
        """Say whether a run has all that is wanted of it."""
        return bool(record.test) and not self.unscored(record)

    def unscored(self, record: Record) -> JsonObject:
        """Return the planned test sets on which a run was not scored, or on others of that name."""
        found = {}
        for name, content in self._test_sets().items():
            made = read(record.path / TEST_SETS / name)
            scored = as_json((made.config.get("test_sets") or {}).get(name))
            if not made.test or scored != as_json(content):
                found[name] = content
        return found

    def _test_sets(self) -> JsonObject:
        """Return the test sets that are planned."""
        return self.config.get("test_sets") or {}

    def continuing(self, record: Record) -> list[str]:
        """Return the command that continues a run, or scores it on what was added since it was tested."""
        if not (record.test and (wanted := self.unscored(record))):
            return ["resume", str(record.path), *self._elsewhere(record)]
        sets = yaml.safe_dump(wanted, default_flow_style=True, width=math.inf).strip()
        command = ["test", str(record.path), "--test-sets-only", f"--test_sets={sets}"]
        # As its own test was: what it left out, and the last weights where no validation had chosen any.
        if (limit := self.settings.get("trainer.limit_test_batches")) is not None:
            command.append(f"--trainer.limit_test_batches={limit}")
        last = record.path / LAST_CHECKPOINT
        if last.exists() and not (record.path / BEST_CHECKPOINT).exists():
            command.append(f"--ckpt_path={last}")
        return [*command, *self._elsewhere(record)]

    def _elsewhere(self, record: Record) -> list[str]:
        """Return the settings of where a run is made that are others now, such as the folder of the data."""
        planned, made = dict(flatten(self.config)), dict(flatten(record.config))
        changed = [key for key in _PLACES if key in planned and planned[key] != made.get(key, planned[key])]
        return [f"--{key}={planned[key]}" for key in changed if planned[key] is not None]

    def scored(self, record: Record) -> str:
        """Say what a finished run has scored."""
        return f"mIoU {100 * record.score('miou'):.1f}"

    def hopeless(self) -> str:
        """Say why a run that is being made need not go on; nothing if it should."""
        return ""

    def unusable(self) -> str:
        """Say why the finished run, and any other of the ablation, cannot serve its purpose; nothing if it can."""
        return ""

    @property
    def failure(self) -> str:
        """Why the last attempt failed; nothing if it did not, or if the settings have changed since."""
        return self._kept(".failed")

    def fail(self, reason: str) -> None:
        """Note that the last attempt failed, and why; nothing takes that back."""
        self._keep(".failed", reason)

    @property
    def given_up(self) -> str:
        """Why the run was ended before its time; nothing if it was not, or if the settings have changed since."""
        return self._kept(".given-up")

    def give_up(self, reason: str) -> None:
        """Note that the run was ended before its time."""
        self._keep(".given-up", reason)

    def _kept(self, ending: str) -> str:
        try:
            kept = json.loads(self._beside_log(ending).read_text())
        except (OSError, ValueError):
            return ""
        sets = as_json(self._test_sets())  # of which arguments do not tell those in the experiment's file
        same = kept["arguments"] == [*self.arguments] and kept.get("test_sets", sets) == sets
        return kept["reason"] if same else ""

    def _keep(self, ending: str, reason: str) -> None:
        file = self._beside_log(ending)
        if reason:
            kept = {"reason": reason, "arguments": self.arguments, "test_sets": self._test_sets()}
            file.write_text(json.dumps(kept) + "\n")
        else:
            file.unlink(missing_ok=True)

    def _beside_log(self, ending: str) -> Path:
        return self.log.with_name(f"{self.log.stem}{ending}")

    def records(self) -> list[Record]:
        """Read the runs of this variant and seed, also those under other settings, oldest first."""
        runs = sorted(path.parent for path in self.home.glob("*/config.yaml"))
        return [record for record in map(read, runs) if record.seed == self.seed]

    def run(self) -> Record | None:
        """Find the run: a finished one, else one that was tested, else the newest."""
        ours = [record for record in self.records() if not self.differences(record)]
        return max(ours, key=lambda r: (self.finished(r), bool(r.test), r.id), default=None)

    def differences(self, record: Record) -> list[str]:
        """List the settings in which a run is not what is planned.

        A setting that only one of them has came with another version of the program, and does not count.
        """
        planned, made = self.settings, settings_of(record.config)
        differing = [key for key in planned.keys() & made.keys() if planned[key] != made[key]]
        # Nothing where there is an object now, or the reverse.
        differing += [*(made.keys() & _groups(planned)), *(planned.keys() & _groups(made))]
        return sorted(key for key in differing if planned.get(key, "") is not None or key not in _SETTLED)

    def state(self) -> State:
        """Say how far the run is."""
        run = self.run()
        if run is not None and self.finished(run):
            return "done"
        if self.log.exists():
            log = self.lock(fcntl.LOCK_SH)
            if log is None:
                return "running"
            log.close()
        if self.given_up:
            return "given up"
        if self.failure:
            return "failed"
        return "missing" if run is None else "half done"

    def settled(self) -> bool:
        """Whether nothing is left to be made, for who holds the lock, by which `state` is "running"."""
        run = self.run()
        return bool(self.given_up) or (run is not None and self.finished(run))

    def lock(self, kind: int = fcntl.LOCK_EX) -> IO[bytes] | None:
        """Take the right to make this run, or get None while somebody else has it.

        The lock is on the open log, which the process that trains inherits as its output: so it lasts as long as
        anybody works on the run, and the system takes it back from the dead. Closing the log gives it back.

        Raises:
            UserError: Files in this place cannot be locked.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        log = self.log.open("a+b")
        for patience in (0.05, 0.1, 0):  # somebody may only be looking
            try:
                fcntl.flock(log, kind | fcntl.LOCK_NB)
                return log
            except BlockingIOError:
                time.sleep(patience)
            except OSError as error:
                raise UserError(
                    f"{self.log} cannot be locked ({error.strerror}), so two runners might make the same run. Keep"
                    " runs where files can be locked: --runs=FOLDER"
                ) from error
        log.close()
        return None


def as_json(value: Any) -> Any:
    """Return a value as it comes back from JSON, whose keys are texts."""
    return json.loads(json.dumps(value))


def _groups(keys: Iterable[str]) -> set[str]:
    """List what holds settings: ``a`` and ``a.b`` of ``a.b.c``."""
    return {key[:i] for key in keys for i, letter in enumerate(key) if letter == "."}
