"""A hub on this machine that serves data sets from memory, as far as ``datasets`` asks: cards, listings, files; gated ones only for the right token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from serving import serve


@dataclass(frozen=True)
class Repository:
    """The files of one commit. ``token``: who has none like it is turned away, as from a gated data set."""

    files: Mapping[str, bytes]
    token: str | None = None

    @property
    def commit(self) -> str:
        """A hash of the files."""
        digest = hashlib.sha1()
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + data)
        return digest.hexdigest()


@dataclass
class Hub:
    """Where it listens, what it has, and every request that it got: method, path, and the token that came with it."""

    endpoint: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str]]


@contextmanager
def hub(repositories: Mapping[str, Repository]) -> Iterator[Hub]:
    """Serve until the block ends."""
    with serve(_Handler) as endpoint:
        _Handler.hub = Hub(endpoint, dict(repositories), [])
        yield _Handler.hub


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, token = unquote(url.path), self.headers.get("authorization", "").removeprefix("Bearer ")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.hub.requests.append((self.command, path, token))
        name = next((name for name in self.hub.repositories if f"/datasets/{name}" in f"{path}/"), None)
        if path == "/":
            return self._answer(200, b"a hub")
        if name is None:
            return self._refuse(404, "RepoNotFound" if "/api/datasets/" in path or "/resolve/" in path else "EntryNotFound")
        repository = self.hub.repositories[name]
        if repository.token and token != repository.token:
            return self._refuse(403 if token else 401, "GatedRepo")
        rest = path.partition(f"/datasets/{name}")[2].strip("/").split("/")
        if path.startswith("/api/"):
            return self._api(repository, name, rest, url.query, body)
        return self._file(repository, rest[1], "/".join(rest[2:]))

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _api(self, repository: Repository, name: str, rest: list[str], query: str, body: bytes) -> None:
        kind, revision = rest[0], rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound")
        if kind in ("", "revision"):
            siblings = [{"rfilename": file} for file in repository.files]
            return self._json({"id": name, "sha": repository.commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0})
        if kind == "tree":
            folder = "/".join(rest[2:])
            if folder and not any(file.startswith(f"{folder}/") for file in repository.files):
                return self._refuse(404, "EntryNotFound")
            return self._json(self._entries(repository, folder, recursive="true" in str(parse_qs(query).get("recursive"))))
        if kind == "paths-info":
            fields = parse_qs(body.decode())
            wanted = fields.get("paths") or json.loads(body or b"{}").get("paths", [])
            found = self._entries(repository, "", recursive=True)
            return self._json([entry for entry in found if entry["path"] in wanted])
        return self._refuse(404, "EntryNotFound")

    @staticmethod
    def _entries(repository: Repository, folder: str, *, recursive: bool) -> list[dict[str, object]]:
        """Files and folders below a folder."""
        prefix = f"{folder}/" if folder else ""
        below = [file for file in repository.files if file.startswith(prefix)]
        folders = {file[:i] for file in below for i, sign in enumerate(file) if sign == "/" and i > len(prefix)}
        entries = [{"type": "file", "path": f, "size": len(repository.files[f]), "oid": _oid(repository.files[f])} for f in below]
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        return [entry for entry in entries if recursive or "/" not in str(entry["path"])[len(prefix) :]]

    def _file(self, repository: Repository, revision: str, name: str) -> None:
        if revision not in ("main", repository.commit):
            return self._refuse(404, "RevisionNotFound")
        if name not in repository.files:
            return self._refuse(404, "EntryNotFound", repository.commit)
        data = repository.files[name]
        return self._answer(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **({"X-Repo-Commit": commit} if commit else {})})

    def _answer(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the console."""


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
