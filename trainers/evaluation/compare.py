"""Tuned against base on the same rows: the numbers of an evaluation file, with 95% bootstrap intervals over rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tunefleet.cluster.errors import DataError
from tunefleet.trainers.evaluation.metric import Describing, Metric
from tunefleet.trainers.evaluation.paired import MODELS, Paired, counted, interval, plain, reason
from tunefleet.trainers.evaluation.rows import Ids, RowScores


def compare(
    tuned: RowScores,
    base: RowScores,
    metrics: Mapping[str, Metric],
    *,
    sets: Mapping[str, Ids] | None = None,
    own: Mapping[str, Mapping[str, Metric]] | None = None,
    general: Collection[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The part of an evaluation file that is made of scores: ``rows``, ``tuned``, ``base``, ``difference``, ``whole``, ``failed`` and ``sets``.

    ``tuned`` and ``base`` hold the same rows. A value that is not finite is None, as JSON has no NaN. ``difference`` is tuned minus base, its
    interval paired: the same rows are drawn for both. ``own``: the metrics of sets that have others than ``metrics``. ``general``: sets that stand for what
    the model should not forget; they are marked, and the numbers at the top are of the others (of all, where there are no others);
    ``whole`` has them with their intervals.
    A metric that raises is None where it did and stands in ``failed``, with why: the other numbers do not depend on it.
    Raises DataError for a set without one supervised token.
    """
    assert np.array_equal(tuned.ids, base.ids), "tuned and base were scored on different rows"
    named = dict(sets) if sets else {"holdout": tuned.ids}
    results = {name: _one_set(name, tuned.select(ids), base.select(ids), (own or {}).get(name, metrics), resamples, seed) for name, ids in named.items()}
    for name in general:
        results[name]["general"] = True
    top = aimed_at(named, general)
    whole = results[top[0]]
    if len(top) > 1:
        ids = np.concatenate([named[name] for name in top])
        whole = _one_set("all sets", tuned.select(ids), base.select(ids), metrics, resamples, seed)
    return {
        "rows": whole["rows"],
        "tuned": {name: interval["value"] for name, interval in whole["tuned"].items()},
        "base": {name: interval["value"] for name, interval in whole["base"].items()},
        "difference": whole["difference"],
        "whole": {key: whole[key] for key in (*MODELS, "difference")},
        "failed": _failed({held: result["failed"] for held, result in results.items()}),
        "sets": results,
    }


def _failed(by_set: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Why each metric failed; with the set where that is not so in all of them."""
    found: dict[str, dict[str, str]] = {}
    for held, failed in by_set.items():
        for name, why in failed.items():
            found.setdefault(name, {})[held] = why
    alike = {name: len(whys) == len(by_set) and len(set(whys.values())) == 1 for name, whys in found.items()}
    return {name: next(iter(whys.values())) if alike[name] else "; ".join(f"{held}: {why}" for held, why in whys.items()) for name, whys in found.items()}


def aimed_at(sets: Collection[str], general: Collection[str]) -> list[str]:
    """The sets that the numbers at the top are of: those that are not general; all, where there are no others."""
    return [name for name in sets if name not in general] or list(sets)


def totals(rows: RowScores, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """Every metric over all rows; None for what is not finite, and for a metric that raises."""
    found, failed = counted(metrics, rows)
    return {**{name: plain(metrics[name].value(counts.sum(0, keepdims=True))[0]) for name, (counts,) in found.items()}, **dict.fromkeys(failed)}


def _one_set(name: str, tuned: RowScores, base: RowScores, metrics: Mapping[str, Metric], resamples: int, seed: int) -> dict[str, Any]:
    tokens = int(tuned.sums["tokens"].sum())
    if not tokens:
        raise DataError(
            f"the held-out set {name} has no supervised token",
            got=f"{len(tuned.ids)} rows, 0 supervised tokens",
            want="at least one token to score",
            fix="set data.quality.unsupervised to error to see which rows these are",
        )
    paired = Paired.of(tuned, base, metrics)
    result: dict[str, Any] = {"rows": len(tuned.ids), "tokens": tokens, "tuned": {}, "base": {}, "difference": {}, "failed": dict(paired.failed)}
    for side in MODELS:
        result[side] = {key: dict.fromkeys(("value", "low", "high")) for key in metrics}
    for key in paired.metrics:
        for side, value in zip(MODELS, paired.whole(key), strict=True):
            result[side][key]["value"] = plain(value)
    for key, found in paired.compared().drawn(resamples, seed).items():
        for side in MODELS:
            result[side][key] = found.interval(side)
        result["difference"][key] = interval(*found.difference)
    details, failed = _details(paired.metrics, tuned, base)
    result["failed"] |= failed
    return result | ({"details": details} if details else {})


def _details(metrics: Mapping[str, Metric], tuned: RowScores, base: RowScores) -> tuple[dict[str, Any], dict[str, str]]:
    """What metrics have to say beside their values; and of those that raise, or say what is no plain JSON, why."""
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, metric in metrics.items():
        if isinstance(metric, Describing):
            try:
                said = {"tuned": metric.describe(tuned), "base": metric.describe(base)}
                json.dumps(said, allow_nan=False)
                found[name] = said
            except Exception as error:  # noqa: BLE001 - it may be a stranger's code, and its values stand
                failed[name] = reason(error)
    return found, failed
