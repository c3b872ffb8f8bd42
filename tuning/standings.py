"""Which configuration of a study is best, what the study spent, and what its stopper saved. Pure: lines in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tunefleet.tuning.goal import Mode, value_of
from tunefleet.tuning.lines import FAILED, FINISHED, STOPPED, TrialLine
from tunefleet.tuning.space import Point
from tunefleet.tuning.study import SEED


@dataclass(frozen=True)
class Standing:
    """A configuration: its point without the seed, its trials with a value, and the mean of their last values.

    ``whole``: all of its seeds ran to their end; ``failed``: how many failed.
    """

    point: Point
    trials: tuple[TrialLine, ...]
    value: float
    whole: bool
    failed: int = 0


def standings(trials: Iterable[TrialLine], metric: str, mode: Mode, repeats: int) -> list[Standing]:
    """Configurations, best first: those whose seeds all finished, then those whose values are of fewer steps or seeds, then those with a seed that failed.

    ``trials``: the last line of each. One that was not evaluated yet counts for nothing, and what all seeds of failed has no standing.
    """
    groups: dict[str, list[TrialLine]] = {}
    for line in trials:
        groups.setdefault(repr(sorted(point_of(line).items())), []).append(line)
    found = []
    for lines in groups.values():
        valued = [(line, value) for line in lines if line.status != FAILED and (value := value_of(line.metrics, metric)) is not None]
        if valued:
            whole = sum(line.status == FINISHED for line, _ in valued) >= max(repeats, len(lines))
            failed = sum(line.status == FAILED for line in lines)
            found.append(Standing(point_of(lines[0]), tuple(line for line, _ in valued), fmean(value for _, value in valued), whole, failed))
    return sorted(found, key=lambda one: (one.failed > 0, not one.whole, one.value if mode == "min" else -one.value))


def best_of(trials: Mapping[str, TrialLine], metric: str, mode: Mode, repeats: int) -> TrialLine | None:
    """The trial that a study stands for: of the best configuration, the seed with the best value."""
    found = standings(trials.values(), metric, mode, repeats)
    if not found:
        return None
    pick = min if mode == "min" else max
    return pick(found[0].trials, key=lambda line: value_of(line.metrics, metric) or 0.0)


def point_of(line: TrialLine) -> Point:
    """A trial's parameters without its seed, where it is one of several; a study over seeds has no repeats."""
    others = {key: value for key, value in line.parameters.items() if key != SEED}
    return others or dict(line.parameters)


@dataclass(frozen=True)
class Spent:
    """Optimizer steps and worker seconds of all trials; steps that those would still have taken which the stopper gave up."""

    steps: float
    worker_seconds: float
    saved_steps: float

    def saved(self) -> float:
        """The share of all steps that was not spent."""
        whole = self.steps + self.saved_steps
        return self.saved_steps / whole if whole else 0.0


def spent(trials: Iterable[TrialLine], last_step: int | None) -> Spent:
    """What the trials cost. Nothing is known to be saved where the rows decide a trial's length."""
    lines = list(trials)
    steps = sum(steps_of(line) for line in lines)
    saved = sum(max(0, last_step - line.step) for line in lines if line.status == STOPPED and not line.cut) if last_step else 0
    return Spent(steps, sum(line.compute.get("worker_seconds", 0.0) for line in lines), saved)


def steps_of(line: TrialLine) -> float:
    """What a trial took, steps that it repeated after a resume among them."""
    return float(line.compute.get("steps", line.step))


def course(lines: Sequence[TrialLine], metric: str, mode: Mode) -> list[tuple[float, float]]:
    """(optimizer steps of all trials, best value so far) after each evaluation that was the best so far, and at the end."""
    taken: dict[str, float] = {}
    best: float | None = None
    points: list[tuple[float, float]] = []
    for line in lines:
        taken[line.id] = max(taken.get(line.id, 0.0), steps_of(line))
        value = value_of(line.metrics, metric)
        if value is not None and (best is None or (value < best if mode == "min" else value > best)):
            if best is not None:
                points.append((sum(taken.values()), best))
            best = value
            points.append((sum(taken.values()), best))
    return [*points, (sum(taken.values()), best)] if best is not None else []


def curves(lines: Iterable[TrialLine], metric: str) -> dict[str, list[tuple[float, float]]]:
    """Each trial's value by step; a gap where it went on from another trial's checkpoint.

    A step that is told again is left out: one that a resume came to again, and the best step, which a trial names that ended by its own patience.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    parents: dict[str, Any] = {}
    for line in lines:
        points = found.setdefault(line.id, [])
        if line.parent is not None and line.parent != parents.get(line.id):
            parents[line.id] = line.parent
            points.append((float("nan"), float("nan")))
            continue
        value = value_of(line.metrics, metric)
        if value is not None and (not points or not line.step <= points[-1][0]):  # the step of a gap is no number
            points.append((float(line.step), value))
    return found
