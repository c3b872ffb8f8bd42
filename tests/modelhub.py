"""A model hub on this machine, as far as its client asks when it sends a model: who am I, repositories, uploads, commits. Rights go by token."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from serving import serve

WRITER, READER, STRANGER = "hf_writer_canary_0001", "hf_reader_canary_0002", "hf_stranger_canary_03"
ROLES = {WRITER: ("me", "write"), READER: ("reader", "read"), STRANGER: ("stranger", "write")}


@dataclass
class Repository:
    """A repository's files, and its commits' messages."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """Where it listens, and what it holds."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def model_hub() -> Iterator[Hub]:
    """Serve until the block ends."""
    with serve(_Handler) as endpoint:
        _Handler.hub = Hub(endpoint)
        yield _Handler.hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path.startswith("/upload/"):
            oid = path.removeprefix("/upload/")
            assert hashlib.sha256(body).hexdigest() == oid
            self.hub.uploads[oid] = body
            return self._json(200, {})
        name, role = ROLES.get(self.headers.get("authorization", "").removeprefix("Bearer "), ("", ""))
        if path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        if not name:
            return self._json(401, {"error": "Invalid credentials"})
        if path == "/api/whoami-v2":
            return self._json(200, {"name": name, "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": role}}})
        if path == "/api/repos/create":
            return self._create(name, json.loads(body))
        return self._in_repository(path, body)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def _create(self, user: str, wanted: dict[str, str]) -> None:
        owner = wanted["organization"] or user
        if user != "me":
            return self._json(403, {"error": f"You don't have the rights to create a model under the namespace {owner!r}"})
        repository = f"{owner}/{wanted['name']}"
        exists = repository in self.hub.repositories
        self.hub.repositories.setdefault(repository, Repository(private=wanted.get("visibility") == "private"))
        return self._json(409 if exists else 200, {"url": f"{self.hub.endpoint}/{repository}", "error": "exists"})

    def _in_repository(self, path: str, body: bytes) -> None:
        name = "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2]).removesuffix(".git")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        rest = path.partition(name)[2]
        if not rest:
            return self._json(200, {"id": name, "private": repository.private, "sha": "a" * 40, "siblings": [], "tags": [], "downloads": 0})
        if rest.startswith("/tree/"):
            return self._json(200, [{"type": "file", "path": f, "size": len(data), "oid": "0" * 40} for f, data in repository.files.items()])
        if rest.startswith("/preupload/"):
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular", "shouldIgnore": False} for f in asked]
            return self._json(200, {"files": modes})
        if rest == ".git/info/lfs/objects/batch":
            return self._json(200, {"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]}, kind="application/vnd.git-lfs+json")
        assert rest.startswith("/commit/")
        return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])

    def _place(self, wanted: dict[str, object]) -> dict[str, object]:
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{wanted['oid']}", "header": {}}}}

    def _commit(self, name: str, repository: Repository, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    repository.commits.append(value["summary"])
                case "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repository.files[value["path"]] = self.hub.uploads[value["oid"]]
                case "deletedFile":
                    del repository.files[value["path"]]
        self._json(200, {"success": True, "commitOid": "b" * 40, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{'b' * 40}"})

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None, kind: str = "application/json") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""
