"""Ray Jobs: a command with its code and its files handed to a cluster, whose driver lives on the head; listed, followed, stopped.

No secret is in what is handed over: Ray shows a job's command and its environment to everyone who may ask. Nodes have their own credentials.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tunefleet.cluster.errors import PreflightError, RequestError, SettingsError, StorageError
from tunefleet.cluster.grace import stop_wait
from tunefleet.cluster.jobserver import JobServer, OutOfReachError
from tunefleet.cluster.masking import masked
from tunefleet.cluster.session import MARKET, WORKER_ENVIRONMENT, is_spot
from tunefleet.cluster.wheel import archive, wheel

Answer = TypeVar("Answer")
OURS = "tunefleet"
"""Begins the keys of a job's metadata that are ours."""
_START = rb"""# The interpreter of this node's Ray, whatever PATH says: jobs are started by a child of the raylet, which was told it.
raylet=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$PPID/status" 2>/dev/null)
python=$(tr '\0' '\n' < "/proc/$raylet/cmdline" 2>/dev/null | sed -n 's/^--python_worker_command=\([^ ]*\) .*/\1/p')
exec "${TUNEFLEET_PYTHON:-${python:-python}}" -P -m tunefleet.tuning.cli "$@"
"""
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
_NODES_TIMEOUT_S, _POLL_S = 20.0, 1.0
_TRIES = 120  # polls in which a server may be away from somebody who waits for a job
_EMPTY_S = 1.0


@dataclass(frozen=True)
class Node:
    """One node that is alive. ``session``: Ray's folder for it, on that node."""

    host: str
    ip: str
    head: bool
    session: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Parcel:
    """What is to be done on a cluster: words for the command line, and the files that they name. ``grace_s``: how long it may save when it is stopped."""

    title: str
    kind: str
    output: str
    words: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    grace_s: float = 120.0


@dataclass(frozen=True)
class Job:
    """A job as its cluster tells of it. ``status``: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED. Times are ISO 8601, empty where it has none."""

    id: str
    status: str
    title: str
    kind: str
    output: str
    started: str
    ended: str
    exit_code: int | None
    message: str

    @property
    def over(self) -> bool:
        """Whether it will change no more."""
        return self.status in _OVER


def nodes(server: JobServer) -> list[Node]:
    """The nodes that are alive; a young head needs seconds until it tells of itself."""
    waited_s = 0.0
    while True:
        found = [_node(entry) for entry in server.get("/nodes", view="summary")["data"]["summary"] if entry["raylet"].get("state") == "ALIVE"]
        if found or waited_s > _NODES_TIMEOUT_S:
            return found
        threading.Event().wait(_EMPTY_S)
        waited_s += _EMPTY_S


def is_here(found: Sequence[Node]) -> bool:
    """Whether every node is this machine, so that a path means the same to all of them. A tunnel's near end is not what counts, Ray's own folder is."""
    return bool(found) and all(node.host == socket.gethostname() and Path(node.session).is_dir() for node in found)


def head_problems(found: Sequence[Node], *, spot_head: bool) -> list[RequestError]:
    """Why no driver should live on this cluster's head: when a spot head is taken away, the whole cluster and every run on it end."""
    return [
        PreflightError(
            "the driver would live on a spot node",
            got=f"the head {node.host} ({node.ip}) has the label {MARKET}={node.labels[MARKET]}",
            want="an on-demand head: with a spot head the cluster and every run on it end at once, without a checkpoint",
            fix="start the cluster with an on-demand head; --spot-head submits all the same",
        )
        for node in found
        if node.head and is_spot(node.labels) and not spot_head
    ]


def submit(server: JobServer, parcel: Parcel) -> str:
    """Hand a parcel over; the job's id. Raises SettingsError when a job that is not over yet writes to the same output."""
    for job in jobs(server):
        if job.output == parcel.output and not job.over:
            fix = f"`tunefleet logs {job.id} --follow` shows it, `tunefleet stop {job.id}` ends it"
            raise SettingsError("output: a job of this cluster writes there", got=f"{parcel.output}, by {job.id} ({job.status})", want="one at a time", fix=fix)
    _, ours = wheel()
    files = archive({**parcel.files, "start.sh": _START})
    name = f"{re.sub(r'[^a-z0-9]+', '-', parcel.title.lower()).strip('-')[:40] or parcel.kind}-{secrets.token_hex(3)}"
    request = {
        "entrypoint": " ".join(("exec sh start.sh", *parcel.words)),
        "submission_id": name,
        "runtime_env": {
            "working_dir": server.upload(_package(files), files),
            "py_modules": [server.upload(_package(ours), ours)],  # a wheel's bytes under another name: Ray unpacks a zip, for a *.whl it would need pip
            "env_vars": {**WORKER_ENVIRONMENT, **stop_wait(parcel.grace_s)},
        },
        "metadata": {"job_name": parcel.title, f"{OURS}.kind": parcel.kind, f"{OURS}.output": parcel.output},
    }
    return str(server.post("/api/jobs/", request)["submission_id"])


def jobs(server: JobServer) -> list[Job]:
    """The jobs that were submitted, those of others too, newest first."""
    found = [entry for entry in server.get("/api/jobs/") if entry.get("submission_id")]
    return [_job(entry) for entry in sorted(found, key=lambda entry: -(entry.get("start_time") or 0))]


def job(server: JobServer, name: str) -> Job:
    """One job. Raises SettingsError for one that the cluster does not know."""
    known = {job.id: job for job in jobs(server)}
    if name not in known:
        raise SettingsError(
            "no such job", got=name, want=f"one of {', '.join(list(known)[:8])}" if known else "a job; the cluster has none", fix="`tunefleet jobs`"
        )
    return known[name]


def stop(server: JobServer, name: str, on_wait: Callable[[Job], None]) -> Job:
    """Ask a job to save and end, and wait until it has; ``on_wait`` is told how it stands, once. Ray kills it when its time for that is over."""
    found = job(server, name)
    if found.over:
        return found
    server.post(f"/api/jobs/{name}/stop")
    on_wait(found)
    while not (found := _patiently(lambda: job(server, name))).over:
        threading.Event().wait(_POLL_S)
    return found


def log(server: JobServer, name: str) -> Iterator[str]:
    """What a job has said until now, line by line, without secrets."""
    yield from map(masked, str(server.get(f"/api/jobs/{name}/logs")["logs"]).splitlines())


def follow(server: JobServer, name: str, say: Callable[[str], None], *, poll_s: float = _POLL_S) -> Job:
    """Hand over each line of a job, from its first to its last; how it ended. A connection that is lost is made again, and nothing is said twice.

    Raises what a server says that stays away for ``_TRIES`` polls, or that refuses.
    """
    said = 0
    while True:
        said = asyncio.run(_tail(server, name, said, say))
        if (found := _patiently(lambda: job(server, name), poll_s)).over:
            lines = _patiently(lambda: list(log(server, name)), poll_s)
            for line in lines[said:]:
                say(line)
            return found
        threading.Event().wait(poll_s)


def _patiently(ask: Callable[[], Answer], poll_s: float = _POLL_S) -> Answer:
    """What a server answers that may be away for a moment: a tunnel is made anew, a dashboard starts again."""
    for left in range(_TRIES, -1, -1):
        try:
            return ask()
        except (OutOfReachError, StorageError):
            if not left:
                raise
            threading.Event().wait(poll_s)
    raise AssertionError("the last try returns or raises")


async def _tail(server: JobServer, name: str, said: int, say: Callable[[str], None]) -> int:
    """Follow one connection to its end; how many lines have been said in all. The server begins at the first line each time."""
    import aiohttp

    seen, rest = 0, ""
    try:
        async with aiohttp.ClientSession(headers=dict(server.headers)) as session, session.ws_connect(f"{server.url}/api/jobs/{name}/logs/tail") as stream:
            async for message in stream:
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                *whole, rest = (rest + message.data).split("\n")
                for line in whole:
                    seen += 1
                    if seen > said:
                        say(masked(line.rstrip("\r")))
    except (aiohttp.ClientError, OSError):
        pass  # the job's own state says whether there is more to come
    return max(seen, said)


def _package(content: bytes) -> str:
    return f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:32]}.zip"


def _node(entry: Mapping[str, Any]) -> Node:
    raylet = entry["raylet"]
    host = raylet.get("nodeManagerHostname") or entry.get("hostname") or ""
    return Node(host, entry.get("ip") or "", bool(raylet.get("isHeadNode")), raylet.get("sessionDir") or "", raylet.get("labels") or {})


def _job(entry: Mapping[str, Any]) -> Job:
    told = entry.get("metadata") or {}
    return Job(
        id=str(entry["submission_id"]),
        status=str(entry["status"]),
        title=masked(str(told.get("job_name", ""))),
        kind=str(told.get(f"{OURS}.kind", "other")),
        output=masked(str(told.get(f"{OURS}.output", ""))),
        started=_when(entry.get("start_time")),
        ended=_when(entry.get("end_time")),
        exit_code=entry.get("driver_exit_code"),
        message=masked(str(entry.get("message") or "")),
    )


def _when(milliseconds: int | None) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else ""
