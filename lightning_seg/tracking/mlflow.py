"""A run as an MLflow run: on a server, or in a SQLite file in the current folder, as MLflow itself does it."""

import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lightning_seg.errors import UserError
from lightning_seg.runs.directory import CONFIG, ENVIRONMENT, METRICS, TEST_SCORES, write_whole
from lightning_seg.runs.records import Record, flatten
from lightning_seg.tracking.naming import run_name, short_settings
from lightning_seg.tracking.tracker_sync import Picture, Row, Status
from lightning_seg.tracking.wandb_logger import anonymous

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

STATE = "mlflow.json"  # in the run directory: which MLflow run it is, and what it has been sent
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # that MLflow takes at once
_LONGEST = 500  # characters of a parameter
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass
class MLflowSettings:
    """Where MLflow is, for ``tracking: [mlflow]``.

    Args:
        uri: Address of the server, or ``sqlite:///FILE``; the environment's MLFLOW_TRACKING_URI unless given, or
            ``mlflow.db`` in the current folder, which ``mlflow ui`` shows when it is started there.
        experiment: Name of the MLflow experiment; that of the experiment unless given.
    """

    uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class _State:
    """What MLflow has of a run.

    Attributes:
        uri: Where it is.
        run_id: The MLflow run.
        rows: Rows of metrics.csv that were sent.
        sending: Rows that were sent, or about to be when the program was killed, and
        at: with which time, in ms: sent once more with the same time, MLflow takes them for the same.
        pictures: Digest of the newest picture of each name.
    """

    uri: str
    run_id: str
    rows: int = 0
    sending: int = 0
    at: int = 0
    pictures: dict[str, str] = field(default_factory=dict)


class MLflow:
    """Keeps an MLflow run equal to a run directory: metrics, pictures, parameters, scores, status.

    Args:
        run: The run directory.
        settings: Where MLflow is.

    Raises:
        UserError: MLflow is not installed.
    """

    name = "mlflow"
    rewinds = False

    def __init__(self, run: Path, settings: MLflowSettings | None = None) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise UserError("it is not installed: pip install mlflow")
        self.run = run
        self.settings = settings or MLflowSettings()
        given = self.settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = given or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
        file = self._uri.removeprefix("sqlite:///")  # MLflow would put its files into the current folder
        self._artifacts = (
            None if file == self._uri else (Path(file).absolute().parent / "mlartifacts").as_uri()
        )
        self._client: MlflowClient | None = None
        self._state = _State("", "")
        self._step = 0

    @property
    def client(self) -> "MlflowClient":
        """MLflow's own client."""
        if self._client is None:
            self._client = _client(self._uri)
        return self._client

    def begin(self, record: Record, rows: list[Row]) -> None:
        """Make the MLflow run, or go on with it; one that has rows which are no longer true is made anew."""
        self._state = self._read_state()
        if self._state.run_id and self._state.rows > len(rows):
            self.client.delete_run(self._state.run_id)
            self._state = _State(self._uri, "")
        overrides = record.environment.get("overrides", ())
        if not self._state.run_id:
            tags = {"lightning_seg.run": f"{record.experiment}/{record.id}"}
            tags |= {f"tag.{tag}": "true" for tag in record.tags}
            started = self.client.create_run(
                self._experiment(record), run_name=run_name(record, overrides), tags=_texts(tags)
            )
            self._state = _State(self._uri, started.info.run_id)
            self._write_state()
        else:
            self.client.update_run(self._state.run_id, status="RUNNING")
        self._parameters(record, overrides)
        self._files(CONFIG, ENVIRONMENT)

    def send(self, rows: list[Row], pictures: list[Picture]) -> None:
        """Add what is new."""
        self._step = max((row.step for row in rows), default=0)
        if self._state.sending > self._state.rows:  # it was killed in between
            self._metrics(rows[self._state.rows : self._state.sending], self._state.at)
            self._state = replace(self._state, rows=self._state.sending)
        if len(rows) > self._state.rows:
            self._state = replace(self._state, sending=len(rows), at=int(time.time() * 1000))
            self._write_state()
            self._metrics(rows[self._state.rows :], self._state.at)
            self._state = replace(self._state, rows=len(rows))
            self._write_state()
        for picture in pictures:
            digest = hashlib.sha256(picture.data).hexdigest()
            if self._state.pictures.get(picture.name) == digest:
                continue
            with Image.open(io.BytesIO(picture.data)) as image:
                self.client.log_image(
                    self._state.run_id,
                    image.convert("RGB"),
                    key=_name(picture.name),
                    step=picture.step,
                    synchronous=True,
                )
            self._state.pictures[picture.name] = digest
            self._write_state()

    def end(self, record: Record, status: Status, scores: Mapping[str, float]) -> None:
        """Add scores, files and status."""
        known = self.client.get_run(self._state.run_id).data.metrics
        new = {name: value for name, value in scores.items() if known.get(_name(name)) != value}
        if new:
            self._metrics([Row(self._step, dict(new))], int(time.time() * 1000))
        self._files(CONFIG, ENVIRONMENT, METRICS, TEST_SCORES)
        if record.reason:
            self.client.set_tag(self._state.run_id, "error", record.reason[:_LONGEST])
        self.client.set_terminated(self._state.run_id, _STATUS[status])

    def _experiment(self, record: Record) -> str:
        name = self.settings.experiment or record.experiment
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=self._artifacts))

    def _parameters(self, record: Record, overrides: Iterable[str]) -> None:
        """Log settings once: MLflow takes no other value later. All of them, as they are now, are in config.yaml."""
        from mlflow.entities import Param

        told = {**short_settings(record, list(overrides)), **dict(flatten(anonymous(record.config)))}
        known = self.client.get_run(self._state.run_id).data.params
        new = [Param(_name(k), v) for k, v in _texts(told).items() if v and _name(k) not in known]
        for i in range(0, len(new), _MOST_PARAMETERS):
            self.client.log_batch(self._state.run_id, params=new[i : i + _MOST_PARAMETERS])

    def _metrics(self, rows: list[Row], at: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_name(k), v, at, row.step) for row in rows for k, v in row.values.items()]
        for part in _parts(metrics):
            self.client.log_batch(self._state.run_id, metrics=part)

    def _files(self, *names: str) -> None:
        for name in names:
            if (self.run / name).is_file():
                self.client.log_artifact(self._state.run_id, str(self.run / name))

    def _read_state(self) -> _State:
        try:
            state = _State(**json.loads((self.run / STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return _State(self._uri, "")
        return state if state.uri == self._uri else _State(self._uri, "")

    def _write_state(self) -> None:
        write_whole(self.run / STATE, json.dumps(asdict(self._state), indent=1) + "\n")


def _client(uri: str) -> "MlflowClient":
    """Make a client that does not wait long, and says nothing of its own."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(uri)


def _parts(metrics: "list[Metric]") -> "Iterator[list[Metric]]":
    for i in range(0, len(metrics), _MOST_METRICS):
        yield metrics[i : i + _MOST_METRICS]


def _name(text: str) -> str:
    """Spell a name as MLflow allows it."""
    return "/".join(filter(None, re.sub(r"[^\w\-. :/]", "_", text).split("/")))


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value)[:_LONGEST] for name, value in values.items() if value is not None}
