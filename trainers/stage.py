"""One run of a chain as the workers get it: addresses and numbers, no object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.storage import Storage
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    from tunefleet.trainers.evaluation.policy import Place

RUN_FILE = "run.yaml"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
STOP = "stop.json"  # asks the run to save and end; gone when the next one begins
DONE = "done.json"  # written last: nothing is left to do
WORKERS = "workers"  # notes of the worker group: who started, what failed, stacks of what hung
INIT = "init"  # what model.init_from meant, laid ready
TRACKERS = "trackers"  # what each tracker was told, and its files
REPORT = "report.html"  # made anew whenever the run ends, or when asked for
BASE = "base"  # the random model that an adapter stands on, made at export


@dataclass(frozen=True)
class Stage:
    """``steps``: optimizer steps in all. ``fence``: that of the driver's lease on the output; a writer with a lower one is a ghost.

    ``must_resume``: a run that finds no whole checkpoint is refused, and does not begin anew.
    """

    run: RunFile
    store: str
    pad_id: int
    steps: int
    fence: int
    placement: Place
    actors: Sequence[str] = ()
    must_resume: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the payload of the worker group."""
        plain = {name: value for name, value in vars(self).items() if name != "run"}
        return {**plain, "run": self.run.model_dump(mode="json"), "actors": list(self.actors)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stage:
        """The stage of a payload."""
        return cls(**{**value, "run": RunFile.model_validate(value["run"])})


def write_done(storage: Storage, *, step: int, weights: str, exported: str | None, stopped: str | None) -> None:
    """Say that a run is complete: its last step, the manifest of its weights, their export, and why it stopped before its time."""
    storage.put(DONE, json.dumps({"step": step, "weights": weights, "exported": exported, "stopped": stopped}).encode())


def read_done(storage: Storage) -> dict[str, Any]:
    """What ``write_done`` said."""
    content: dict[str, Any] = json.loads(storage.read(DONE))
    return content
