"""What the driver asks of a tracker, and what a tracker is told: numbers of metrics.jsonl and of evaluations, and the run file with its secrets masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tunefleet.cluster.masking import masked_value
from tunefleet.cluster.metrics import read_lines
from tunefleet.trainers.stage import METRICS

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.run import RunFile

Group = Literal["training", "evaluation"]
Key = tuple[Group, int]


@dataclass(frozen=True)
class Point:
    """All numbers of one step: a line of metrics.jsonl, or an evaluation. ``names`` of values begin with the group; ``time`` is in seconds since 1970."""

    group: Group
    step: int
    time: float
    values: Mapping[str, float]

    @property
    def key(self) -> Key:
        """What there is one of."""
        return self.group, self.step


@dataclass(frozen=True)
class Place:
    """What a tracker knows of a run: its name, its settings, and a local folder for files of its own."""

    name: str
    settings: Mapping[str, str]
    folder: Path


class Tracker(Protocol):
    """Called from one thread, in the driver. Whatever it raises ends its telling, and never the run. ``package`` is what must be installed for it."""

    package: str

    def begin(self, place: Place, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Go on with what an earlier driver began (``before``), or begin anew (None). Returns what the next driver needs to go on: JSON."""
        ...

    def show(self, points: Sequence[Point]) -> None:
        """Tell numbers. Each (group, step) comes once, unless it was taken back."""
        ...

    def take_back(self, step: int) -> bool:
        """Forget what was told of later steps. False: it cannot; then it is dropped, begun anew, and told everything again."""
        ...

    def drop(self) -> None:
        """Remove what this run told so far, as far as that can be done: it is told anew."""
        ...

    def end(self, *, done: bool) -> None:
        """Everything is told; ``done`` says whether the run is."""
        ...


def training_point(line: Mapping[str, Any]) -> Point | None:
    """The numbers of a line of metrics.jsonl; None for a line without a step."""
    step = line.get("step")
    if not isinstance(step, int):
        return None
    values = {f"training/{name}": number for name, number in _numbers(line) if name not in ("step", "time", "attempt")}
    return Point("training", step, float(line.get("time") or 0.0), values)


def evaluation_point(content: Mapping[str, Any], time: float) -> Point:
    """The numbers of an evaluation file: tuned and base, and each set's where there are several."""
    values = {f"evaluation/{side}/{name}": number for side in ("tuned", "base") for name, number in _numbers(content[side])}
    if len(content["sets"]) > 1:
        for held, part in content["sets"].items():
            both = ((side, name, interval["value"]) for side in ("tuned", "base") for name, interval in part[side].items())
            values |= {f"evaluation/{held}/{side}/{name}": float(number) for side, name, number in both if number is not None}
    return Point("evaluation", content["step"], time, values)


def points_of(storage: Storage) -> dict[Key, Point]:
    """Everything that a run's output says so far, by step; the training of a step before its evaluation."""
    from tunefleet.trainers.evaluation.files import read_results

    found = {point.key: point for line in read_lines(storage, METRICS) if (point := training_point(line)) is not None}
    times = {point.step: point.time for point in found.values()}
    last = max(times.values(), default=0.0)
    for content in read_results(storage):
        point = evaluation_point(content, times.get(content["step"], last))
        found[point.key] = point
    return dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0] == "evaluation")))


def told_settings(run: RunFile) -> dict[str, str]:
    """The run file as flat text, secrets masked."""
    return dict(_flat(masked_value(run.model_dump(mode="json"))))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers and truths of a record; what is null (not finite) is left out."""
    return ((name, value) for name, value in record.items() if isinstance(value, int | float))
