"""Everything that a run has left so far, as plain masked values. The run may still be going, may have failed, or may be somebody else's.

Its run file is read as YAML and never as settings: no plug-in is looked for, nothing that it names is imported, and another version's file can be shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunefleet.cluster.errors import OutputError, TunefleetError
from tunefleet.cluster.masking import masked, masked_value
from tunefleet.cluster.metrics import Record, read_lines
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.yamlfile import parse
from tunefleet.data.summary import SourceSummary
from tunefleet.trainers.evaluation.files import FOLDER, SUITE, read_results, read_suite
from tunefleet.trainers.evaluation.samples import STEP as SAMPLES
from tunefleet.trainers.ledger import read_events
from tunefleet.trainers.stage import DONE, EVENTS, METRICS, RUN_FILE, read_done


@dataclass(frozen=True)
class Gathered:
    """What stands in an output at ``now`` (seconds since 1970). ``unread``: what is there and could not be read, each in a sentence."""

    address: str
    now: float
    run_text: str
    run: Mapping[str, Any]
    metrics: list[Record]
    events: list[Record]
    evaluations: list[Record]
    samples: list[Record]
    done: Record
    sources: tuple[SourceSummary, ...] = ()
    suite: Record = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the run file, empty where there is none."""
        found = self.run.get(name)
        return found if isinstance(found, Mapping) else {}

    def last(self, event: str) -> Record:
        """The last event of a kind, empty where there is none."""
        return next((record for record in reversed(self.events) if record.get("event") == event), {})

    def all_of(self, *kinds: str) -> list[Record]:
        """The events of some kinds, in order."""
        return [record for record in self.events if record.get("event") in kinds]


def gather(storage: Storage, now: float) -> Gathered:
    """Read an output. Raises OutputError where no run is; a file of it that cannot be read is noted and left out."""
    if not storage.exists(RUN_FILE):
        raise OutputError("this is no run's output", got=storage.address, want=f"a folder or prefix with {RUN_FILE}", fix="name the output of a run")
    unread: list[str] = []

    def read(what: str, reader: Any, otherwise: Any) -> Any:
        try:
            return masked_value(reader())
        except (TunefleetError, ValueError, KeyError) as error:
            unread.append(masked(f"{what}: {error}"))
            return otherwise

    text = storage.read(RUN_FILE).decode(errors="replace")
    events = read(EVENTS, lambda: read_events(storage), [])
    run = read(RUN_FILE, lambda: parse(text, RUN_FILE).value, {})
    return Gathered(
        address=masked(storage.address),
        now=now,
        run_text=masked(text),
        run=run if isinstance(run, Mapping) else {},
        metrics=read(METRICS, lambda: read_lines(storage, METRICS), []),
        events=events,
        evaluations=read(FOLDER, lambda: read_results(storage), []),
        samples=read(SAMPLES, lambda: _samples(storage), []),
        suite=read(SUITE, lambda: read_suite(storage), {}),
        sources=read("the sources in events.jsonl", lambda: _sources(events), ()),
        done=read(DONE, lambda: read_done(storage) if storage.exists(DONE) else {}, {}),
        unread=tuple(unread),
    )


def _sources(events: list[Record]) -> tuple[SourceSummary, ...]:
    """What the last preparation said of its sources. Raises ValueError for what has another shape."""
    said = [record["sources"] for record in events if record.get("event") == "prepared" and "sources" in record]
    try:
        return TypeAdapter(tuple[SourceSummary, ...]).validate_python(said[-1]) if said else ()
    except ValidationError as error:
        raise ValueError("they were written by another version of tunefleet") from error


def _samples(storage: Storage) -> list[Record]:
    """The samples of every step, by step; what has another shape is a ValueError."""
    found = []
    for name in storage.list(SAMPLES):
        content = json.loads(storage.read(name))
        if not isinstance(content, dict) or not isinstance(content.get("prompts"), list) or not all(isinstance(p, dict) for p in content["prompts"]):
            raise ValueError(f"{name} holds no samples")
        found.append(content)
    return found
