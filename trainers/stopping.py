"""Stopping a run or a study from outside: a note in its output asks for it, the workers save at the next step boundary, and nothing is lost."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tunefleet.cluster import lease
from tunefleet.cluster.errors import StorageError
from tunefleet.trainers.output import LEASE
from tunefleet.trainers.stage import STOP

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.loop import Report, State

_POLL_S, _REMOTE_POLL_S = 0.25, 2.0


def ask_to_stop(storage: Storage, by: str) -> bool:
    """Ask the run or the study that holds an output now to save and end; False when nobody holds it. ``by`` is for people."""
    held = lease.holder(storage, LEASE)
    if held is None:
        return False
    note = {"fence": held["fence"], "by": by, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    storage.put(STOP, json.dumps(note).encode())
    return True


def asked_to_stop(storage: Storage, fence: int) -> str | None:
    """Who asks the holder with this fence to stop; None when nobody does, or when the storage cannot be read now."""
    with suppress(StorageError, ValueError, KeyError):
        if storage.exists(STOP):
            note = json.loads(storage.read(STOP))
            return str(note["by"]) if note["fence"] == fence else None
    return None


class StopWatch:
    """Ends the loop at the next step boundary once one of some outputs, each held with its fence, is asked to stop.

    Only the rank that ``looks`` reads the storage, from a thread, in which ``then`` is called once. A context manager.
    """

    def __init__(self, outputs: Sequence[tuple[Storage, int]], *, looks: bool, then: Callable[[], None] = lambda: None) -> None:
        self.by: str | None = None
        """Who asked."""
        self._outputs, self._looks, self._then, self._done = outputs, looks, then, threading.Event()
        self._thread = threading.Thread(target=self._follow, name="stop", daemon=True)

    def __enter__(self) -> StopWatch:
        if self._looks:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def wants_stop(self) -> bool:
        """Whether somebody asked."""
        return self.by is not None

    def watch(self, state: State, report: Report) -> None:
        """Nothing: it looks from its thread."""

    def _follow(self) -> None:
        pause_s = _POLL_S if all(storage.appends for storage, _ in self._outputs) else _REMOTE_POLL_S
        while self.by is None:
            self.by = next((by for storage, fence in self._outputs if (by := asked_to_stop(storage, fence))), None)
            if self._done.wait(pause_s):
                return
        self._then()
