"""A stand-in for the W&B server on this machine's loopback, which the real wandb process talks to.

    with FakeWandb() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        ...
        server.runs["run id"].summary

It keeps what it is sent and answers just enough for runs, their files and artifacts. An operation it does not
know is answered with an error and noted in `unknown`; one in `refused` is answered with an error, too.
"""

import base64
import gzip
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

from tests.tracking.fake_wandb_api import ENTITY, PublicApi

KEY = "k" * 40


@dataclass
class FakeRun:
    """What the server knows of a run."""

    name: str
    project: str
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    lines: dict[str, list] = field(default_factory=dict)  # of streamed files, by file name
    files: dict[str, bytes] = field(default_factory=dict)
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    host: str | None = None
    commit: str | None = None
    sweep: str | None = None
    display_name: str | None = None
    exit_code: int | None = None

    @property
    def history(self) -> list[dict]:
        rows = [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]
        return list(
            {row["_step"]: row for row in rows}.values()
        )  # what is sent again replaces what was there

    def bucket(self) -> dict:
        """The run as the API describes it."""
        project = {"id": "project", "name": self.project, "entity": {"id": "entity", "name": ENTITY}}
        return {
            "id": base64.b64encode(f"Run:v1:{self.name}".encode()).decode(),
            "name": self.name,
            "displayName": self.display_name,
            "description": None,
            "config": json.dumps(self.config),
            "sweepName": None,
            "historyLineCount": len(self.lines.get("wandb-history.jsonl", [])),
            "project": project,
        }


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # the other side is gone, as tests want it to be


class FakeWandb(PublicApi):
    """The server; `url` is its address."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, FakeRun] = {}
        self.artifacts: dict[str, dict] = {}
        self.unknown: list[str] = []
        self.refused: set[str] = set()
        self.status: int | None = 200  # of every answer; None: requests are taken and never answered
        self._lock = threading.RLock()
        self._connections: set[socket.socket] = set()
        self._gone = threading.Event()
        self._http = QuietServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "FakeWandb":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go down as a machine that loses its power does: open connections break, too."""
        self._gone.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed by the other side

    # -- HTTP

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server._connections.add(self.connection)

            def finish(self) -> None:
                server._connections.discard(self.connection)
                super().finish()

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if body and self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                status = server.status
                if status is None:
                    server._gone.wait()
                    return
                reply: dict = {"errors": [{"message": f"told to answer {status}"}]}
                if status == 200:
                    with server._lock:
                        reply = server._route(unquote(urlsplit(self.path).path), body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer

        return Handler

    def _route(self, path: str, body: bytes) -> dict:
        if path == "/graphql":
            request = json.loads(body)
            name = (
                request.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
            )
            if name in self.refused:
                return {"data": None, "errors": [{"message": f"{name} is refused"}]}
            operation = getattr(self, f"_{name}", None)
            if operation is None:
                self.unknown.append(name)
                return {"data": None, "errors": [{"message": f"unknown operation {name}"}]}
            try:
                return {"data": operation(request.get("variables") or {})}
            except Exception as error:
                self.unknown.append(f"{name}: {error!r}")
                return {"data": None, "errors": [{"message": f"{name} failed"}]}
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
            return self._stream(self.runs[match[1]], json.loads(body))
        if match := re.fullmatch(r"/storage/run/([^/]+)/(.+)", path):
            self.runs[match[1]].files[match[2]] = body
        if match := re.fullmatch(r"/storage/artifact/([^/]+)/(.+)", path):
            self.artifacts[match[1]]["files"][match[2]] = body
        return {}

    def _stream(self, run: FakeRun, message: dict) -> dict:
        """Append to the line-wise files of a run; every chunk says from which line on it counts."""
        for name, chunk in (message.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            else:
                lines, start = run.lines.setdefault(name, []), chunk["offset"]
                lines[start : start + len(chunk["content"])] = chunk["content"]
        if message.get("complete"):
            run.exit_code = message.get("exitcode") or 0
        return {"exitcode": None, "limits": {}}

    # -- GraphQL operations, by name

    def _Viewer(self, _: dict) -> dict:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}}

    def _ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _: dict) -> dict:
        return {"entity": {"organization": None}}

    def _RunStoppedStatus(self, _: dict) -> dict:
        return {"project": {"run": {"stopped": False}}}

    def _UpsertBucket(self, v: dict) -> dict:
        new = v["name"] not in self.runs
        run = self.runs.setdefault(v["name"], FakeRun(v["name"], v["project"]))
        names = {"groupName": "group", "jobType": "job_type", "displayName": "display_name"}
        for key in ("groupName", "jobType", "displayName", "tags", "notes", "host", "commit", "sweep"):
            if v.get(key) is not None:
                setattr(run, names.get(key, key), v[key])
        if v.get("config"):
            run.config = json.loads(v["config"])
        if v.get("summaryMetrics"):
            run.summary = json.loads(v["summaryMetrics"])
        return {"upsertBucket": {"bucket": run.bucket(), "inserted": new}}

    def _RunResumeStatus(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        model = {
            "id": "project",
            "name": v["project"],
            "entity": {"id": "entity", "name": ENTITY},
            "bucket": None,
        }
        if run is not None:
            model["bucket"] = run.bucket() | {
                "summaryMetrics": json.dumps(run.summary),
                "logLineCount": len(run.lines.get("output.log", [])),
                "eventsLineCount": len(run.lines.get("wandb-events.jsonl", [])),
                "historyTail": json.dumps(run.lines.get("wandb-history.jsonl", [])[-1:]),
                "eventsTail": json.dumps(run.lines.get("wandb-events.jsonl", [])[-1:]),
                "tags": run.tags,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": model}

    def _CreateRunFiles(self, v: dict) -> dict:
        urls = [{"name": f, "uploadUrl": f"{self.url}/storage/run/{v['run']}/{quote(f)}"} for f in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": urls}}

    def _CreateArtifact(self, v: dict) -> dict:
        wanted, key = v["input"], f"A{len(self.artifacts)}"
        self.artifacts[key] = {
            "run": wanted["runName"],
            "project": wanted["projectName"],
            "used_by": [],
            "name": wanted["artifactCollectionName"],
            "type": wanted["artifactTypeName"],
            "digest": wanted["digest"],
            "aliases": [alias["alias"] for alias in wanted.get("aliases") or []],
            "files": {},
            "committed": False,
        }
        artifact = {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, v: dict) -> dict:
        key = (v.get("input") or v)["artifactID"]
        return {"createArtifactManifest": {"artifactManifest": self._manifest(key)}}

    def _UpdateArtifactManifest(self, v: dict) -> dict:
        key = (v.get("input") or v)["artifactManifestID"].removeprefix("manifest-")
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(key)}}

    def _manifest(self, key: str) -> dict:
        name = "wandb_manifest.json"
        url = f"{self.url}/storage/artifact/{key}/{name}"
        file = {"id": "file", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}
        return {"id": f"manifest-{key}", "file": file}

    def _CreateArtifactFiles(self, v: dict) -> dict:
        files = v.get("artifactFiles") or v["input"]["artifactFiles"]
        nodes = []
        for file in files:
            name, key = file["name"], file["artifactID"]
            node = {"id": "file", "name": name, "displayName": name, "storagePath": f"{key}/{name}"}
            node |= {"uploadUrl": f"{self.url}/storage/artifact/{key}/{quote(name)}", "uploadHeaders": []}
            node |= {"uploadMultipartUrls": None, "artifact": {"id": key}}
            nodes.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _UseArtifact(self, v: dict) -> dict:
        used = v.get("input") or v
        self.artifacts[used["artifactID"]]["used_by"].append(used["runName"])
        return {"useArtifact": {"artifact": {"id": used["artifactID"]}}}

    def _CommitArtifact(self, v: dict) -> dict:
        key = v.get("artifactID") or v["input"]["artifactID"]
        self.artifacts[key]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": key, "digest": self.artifacts[key]["digest"]}}}
