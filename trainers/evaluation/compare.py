"""Tuned against base on the same rows, with 95% percentile bootstrap intervals over rows. Source: Efron 1979; paired, as both are scored on one draw.

Shape letters: R rows, S resamples, K columns (the statistics of all metrics, of the tuned model and of its base).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tunefleet.cluster.errors import DataError
from tunefleet.trainers.evaluation.metric import Describing, Metric, measured
from tunefleet.trainers.evaluation.rows import Floats, Ids, RowScores

DRAWS_AT_ONCE = 1 << 22  # rows drawn before they are counted: bounds the memory of a resample to about 70 MB
LOW, HIGH = 2.5, 97.5


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
    """The part of an evaluation file that is made of scores: ``rows``, ``tuned``, ``base``, ``difference``, ``failed`` and ``sets``.

    ``tuned`` and ``base`` hold the same rows. A value that is not finite is None, as JSON has no NaN. ``difference`` is tuned minus base, its
    interval paired: the same rows are drawn for both. ``own``: the metrics of sets that have others than ``metrics``. ``general``: sets that stand for what
    the model should not forget; they are marked, and the numbers at the top are of the others (of all, where there are no others).
    A metric that raises is None where it did and stands in ``failed``, with why: the other numbers do not depend on it.
    Raises DataError for a set without one supervised token.
    """
    assert np.array_equal(tuned.ids, base.ids), "tuned and base were scored on different rows"
    named = dict(sets) if sets else {"holdout": tuned.ids}
    results = {name: _one_set(name, tuned.select(ids), base.select(ids), (own or {}).get(name, metrics), resamples, seed) for name, ids in named.items()}
    for name in general:
        results[name]["general"] = True
    top = [name for name in named if name not in general] or list(named)
    whole = results[top[0]]
    if len(top) > 1:
        ids = np.concatenate([named[name] for name in top])
        whole = _one_set("all sets", tuned.select(ids), base.select(ids), metrics, resamples, seed)
    return {
        "rows": whole["rows"],
        "tuned": {name: interval["value"] for name, interval in whole["tuned"].items()},
        "base": {name: interval["value"] for name, interval in whole["base"].items()},
        "difference": whole["difference"],
        "failed": {name: why for result in (*results.values(), whole) for name, why in result["failed"].items()},
        "sets": results,
    }


def totals(rows: RowScores, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
    """Every metric over all rows; None for what is not finite, and for a metric that raises."""
    found, failed = counted(metrics, rows)
    values = {name: float(metrics[name].value(counts.sum(0, keepdims=True))[0]) for name, (counts,) in found.items()}
    return {**{name: value if math.isfinite(value) else None for name, value in values.items()}, **dict.fromkeys(failed)}


def counted(metrics: Mapping[str, Metric], *scored: RowScores) -> tuple[dict[str, tuple[Floats, ...]], dict[str, str]]:
    """The statistics (R, K) of each metric for each of several models' scores of the same rows; and of those that raise, why: they may be a stranger's code."""
    found: dict[str, tuple[Floats, ...]] = {}
    failed: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            counts = tuple(metric.statistics(rows) for rows in scored)
            for part in counts:
                metric.value(part.sum(0, keepdims=True))
            found[name] = counts
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and no other number waits for it
            failed[name] = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return found, failed


def resampled_totals(columns_RK: Floats, resamples: int, seed: int) -> Floats:
    """Totals (S, K) of R rows drawn S times with replacement; every column of one resample is of the same draw.

    Drawing is as a matrix product of counts, in chunks of resamples: 1,000 resamples of 1,000 rows take some 20 ms.
    """
    rows = len(columns_RK)
    random = np.random.default_rng(seed)
    chunk = max(1, DRAWS_AT_ONCE // rows)
    found = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = random.integers(0, rows, (size, rows)) + rows * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 * inf, of a model that diverged: its totals are NaN, and its interval None
            found.append(times @ columns_RK)
    return np.concatenate(found)


def _one_set(name: str, tuned: RowScores, base: RowScores, metrics: Mapping[str, Metric], resamples: int, seed: int) -> dict[str, Any]:
    tokens = int(tuned.sums["tokens"].sum())
    if not tokens:
        raise DataError(
            f"the held-out set {name} has no supervised token",
            got=f"{len(tuned.ids)} rows, 0 supervised tokens",
            want="at least one token to score",
            fix="set data.quality.unsupervised to error to see which rows these are",
        )
    found, failed = counted(metrics, tuned, base)
    result: dict[str, Any] = {"rows": len(tuned.ids), "tokens": tokens, "tuned": {}, "base": {}, "difference": {}, "failed": failed}
    for side in ("tuned", "base"):
        result[side] = {name: dict.fromkeys(("value", "low", "high")) for name in metrics}
    for key in (name for name in found if measured(metrics[name])):
        for side, part in zip(("tuned", "base"), found[key], strict=True):
            result[side][key]["value"] = finite(metrics[key].value(part.sum(0, keepdims=True))[0])
    result |= _details({name: metrics[name] for name in found}, tuned, base)
    drawn_of = {name: parts for name, parts in found.items() if not measured(metrics[name])}
    if not drawn_of:
        return result
    columns_RK = np.concatenate([part for parts in drawn_of.values() for part in parts], axis=1)
    ends = np.cumsum([part.shape[1] for parts in drawn_of.values() for part in parts])[:-1]
    whole = np.split(columns_RK.sum(0, keepdims=True), ends, axis=1)
    drawn = np.split(resampled_totals(columns_RK, resamples, seed), ends, axis=1)
    for i, key in enumerate(drawn_of):
        values = [metrics[key].value(whole[j])[0] for j in (2 * i, 2 * i + 1)]
        draws = [metrics[key].value(drawn[j]) for j in (2 * i, 2 * i + 1)]
        result["tuned"][key] = interval(values[0], draws[0])
        result["base"][key] = interval(values[1], draws[1])
        with np.errstate(invalid="ignore"):  # inf - inf, of two models that both diverged
            result["difference"][key] = interval(values[0] - values[1], draws[0] - draws[1])
    return result


def _details(metrics: Mapping[str, Metric], tuned: RowScores, base: RowScores) -> dict[str, Any]:
    """What metrics have to say beside their values, as ``details``; nothing where none has."""
    told = {name: metric for name, metric in metrics.items() if isinstance(metric, Describing)}
    return {"details": {name: {"tuned": metric.describe(tuned), "base": metric.describe(base)} for name, metric in told.items()}} if told else {}


def finite(value: Any) -> float | None:
    """A number as JSON has it."""
    return float(value) if math.isfinite(value) else None


def interval(value: Any, draws_S: Floats) -> dict[str, float | None]:
    """A value and the 95% percentile interval of its resamples; None for what is not finite. Resamples that counted nothing (NaN) are left out."""
    counted = draws_S[~np.isnan(draws_S)]
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(counted, [LOW, HIGH]) if len(counted) else (math.nan, math.nan)
    return {"value": finite(value), "low": finite(low), "high": finite(high)}
