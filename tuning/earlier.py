"""What an earlier study found, as far as it tells of a space."""

from __future__ import annotations

from collections.abc import Iterable

import yaml

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.goal import Goal, value_of
from tunefleet.tuning.lines import FINISHED, TrialLine, last_lines, read_trials
from tunefleet.tuning.space import Point
from tunefleet.tuning.study import SEED, STUDY


def known_trials(address: str, goal: Goal) -> list[tuple[Point, float]]:
    """The points of an earlier study's output that were trained to their end and lie in the space, with their values; a mean over its repeats.

    Raises SettingsError for what is no study or went by another metric, StorageError for what cannot be read.
    """
    storage = open_storage(address)
    if not storage.exists(STUDY):
        raise SettingsError("no study", got=f"{address} holds no {STUDY}")
    earlier = yaml.safe_load(storage.read(STUDY))
    if not isinstance(earlier, dict):
        raise SettingsError("no study", got=f"{address}/{STUDY} holds no settings")
    if (earlier.get("metric"), earlier.get("mode")) != (goal.metric, goal.mode):
        raise SettingsError("went by another metric", got=f"{earlier.get('metric')} ({earlier.get('mode')})")
    return means(last_lines(read_trials(storage)).values(), goal)


def means(lines: Iterable[TrialLine], goal: Goal) -> list[tuple[Point, float]]:
    """Points of the space and the means of their finished trials, in the order in which they began.

    A trial that went on from another's checkpoint was trained with its last parameters for its last part only, and tells nothing of them.
    """
    found: dict[str, tuple[Point, list[float]]] = {}
    for line in lines:
        point = {key: value for key, value in line.parameters.items() if key != SEED or key in goal.space}
        value = value_of(line.metrics, goal.metric)
        inside = set(point) == set(goal.space) and all(axis.holds(point[key]) for key, axis in goal.space.items())
        if line.status == FINISHED and line.parent is None and value is not None and inside:
            found.setdefault(repr(sorted(point.items())), (point, []))[1].append(value)
    return [(point, sum(values) / len(values)) for point, values in found.values()]
