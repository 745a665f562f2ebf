"""What the stand-in for the W&B server answers to programs that ask for runs, workspaces and reports."""

import json

import yaml

ENTITY = "someone"
THEN = "2026-01-01T00:00:00Z"
LAST_PAGE = {"endCursor": None, "hasNextPage": False}


class PublicApi:
    """GraphQL operations of ``wandb.Api`` and wandb-workspaces, by name; `views` holds saved workspaces and reports."""

    def __init__(self) -> None:
        self.views: dict[str, dict] = {}
        self.projects: set[str] = set()
        self.sweeps: dict[str, dict] = {}
        self.commands: list[dict] = []  # for the agents of a sweep, one a heartbeat

    def _GetDefaultEntity(self, _: dict) -> dict:
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY}}

    def _Run(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        return {"project": {"run": run and self._node(run)}}

    def _Runs(self, v: dict) -> dict:
        edges = [
            {"node": self._node(r), "cursor": r.name} for r in self.runs.values() if r.project == v["project"]
        ]
        runs = {"edges": edges, "pageInfo": LAST_PAGE}
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False, "runs": runs}}

    def _node(self, run) -> dict:
        state = {None: "running", 0: "finished"}.get(run.exit_code, "failed")
        user = {"name": ENTITY, "username": ENTITY}
        node = run.bucket() | {"state": state, "createdAt": THEN, "heartbeatAt": THEN, "user": user}
        node |= {"group": run.group, "jobType": run.job_type, "tags": run.tags, "notes": run.notes}
        node |= {"commit": run.commit, "projectId": "1", "readOnly": False, "systemMetrics": "{}"}
        return node | {"summaryMetrics": json.dumps(run.summary), "historyKeys": self._history_keys(run)}

    def _history_keys(self, run) -> dict:
        return {"keys": {}, "lastStep": len(run.history) - 1, "sets": []}

    def _RunHistoryKeys(self, v: dict) -> dict:
        return {"project": {"run": {"historyKeys": self._history_keys(self.runs[v["name"]])}}}

    def _RunFiles(self, v: dict) -> dict:
        files = self.runs[v["name"]].files
        empty = {"id": "file", "url": "", "directUrl": "", "mimetype": "", "updatedAt": THEN, "md5": ""}
        edges = [
            {"node": empty | {"name": name, "sizeBytes": len(data)}, "cursor": name}
            for name, data in files.items()
        ]
        run = {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": LAST_PAGE}}
        return {"project": {"internalId": "1", "run": run}}

    def _RunOutputArtifacts(self, v: dict) -> dict:
        edges = [
            {"node": self._artifact(key, artifact), "cursor": key}
            for key, artifact in self.artifacts.items()
            if artifact["run"] == v["run"] and artifact["committed"] and not artifact["used_by"]
        ]
        found = {"totalCount": len(edges), "pageInfo": LAST_PAGE, "edges": edges}
        return {"project": {"run": {"artifacts": found}}}

    def _artifact(self, key: str, artifact: dict) -> dict:
        project = {"id": "P1", "internalId": "P1", "name": artifact["project"]}
        project |= {"entity": {"name": ENTITY}}
        sequence = {"__typename": "ArtifactSequence", "id": "s", "name": artifact["name"], "project": project}
        node = {"__typename": "Artifact", "id": key, "artifactSequence": sequence, "versionIndex": 0}
        node |= {
            "artifactType": {"name": artifact["type"]},
            "state": "COMMITTED",
            "digest": artifact["digest"],
        }
        node |= {"ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "aliases": [], "size": 1}
        node |= {"fileCount": len(artifact["files"]), "createdAt": THEN, "updatedAt": THEN}
        return node | dict.fromkeys(
            ("description", "metadata", "historyStep", "commitHash", "digestAlgorithm")
        )

    def _ArtifactType(self, _: dict) -> dict:
        return {"project": {"artifact": None}}  # whether a name is taken by another type

    def _ArtifactByID(self, v: dict) -> dict:
        known = self.artifacts.get(v["id"])
        return {"artifact": known and self._artifact(v["id"], known)}

    # -- workspaces and reports

    def _ProjectInternalId(self, _: dict) -> dict:
        return {"project": {"id": "UHJvamVjdDox", "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}}

    def _UpsertView2(self, v: dict) -> dict:
        key = v.get("id") or f"Vmlldzo{len(self.views) + 1}"
        self.views[key] = v | {"id": key}
        return {"upsertView": {"inserted": True, "view": self._view(key)}}

    _upsertView = _UpsertView = _UpsertView2

    def _view(self, key: str) -> dict:
        v = self.views[key]
        project = {"id": "P1", "name": v.get("projectName"), "entityName": v.get("entityName")}
        times = {"createdAt": THEN, "updatedAt": THEN, "description": v.get("description") or ""}
        return (
            {k: v.get(k) for k in ("id", "name", "type", "displayName", "spec")}
            | times
            | {"project": project}
        )

    def _View(self, v: dict) -> dict:
        edges = [
            {"node": self._view(key)} for key, view in self.views.items() if view["name"] == v["viewName"]
        ]
        return {"project": {"allViews": {"edges": edges}}}

    def _SpecificReport(self, v: dict) -> dict:
        return {"view": self._view(v["reportId"])}

    def _CreateProject(self, v: dict) -> dict:
        name = v["input"]["name"]
        self.projects.add(name)
        project = {
            "id": "P1",
            "name": name,
            "entityName": ENTITY,
            "description": "",
            "access": "",
            "views": "{}",
        }
        return {"upsertModel": {"project": project, "model": project, "inserted": True}}

    def _GetProjects(self, _: dict) -> dict:
        names = sorted({run.project for run in self.runs.values()} | self.projects)
        user = {
            "id": "U1",
            "name": ENTITY,
            "username": ENTITY,
            "email": "a@b.c",
            "admin": False,
            "flags": "{}",
        }
        user |= {"entity": ENTITY, "photoUrl": None, "deletedAt": None}
        user |= {"teams": {"edges": []}, "apiKeys": {"edges": []}}
        node = {"entityName": ENTITY, "createdAt": THEN, "isBenchmark": False, "user": user}
        edges = [{"cursor": name, "node": node | {"id": name, "name": name}} for name in names]
        return {"models": {"edges": edges, "pageInfo": LAST_PAGE}}

    # -- sweeps

    def _UpsertSweep(self, v: dict) -> dict:
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = yaml.safe_load(v["config"])
        project = {"id": "P1", "name": v["projectName"], "entity": {"id": "E1", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _SweepWithRuns(self, v: dict) -> dict:
        sweep = {"id": "S1", "name": v["sweep"], "config": yaml.safe_dump(self.sweeps[v["sweep"]])}
        return {"project": {"sweep": sweep | {"runs": {"edges": []}, "controller": None, "state": "RUNNING"}}}

    def _CreateAgent(self, _: dict) -> dict:
        return {"createAgent": {"agent": {"id": "agent"}}}

    def _Heartbeat(self, v: dict) -> dict:
        running = v["runState"] != "{}"
        commands = [] if running else [self.commands.pop(0) if self.commands else {"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}
