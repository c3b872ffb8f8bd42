"""What searchers and stoppers are asked for: which space, by which metric, which way, how long; and what they say of themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from tunefleet.cluster.errors import RequestError
from tunefleet.tuning.space import Point, Space

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

Mode = Literal["min", "max"]
TrialName = Callable[[Any], str]
"""The study's name of a trial of Ray Tune."""
STEP = "step"
"""What a result of a trial calls its optimizer step: the ``time_attr`` of every scheduler."""


@dataclass(frozen=True)
class Goal:
    """``points``: how many numbers of an endless range a grid takes, by key. ``last_step``: that of the longest trial; None where rows decide it."""

    space: Space
    metric: str
    mode: Mode
    points: Mapping[str, int | None] = field(default_factory=dict)
    every_steps: int | None = None
    checkpoint_steps: int | None = None
    last_step: int | None = None

    def better(self, value: float, other: float) -> bool:
        """Whether one value beats another."""
        return value < other if self.mode == "min" else value > other

    def best(self, values: list[float]) -> float:
        """The best of some values."""
        return min(values) if self.mode == "min" else max(values)

    def evaluated(self, step: float) -> bool:
        """Whether trials are evaluated at a step."""
        return step == self.last_step or (self.every_steps is not None and step == round(step) and step % self.every_steps == 0)


class Proposer(Protocol):
    """A searcher's own part. Configurations are numbered from 0 in the order in which they are asked for."""

    def propose(self, number: int) -> Point | None:
        """The next configuration; None when there are no more."""
        ...

    def tell(self, number: int, step: int, value: float | None, *, whole: bool) -> None:
        """How a configuration ended: its last value, None for one that failed; ``whole``: it was not stopped before its last step."""
        ...


class SearcherKind(Protocol):
    """A file in searchers/. ``scheduler``: the searcher's own, where it changes trials while they run; it then stands in for the stopper."""

    moves: ClassVar[bool]

    def __init__(self, config: Any) -> None: ...

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """What this searcher cannot do with this space, known from the study file alone."""
        ...

    def lacks(self, goal: Goal) -> Iterator[RequestError]:
        """What it needs of the machine that does the study, and this one has not: packages, outputs of earlier studies."""
        ...

    def configurations(self, goal: Goal) -> int:
        """How many configurations it tries in all."""
        ...

    def proposer(self, goal: Goal) -> Proposer:
        """One that has not been asked yet."""
        ...

    def scheduler(self, goal: Goal, name: TrialName) -> TrialScheduler | None:
        """Ray Tune's scheduler that changes trials while they run, asked with the study's names of them."""
        ...


class StopperKind(Protocol):
    """A file in stoppers/."""

    def __init__(self, config: Any) -> None: ...

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """What this stopper cannot do with trials that are evaluated at these steps."""
        ...

    def scheduler(self, goal: Goal) -> TrialScheduler:
        """A scheduler of Ray Tune, or one of ours with its interface, that reads ``step`` and the metric, and never pauses."""
        ...

    def why(self) -> str:
        """Why it stops a trial, to end the sentence "stopped at step 20: "."""
        ...


def numbers(content: Mapping[str, Any], sets: Mapping[str, Mapping[str, float | None]], metric: str) -> dict[str, float | None]:
    """The numbers of an evaluation (its file, or its event) over all held-out rows, and that of the one set that ``metric`` names, as in ``stories/loss``.

    One that is not finite is None; one that could not be computed is left out.
    """
    held, _, name = metric.rpartition("/")
    found = {**content["tuned"], metric: sets.get(held, {}).get(name)} if held and metric not in content["tuned"] else content["tuned"]
    failed = content.get("failed", ())
    return {key: value for key, value in found.items() if value is not None or key.rpartition("/")[2] not in failed}


def value_of(metrics: Mapping[str, Any] | None, metric: str) -> float | None:
    """A metric of a trial's evaluation; None where it is not there or not finite."""
    value = (metrics or {}).get(metric)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
