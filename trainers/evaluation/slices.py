"""Held-out rows by slice: where they come from, how long they are, what they are labelled; and which model wins in each.

Many slices are many comparisons, and of twenty intervals at 95% one misses by chance. So each difference has a second, wider interval beside its own:
with the share of misses divided by the number of all comparisons, all of them hold together with 95%. Source: Dunn 1961, Multiple Comparisons
among Means (the Bonferroni correction). Only a slice whose wider interval leaves zero out is called better or worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tunefleet.trainers.evaluation.paired import MODELS, Paired, ends, interval
from tunefleet.trainers.evaluation.rows import Floats, Ids

By = Literal["source", "length", "label"]
LEAST = 10  # rows that a slice must have, and a metric must count in it (answers are given to some only): an interval of fewer says nothing
MOST = 12  # slices of one kind; the smaller ones are put together
TAIL = 5  # resamples that lie beyond each end of the widest interval, so that its ends are not those of one draw
DRAWN = 10_000  # resamples at most for that: of 1,000 rows they take some 0.2 s
ROWS_DRAWN = 200_000_000  # and rows of all resamples of one slice: training may stand meanwhile, some seconds
MISSED = 0.05
METHOD = "bootstrap over examples; corrected: Bonferroni over all slices and metrics (Dunn 1961)"


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common; a row is in one slice of each kind."""

    by: By
    name: str
    ids: Ids


def by_source(sources: Sequence[str], rows: Ids) -> list[Slice]:
    """A slice for each source of these rows, told by their ids; none where there is one source only."""
    return _slices("source", _groups(sources, rows), "other sources")


def by_length(lengths: np.ndarray[Any, Any], rows: Ids) -> list[Slice]:
    """Quarters of these rows by their tokens, prompt and answer together; fewer where many rows are equally long, none where all are.

    Where more than three quarters are as long as the longest (raw text that was cut), the others are one slice.
    """
    own = lengths[rows]
    edges = np.unique(np.quantile(own, [0.25, 0.5, 0.75, 1.0], method="lower")) if len(rows) else np.zeros(0)
    if len(edges) == 1 and (own < edges[0]).any():
        edges = np.array([own[own < edges[0]].max(), edges[0]])
    place = np.searchsorted(edges, own)
    groups = {}
    for i, edge in enumerate(edges.tolist()):
        inside = own[place == i]
        last = len(edges) - 1
        name = f"up to {edge} tokens" if not i else f"{inside.min()} to {edge} tokens" if i < last else f"{inside.min()} tokens or more"
        groups[name] = rows[place == i]
    return _slices("length", groups, "other lengths")


def by_label(labels: Sequence[str | None], rows: Ids) -> list[Slice]:
    """A slice for each label of these rows, told by their ids, the most frequent first; rows without a label are in none."""
    groups = _groups(labels, rows)
    return _slices("label", dict(sorted(groups.items(), key=lambda group: -len(group[1]))), "other labels")


def _groups(names: Sequence[str | None], rows: Ids) -> dict[str, Ids]:
    found: dict[str, list[int]] = {}
    for row in rows.tolist():
        if (name := names[row]) is not None:
            found.setdefault(name, []).append(row)
    return {name: np.array(ids, np.int64) for name, ids in found.items()}


def _slices(by: By, groups: Mapping[str, Ids], rest: str) -> list[Slice]:
    """The largest groups by name, in their order; those that are too small, or too many, as one. None where that leaves one slice: it is the whole."""
    large = {name for name, ids in sorted(groups.items(), key=lambda group: -len(group[1]))[:MOST] if len(ids) >= LEAST}
    found = [Slice(by, name, ids) for name, ids in groups.items() if name in large]
    left = [ids for name, ids in groups.items() if name not in large and len(ids)]
    if left and sum(map(len, left)) >= LEAST:
        found.append(Slice(by, rest, np.sort(np.concatenate(left))))
    return found if len(found) > 1 else []


def compare_slices(paired: Paired, slices: Sequence[Slice], *, resamples: int, seed: int) -> dict[str, Any]:
    """``comparisons`` (how many, and how they were corrected) and ``slices``.

    Each slice has its rows and tokens, both models and their difference with intervals, ``corrected`` (the low and high of the difference that hold
    for all comparisons together), ``rows_won``, ``rows_lost`` and ``rows_tied``, and an ``outcome`` by the corrected interval: better, worse or
    unclear; all by metric. Slices without one supervised token are left out.
    """
    held = [(one, part) for one in slices if (part := paired.select(one.ids)).tokens.sum()]
    number = len(held) * len(paired.metrics)
    share = 1 - MISSED / max(number, 1)
    rows = max((len(part.ids) for _, part in held), default=1)
    drawn = max(resamples, min(DRAWN, ROWS_DRAWN // rows, int(np.ceil(2 * TAIL / (1 - share))))) if number else 0
    told = [_one_slice(one, part, share, drawn, seed) for one, part in held]
    return {"comparisons": {"number": number, "resamples": drawn, "share": share, "method": METHOD}, "slices": told}


def won_and_lost(gains_R: Floats) -> dict[str, int]:
    """Of how many rows the tuned model is better, worse, and neither; rows of which that cannot be said count nowhere."""
    return {"won": int((gains_R > 0).sum()), "lost": int((gains_R < 0).sum()), "tied": int((gains_R == 0).sum())}


def _one_slice(one: Slice, paired: Paired, share: float, resamples: int, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {"by": one.by, "name": one.name, "rows": len(paired.ids), "tokens": int(paired.tokens.sum())}
    result |= {key: {} for key in (*MODELS, "difference", "corrected", "outcome", "rows_won", "rows_lost", "rows_tied")}
    for name, found in paired.drawn(resamples, seed).items():
        for model in MODELS:
            result[model][name] = found.interval(model)
        result["difference"][name] = interval(*found.difference)
        counting = (~np.isnan(paired.of_rows(name)).any(0)).sum()
        low, high = ends(found.difference[1], share) if counting >= LEAST else (None, None)
        result["corrected"][name] = {"low": low, "high": high}
        result["outcome"][name] = outcome(low, high, paired.metrics[name].better)
    for name in paired.of_single_rows().metrics:
        for how, count in won_and_lost(paired.gains(name)).items():
            result[f"rows_{how}"][name] = count
    return result


def outcome(low: float | None, high: float | None, better: str | None) -> Literal["better", "worse", "unclear"]:
    """What an interval of tuned minus base says; unclear where it holds zero, is not finite, or nobody knows which way is better."""
    if low is None or high is None or better is None or low <= 0 <= high:
        return "unclear"
    return "better" if (high < 0) == (better == "min") else "worse"
