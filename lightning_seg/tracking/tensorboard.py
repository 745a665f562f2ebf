"""A run as one TensorBoard file in its directory: ``tensorboard --logdir runs`` shows all runs by their names."""

import importlib.util
import io
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG
from lightning_seg.runs.records import Record
from lightning_seg.tracking.naming import short_settings
from lightning_seg.tracking.tracker_sync import Picture, Row, Status

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

_PREFIX = "events.out.tfevents."  # TensorBoard reads files whose names hold "tfevents"


class TensorBoard:
    """Writes a run into one event file: scalars, pictures, settings, hyper-parameters, scores and status.

    A run that goes on writes a new file with all its rows, takes the earlier pictures over from the old one, and
    deletes that.

    Args:
        run: The run directory.

    Raises:
        UserError: TensorBoard is not installed.
    """

    name = "tensorboard"
    rewinds = True

    def __init__(self, run: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("it is not installed: pip install tensorboard")
        self.run = run
        self._file: IO[bytes] | None = None
        self._rows = 0
        self._last: dict[str, bytes] = {}
        self._step = 0

    def begin(self, record: Record, rows: list[Row]) -> None:
        """Begin the file anew, with what an earlier one has and is still true."""
        earlier = sorted(self.run.glob(f"{_PREFIX}*"))
        end = max((row.step for row in rows), default=-1)
        times, pictures = _kept(earlier, end)
        newest = max((int(file.name.split(".")[3]) for file in earlier), default=0)
        file = self.run / f"{_PREFIX}{max(int(time.time()), newest + 1)}.run"
        with file.with_name(file.name + ".part").open("wb") as self._file:
            self._write(None, 0, time.time())
            for summary in _settings(record):
                self._write(summary, 0, time.time())
            for row in rows:
                self._scalars(row, times.get(row.step, time.time()))
            for picture, at in pictures:
                self._picture(picture, at)
        file.with_name(file.name + ".part").replace(file)
        for old in earlier:
            old.unlink()
        self._file = file.open("ab")
        self._rows, self._step = len(rows), max(end, 0)

    def send(self, rows: list[Row], pictures: list[Picture]) -> None:
        """Add what is new."""
        now = time.time()
        for row in rows[self._rows :]:
            self._scalars(row, now)
            self._step = row.step
        self._rows = max(self._rows, len(rows))
        for picture in pictures:
            if self._last.get(picture.name) != picture.data:
                self._picture(picture, now)
        self._flush()

    def end(self, record: Record, status: Status, scores: Mapping[str, float]) -> None:
        """Add scores and status."""
        from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG

        now = time.time()
        self._scalars(Row(self._step, dict(scores)), now)
        if record.test:
            self._write(_text("test", f"```\n{json.dumps(record.test, indent=1)}\n```"), self._step, now)
        self._write(_text("status", f"{status} {record.reason}".rstrip()), self._step, now)
        self._write(_session(SESSION_END_INFO_TAG, status), self._step, now)
        self._flush()
        if self._file is not None:
            self._file.close()

    def _scalars(self, row: Row, at: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
        if values:
            self._write(Summary(value=values), row.step, at)

    def _picture(self, picture: Picture, at: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(io.BytesIO(picture.data)) as opened:
            width, height = opened.size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=picture.data)
        self._write(Summary(value=[Summary.Value(tag=picture.name, image=image)]), picture.step, at)
        self._last[picture.name] = picture.data

    def _write(self, summary: "Summary | None", step: int, at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=at, file_version="brain.Event:2") if summary is None else Event(
            wall_time=at, step=step, summary=summary
        )  # fmt: skip
        RecordWriter(self._file).write(event.SerializeToString())

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()


def _kept(files: list[Path], end: int) -> tuple[dict[int, float], list[tuple[Picture, float]]]:
    """Read from earlier files when each step was logged, and the pictures up to a step."""
    times: dict[int, float] = {}
    pictures: dict[tuple[str, int], tuple[Picture, float]] = {}
    for file in files:
        for event in _events(file):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    times[event.step] = event.wall_time
                elif value.HasField("image") and event.step <= end:
                    picture = Picture(value.tag, value.image.encoded_image_string, event.step)
                    pictures[value.tag, event.step] = picture, event.wall_time
    return times, list(pictures.values())


def _events(file: Path) -> "Iterator[Event]":
    """Yield the events of a file; one that was being written when the run was killed ends before that."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for data in RawEventFileLoader(str(file)).Load():
        yield Event.FromString(data)


def _settings(record: Record) -> "list[Summary]":
    """Return the settings as text, and the short ones as hyper-parameters that runs are compared by."""
    from torch.utils.tensorboard.summary import hparams

    overrides = record.environment.get("overrides", ())
    short = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in short_settings(record, overrides).items()
        if value is not None
    }
    score = "test/mask_ap" if str(record.config.get("task")).endswith("InstanceSegmentation") else "test/miou"
    experiment, start, _ = hparams(short, {score: 0.0, "train/loss": 0.0})
    text = (record.path / CONFIG).read_text(encoding="utf-8")
    return [_text("config", f"```\n{text}\n```"), experiment, start]


def _text(tag: str, text: str) -> "Summary":
    from torch.utils.tensorboard.summary import text as as_text

    return as_text(tag, text)


def _session(tag: str, status: Status) -> "Summary":
    """Say how a run ended, as the view of hyper-parameters wants to know it."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, STATUS_UNKNOWN
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    known = {"finished": STATUS_SUCCESS, "failed": STATUS_FAILURE, "stopped": STATUS_UNKNOWN}
    content = HParamsPluginData(
        session_end_info=SessionEndInfo(status=known[status], end_time_secs=time.time()),
        version=PLUGIN_DATA_VERSION,
    )
    data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))])
