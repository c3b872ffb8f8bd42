"""The goodput ledger: where a run's wall time went. Its parts sum to the wall time because every moment belongs to exactly one phase.

``events.jsonl`` is a time line: an event with a ``phase`` ends the phase before it. ``training`` is useful; all others are the cost of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from tunefleet.cluster.metrics import SharedLines, read_lines
from tunefleet.trainers.stage import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunefleet.cluster.storage import Storage

Phase = Literal["starting", "base", "training", "checkpoint", "evaluation", "restarting", "exporting", "finishing", "stopped", "down"]


class Events:
    """Appends to a run's ``events.jsonl``: one JSON object a line, with wall time in seconds since 1970. ``background``: see SharedLines."""

    def __init__(self, storage: Storage, *, attempt: int = 0, writes: bool = True, background: bool = False) -> None:
        self.attempt = attempt
        self._lines = SharedLines(storage, EVENTS, background=background) if writes else None

    def add(self, event: str, *, phase: Phase | None = None, **fields: Any) -> None:
        """Write one event. Ranks other than the first write nothing."""
        if self._lines is not None:
            self._lines.add({"time": time.time(), "event": event, "attempt": self.attempt, **({"phase": phase} if phase else {}), **fields})

    def close(self) -> None:
        """Store what is on its way."""
        if self._lines is not None:
            self._lines.close()

    def on_event(self, event: str, fields: dict[str, Any]) -> None:
        """The same as a callback for parts that know no phases."""
        self.add(event, **fields)

    def decisions(self, texts: Iterable[str]) -> None:
        """What was chosen for the user; the console says each."""
        for text in texts:
            self.add("decision", text=text)

    @contextmanager
    def during(self, event: str, phase: Phase, after: Phase, **fields: Any) -> Iterator[None]:
        """Book the time of a block to ``phase``; what follows belongs to ``after``."""
        self.add(f"{event}_started", phase=phase, **fields)
        yield
        self.add(f"{event}_ended", phase=after, **fields)


def when(event: Mapping[str, Any]) -> float:
    """What orders events: on S3 several processes write them without waiting for each other."""
    return float(event["time"])


def read_events(storage: Storage) -> list[dict[str, Any]]:
    """Every event, by time."""
    return sorted(read_lines(storage, EVENTS), key=when)


def run_id(events: Iterable[Mapping[str, Any]]) -> str:
    """The name of a run among all runs: that of its first start, however often it has gone on; a new one where it has not started."""
    return next((str(event["run_id"]) for event in events if event.get("event") == "started" and "run_id" in event), secrets.token_hex(6))


def ledger(events: Iterable[Mapping[str, Any]], until: float | None = None) -> dict[str, float]:
    """Seconds by phase, from the first event to the last (or to ``until``). Time after ``stopped`` belongs to nobody, so a pause costs nothing.

    A driver that was killed could not say so: from its last event to the ``started`` of the next one the run was ``down``.
    """
    events = sorted(events, key=when)
    seconds: dict[str, float] = {}
    phase, since = "stopped", 0.0
    last = since
    for event in events:
        before, last = last, float(event["time"])
        if event.get("event") == "started" and phase != "stopped":
            seconds[phase] = seconds.get(phase, 0.0) + max(0.0, before - since)
            phase, since = "down", before
        if "phase" in event:
            if phase != "stopped":
                seconds[phase] = seconds.get(phase, 0.0) + max(0.0, last - since)
            phase, since = str(event["phase"]), last
    if phase != "stopped":
        seconds[phase] = seconds.get(phase, 0.0) + max(0.0, (until or last) - since)
    return seconds
