"""The charts of a study: the course of the best value, parameters and values side by side, learning curves, the path of what PBT changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunefleet.cluster import charts
from tunefleet.cluster.axes import count, short
from tunefleet.cluster.charts import Bar, Colour, Series
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.parallel import Thread, Track, parallel
from tunefleet.trainers.report.wording import metric_name, metric_unit
from tunefleet.tuning.goal import value_of
from tunefleet.tuning.importance import common_step, importance
from tunefleet.tuning.lines import FAILED, FINISHED, RUNNING, STOPPED, TrialLine
from tunefleet.tuning.space import Axis, Choices, Numbers, said, word
from tunefleet.tuning.standings import best_of, course, curves, point_of
from tunefleet.tuning.studyreport.gather import Gathered

GAP = (math.nan, math.nan)
LOOKS: dict[str, tuple[str, Colour]] = {STOPPED: ("stopped early", "base"), RUNNING: ("still running", 2), FINISHED: ("ran to its end", 0)}
BEST: tuple[str, Colour] = ("the best", 1)


def held_out(study: Gathered) -> str:
    """The metric with its unit, for an axis."""
    unit = metric_unit(study.metric)
    return f"held-out {metric_name(study.metric)}" + (f", {unit}" if unit else "")


def best_so_far(study: Gathered) -> Markup:
    """The best value against the steps of all trials together."""
    points = course(study.lines, study.metric, study.mode)
    return charts.lines("Best value so far", [Series("best so far", points)], x="optimizer steps of all trials", y=held_out(study), whole_x=True)


def learning_curves(study: Gathered) -> Markup:
    """Every trial's values; where a stopper ended one there is a dot, and the best stands out."""
    every = curves(study.lines, study.metric)
    best = best_of(study.trials, study.metric, study.mode, study.repeats)
    series = [
        Series(LOOKS[status][0], every[line.id], colour=LOOKS[status][1], look="faint")
        for status in LOOKS
        for line in study.trials.values()
        if line.status == status and line.id in every and not (best and line.id == best.id)
    ]
    ends = [piece for line in study.trials.values() if line.status == STOPPED and every.get(line.id) for piece in (every[line.id][-1], GAP)]
    series += [Series("stopped here", ends, colour=3, look="dots")] if ends else []
    series += [Series(BEST[0], every[best.id], colour=BEST[1])] if best and every.get(best.id) else []
    values = [y for points in every.values() for _, y in points if math.isfinite(y)]
    wide = bool(values) and min(values) > 0 and max(values) > 3 * min(values)  # one bad trial would press the good ones into a line
    return charts.lines("Learning curves", series, x="step of the trial", y=held_out(study), log_y=wide, whole_x=True, height=320)


def coordinates(study: Gathered) -> Markup:
    """Parameters and values: a thread a trial, the better ones on top. The track of the values has the better end on the right."""
    valued = [(value, line) for line in study.trials.values() if line.status != FAILED and (value := value_of(line.metrics, study.metric)) is not None]
    if not valued:
        return parallel("Parameters and values", [], [])
    numbers = [value for value, _ in valued]
    worst, best = (max(numbers), min(numbers)) if study.mode == "min" else (min(numbers), max(numbers))
    keys = list(study.space)
    tracks = [Track(key, ticks(study.space[key])) for key in keys]
    tracks.append(Track(held_out(study), [(0.0, short(worst)), (1.0, short(best))] if worst != best else [(0.5, short(best))]))
    winner = best_of(study.trials, study.metric, study.mode, study.repeats)
    threads = []
    for value, line in sorted(valued, key=lambda pair: (pair[1] is winner, pair[1].status == FINISHED, pair[0] if study.mode == "max" else -pair[0])):
        share = (value - worst) / (best - worst) if worst != best else 0.5
        places = [place_of(study.space[key], line.parameters.get(key)) for key in keys]
        name, colour = BEST if line is winner else LOOKS[line.status]
        told = f"trial {line.id}, {name}: {said(line.parameters)}: {metric_name(study.metric)} {short(value)} at step {line.step}"
        threads.append(Thread(told, [*places, share], colour, "line" if line is winner else "faint"))
    present = [status for status in LOOKS if any(line.status == status and line is not winner for _, line in valued)]
    key = [*((*LOOKS[status], "faint") for status in present), (*BEST, "line")]
    return parallel("Parameters and values", tracks, threads, about="a line a trial; the better a value, the further right", key=key)


def place_of(axis: Axis, value: object) -> float | None:
    """Where a value lies on its track."""
    if isinstance(axis, Choices):
        where = [i for i, known in enumerate(axis.values) if type(known) is type(value) and known == value]
        return (where[0] + 0.5) / len(axis.values) if where else None
    return axis.share(value) if isinstance(value, int | float) and (not axis.log or value > 0) else None


def ticks(axis: Axis) -> Sequence[tuple[float, str]]:
    """Words on a track: every choice; both ends of a range, and powers of ten between them."""
    if isinstance(axis, Choices):
        return [((i + 0.5) / len(axis.values), word(value)) for i, value in enumerate(axis.values)]
    low, high = axis.ends()
    if axis.log:
        between = [10.0**power for power in range(math.ceil(math.log10(low) + 0.2), math.floor(math.log10(high) - 0.2) + 1)]
        return [(0.0, short(low)), *((axis.share(number), short(number)) for number in between), (1.0, short(high))]
    return [(0.0, short(low)), (1.0, short(high))]


def importances(study: Gathered) -> Markup | None:
    """How much of the spread of values goes with each parameter alone, at the last step that all trials reached; None where the trials are too few."""
    step = common_step(study.lines, study.metric)
    at: dict[str, tuple[TrialLine, float]] = {}
    for line in study.lines:
        if line.step == step and (value := value_of(line.metrics, study.metric)) is not None:
            at[line.id] = (line, value)
    found = importance([point_of(line) for line, _ in at.values()], [value for _, value in at.values()]) if at else {}
    if not found:
        return None
    order = sorted(found, key=lambda key: -found[key])
    unit = f"% of the spread at step {step}, which {count(len(at), 'trial')} reached, that goes with the parameter alone"
    return charts.bars("Importance", [Bar(key, round(100 * found[key])) for key in order], unit=unit)


def paths(study: Gathered) -> list[Markup]:
    """For each number that PBT changed: its value by step in every trial, and along the line of trials that the best one's weights came through."""
    if not any(line.parent for line in study.lines):
        return []
    best = best_of(study.trials, study.metric, study.mode, study.repeats)
    made = []
    for key, axis in study.space.items():
        if not isinstance(axis, Numbers):
            continue
        every = {name: path(study.lines, name, key) for name in study.trials}
        series = [Series("other trials", points, colour="base", look="faint") for name, points in every.items() if points]
        jumps = [piece for line in exploits(study.lines) for piece in ((_from(line), float(line.parameters[key])), GAP)]
        series += [Series("went on from a better trial", jumps, colour=3, look="dots")] if jumps else []
        series += [Series("what the best weights were trained with", lineage(study.lines, best.id, key), colour=1)] if best else []
        made.append(charts.lines(f"The path of {key}", series, x="step", y=key, log_y=axis.log, whole_x=True, height=260))
    return made


def exploits(lines: Sequence[TrialLine]) -> list[TrialLine]:
    """The lines at which a trial went on from another's checkpoint."""
    seen: dict[str, object] = {}
    found = []
    for line in lines:
        if line.parent is not None and seen.get(line.id) != line.parent:
            found.append(line)
        seen[line.id] = line.parent
    return found


def path(lines: Sequence[TrialLine], name: str, key: str) -> list[tuple[float, float]]:
    """A parameter of a trial by step, as it was while each step was trained; a gap where the trial went on from another's checkpoint."""
    points: list[tuple[float, float]] = []
    begun, jumps = 0.0, set(map(id, exploits(lines)))
    for line in lines:
        if line.id != name:
            continue
        if id(line) in jumps:  # its step is still that of its own last evaluation, which may lie ahead of the other's checkpoint
            begun = _from(line)
            points.append(GAP)
        elif line.step > begun:
            points += [(begun, float(line.parameters[key])), (float(line.step), float(line.parameters[key]))]
            begun = float(line.step)
    return points[1:] if points[:1] == [GAP] else points


def lineage(lines: Sequence[TrialLine], name: str, key: str) -> list[tuple[float, float]]:
    """A parameter by step along the trials whose weights a trial's are: its own path since it went on from its parent, the parent's before that, and so on."""
    own = [line for line in lines if line.id == name]
    jumps = [line for line in exploits(lines) if line.id == name]
    if not jumps:
        return [point for point in path(own, name, key) if not math.isnan(point[0])]
    last = jumps[-1]
    before = list(lines)[: next(i for i, line in enumerate(lines) if line is last)]
    parent, step = str((last.parent or {}).get("id")), _from(last)
    since = own[next(i for i, line in enumerate(own) if line is last) :]
    earlier = [point for point in lineage(before, parent, key) if point[0] <= step]
    return [*earlier, *(point for point in path(since, name, key) if point[0] >= step)]


def _from(line: TrialLine) -> float:
    return float((line.parent or {}).get("step", line.step))
