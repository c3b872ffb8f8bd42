"""The gate: every check of a gate file against the content of an evaluation, as plain values. A number that is missing or not finite does not pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunefleet.trainers.evaluation.gatefile import EVERY, KINDS, Check, Compliance, End, Forgetting, Gain, Gate, Overfitting, Placed, Regression
from tunefleet.trainers.evaluation.slices import LEAST

ALL_ROWS = "all held-out rows"
NOWHERE = "nowhere: no rows of it were counted"


@dataclass(frozen=True)
class Judged:
    """One check at one place. ``got`` is the number that was held against ``limit``, ``low`` and ``high`` its interval, and ``end`` which of them it is."""

    check: str
    kind: str
    metric: str
    place: str
    wanted: str
    limit: float
    end: End
    got: float | None
    value: float | None
    low: float | None
    high: float | None
    passed: bool


@dataclass(frozen=True)
class _Found:
    """A number with its interval, so turned that a larger one is better."""

    value: float | None
    low: float | None
    high: float | None

    def at(self, end: End) -> float | None:
        return {"value": self.value, "worse": self.low, "better": self.high}[end]

    def turned(self) -> _Found:
        """The same with the other sign."""
        low, high = _minus(self.high), _minus(self.low)
        return _Found(_minus(self.value), low, high)


def judge(gate: Gate, content: Mapping[str, Any]) -> dict[str, Any]:
    """``passed``; the ``checks``, each at every place that it names; ``left_out``, the slices of a kind of which too few rows were counted to say anything.

    ``content`` is that of an evaluation, for which gate_problems found none. A check that is left without any place does not pass.
    """
    checks, left = [], []
    for name, check in gate.checks():
        places = dict(_places(check, content))
        few = [place for place, part in places.items() if _counts_few(check, part)] if isinstance(check, Placed) and check.slice in KINDS else []
        left += [f"{name}: {place}" for place in few]
        judged = {place: part for place, part in places.items() if place not in few} or {NOWHERE: {}}
        checks += [asdict(_held_against(name, check, place, part, content["better"][check.metric])) for place, part in judged.items()]
    return {"passed": all(one["passed"] for one in checks), "checks": checks, "left_out": left}


def _counts_few(check: Check, part: Mapping[str, Any]) -> bool:
    """Whether the metric counted too few rows of a slice to say anything of it: answers are given to some rows only."""
    counts: list[int] = [part[f"rows_{how}"].get(check.metric, part["rows"]) for how in ("won", "lost", "tied")]
    return sum(counts) < LEAST


def _places(check: Check, content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What a check is about, each with its part of the evaluation."""
    sets = content["sets"]
    general = [name for name, part in sets.items() if part.get("general")]
    if isinstance(check, Overfitting):
        against = content["gap"]["sets"].get(check.set, content["gap"])  # an only set is all of them
        yield f"training rows against {check.set or 'held-out ones'}", against
    elif isinstance(check, Forgetting):
        yield from ((name, sets[name]) for name in ([check.set] if check.set is not None else general))
    elif isinstance(check, Placed) and check.slice is not None:
        kind, _, wanted = check.slice.partition("=")
        yield from ((f"{kind}: {one['name']}", one) for one in content["slices"] if one["by"] == kind and wanted in ("", one["name"]))
    elif isinstance(check, Placed) and check.set == EVERY:
        yield from ((name, part) for name, part in sets.items() if name not in general)
    elif isinstance(check, Placed) and check.set is not None:
        yield check.set, sets[check.set]
    else:
        yield ALL_ROWS, content["whole"]


def _held_against(name: str, check: Check, place: str, part: Mapping[str, Any], better: str) -> Judged:
    """One check at one place: its number, turned so that the sign is that of the check's own words."""
    kind = name.partition(".")[0]
    if isinstance(check, Compliance):
        estimate = part.get("tuned", {}).get(check.metric) or {}
        found = _Found(estimate.get("value"), estimate.get("low"), estimate.get("high"))
        got = (found if better == "max" else _Found(found.value, found.high, found.low)).at(check.end)
        limit, upward = (check.least, True) if check.least is not None else (check.most, False)
        assert limit is not None
        return _judgement(name, kind, check, place, found, got, limit, upward=upward)
    gained = _gained(check, part, better)
    if isinstance(check, Gain):
        return _judgement(name, kind, check, place, gained, gained.at(check.end), check.least, upward=True)
    assert isinstance(check, Regression | Forgetting | Overfitting)
    return _judgement(name, kind, check, place, gained.turned(), _minus(gained.at(check.end)), check.most, upward=False)


def _gained(check: Check, part: Mapping[str, Any], better: str) -> _Found:
    """By how much the tuned model is better there; of the gap, by how much it is less. Ends of a slice's interval are the corrected ones."""
    if isinstance(check, Overfitting):
        estimate = part["gaps"]["tuned"].get(check.metric) or {}
        return _Found(estimate.get("value"), estimate.get("low"), estimate.get("high")).turned()
    estimate = {**(part.get("difference", {}).get(check.metric) or {}), **part.get("corrected", {}).get(check.metric, {})}
    found = _Found(estimate.get("value"), estimate.get("low"), estimate.get("high"))
    return found if better == "max" else found.turned()


def _judgement(name: str, kind: str, check: Any, place: str, found: _Found, got: float | None, limit: float, *, upward: bool) -> Judged:
    more = isinstance(check, Gain) and limit == 0  # no gain at all is none
    passed = got is not None and (got > limit if more else got >= limit if upward else got <= limit)
    wanted = "above 0" if more else f"at {'least' if upward else 'most'} {limit:g}"
    return Judged(name, kind, check.metric, place, wanted, limit, check.end, got, found.value, found.low, found.high, passed)


def _minus(number: float | None) -> float | None:
    return None if number is None else -number
