"""A lease: of several processes that want to write one place, one may, and whoever comes after it has a higher number.

Each holder has a file of its own, ``lease/00000007.json``, made by conditional create: the highest number holds. Ages are taken by the storage's clock
alone, so that machines whose clocks differ agree. A holder that was stopped and wakes up late has the lower number: readers go by that, not by the lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import OutputError, StorageError
from tunefleet.cluster.storage import Storage

TTL_S = 60.0
"""Seconds without renewal after which a holder on another machine counts as gone."""

SETTLE_S = 0.5
"""Seconds within which creators of one name meet on an object store that does not tell them apart at once."""


class Lease:
    """The right to write, held by this process until ``release`` and renewed from a thread. Made by ``acquire``."""

    def __init__(self, storage: Storage, folder: str, record: dict[str, Any], renew_s: float) -> None:
        self._storage, self._folder, self._record = storage, folder, record
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(renew_s,), name="lease", daemon=True)
        self.fence: int = record["fence"]
        """Grows with every acquisition of this lease, by whomever."""
        self.lost = False
        """Whether somebody else has taken over, as far as the last renewal could see."""

    @classmethod
    def acquire(cls, storage: Storage, name: str, holder: str, *, ttl_s: float = TTL_S) -> Lease:
        """Take the lease. ``holder`` is a name for people. Raises OutputError that names who has it."""
        folder = name.removesuffix(".json")
        while True:
            fence, record = newest(storage, folder)
            if record is not None and _alive(storage, folder, fence, record, ttl_s):
                raise OutputError(
                    f"{storage.address}: in use by another run",
                    got=f"{record['holder']} on {record['host']}, process {record['pid']}, since {record['time']}",
                    want="one writer at a time",
                    fix="wait for it, end it, or choose another output",
                )
            mine = {"fence": fence + 1, "holder": holder, **_identity(), "time": _now(), "nonce": uuid.uuid4().hex, "released": False}
            if storage.create(_file(folder, fence + 1), _json(mine)) and _kept(storage, _file(folder, fence + 1), mine):
                break
        for old in range(max(1, fence - 1), fence + 1):
            storage.delete(_file(folder, old))
        lease = cls(storage, folder, mine, ttl_s / 4)
        lease._thread.start()
        return lease

    def release(self) -> None:
        """Give the lease back; its number stays used. A second call does nothing. Where the storage is in trouble it ages instead, and nothing is raised."""
        if self._done.is_set():
            return
        self._done.set()
        self._thread.join()
        with suppress(StorageError):
            if not self._overtaken():
                self._storage.put(_file(self._folder, self.fence), _json({**self._record, "released": True}))

    def _renew(self, every_s: float) -> None:
        while not self._done.wait(every_s):
            try:
                if self._overtaken():
                    return
                self._storage.put(_file(self._folder, self.fence), _json(self._record))
            except StorageError:
                continue  # the storage may come back; until then the lease ages, which is all that renewing prevents

    def _overtaken(self) -> bool:
        self.lost = newest(self._storage, self._folder)[0] > self.fence
        return self.lost


def holder(storage: Storage, name: str) -> dict[str, Any] | None:
    """Who holds the lease now: holder, host, pid, fence; None when nobody does."""
    folder = name.removesuffix(".json")
    fence, record = newest(storage, folder)
    return record if record is not None and _alive(storage, folder, fence, record, TTL_S) else None


def newest(storage: Storage, folder: str) -> tuple[int, dict[str, Any] | None]:
    """The highest number and its record: (0, None) where there never was one. A record that cannot be read counts as given back."""
    fences = [int(name.rpartition("/")[2].removesuffix(".json")) for name in storage.list(f"{folder}/") if name.endswith(".json")]
    if not fences:
        return 0, None
    fence = max(fences)
    try:
        record = json.loads(storage.read(_file(folder, fence)))
    except (StorageError, ValueError):
        return fence, None
    return fence, record


def _kept(storage: Storage, name: str, mine: Mapping[str, Any]) -> bool:
    """Whether a record is still ours a moment after it was created. Some object stores say yes to several who create one name in the same instant."""
    if storage.appends:
        return True
    time.sleep(SETTLE_S)
    return bool(json.loads(storage.read(name)) == mine)


def _alive(storage: Storage, folder: str, fence: int, record: Mapping[str, Any], ttl_s: float) -> bool:
    if record["released"]:
        return False
    here = _identity()
    if record["machine"] == here["machine"] and _process_started(record["pid"]) != record["process_started"]:
        return False  # the same machine, and that process is gone
    probe = f"{folder}/clock-{uuid.uuid4().hex}"
    storage.put(probe, b"")
    now_s = storage.modified(probe)
    storage.delete(probe)
    try:
        return now_s - storage.modified(_file(folder, fence)) < ttl_s
    except StorageError:  # somebody else took over in between, and tidied up
        return True


def _identity() -> dict[str, Any]:
    """Who this process is. ``machine`` tells apart reboots and process-number spaces of containers, so that a number is never taken for another's."""
    pid = os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, space = "", ""
    return {"host": socket.gethostname(), "machine": f"{socket.gethostname()} {boot} {space}", "pid": pid, "process_started": _process_started(pid)}


def _process_started(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; ``gone`` for none or a dead one, ``running`` where only that can be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "gone" if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    return "running"


def _file(folder: str, fence: int) -> str:
    return f"{folder}/{fence:08d}.json"


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
