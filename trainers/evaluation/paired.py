"""Two models on the same rows: what their metrics are made of, side by side, whole and resampled.

Sources of the bootstrap: Efron 1979; paired, as one draw serves both models. Of a biased metric: Davison and Hinkley 1997, Bootstrap Methods and their
Application, section 5.2.1 (the basic bootstrap).

Shape letters: R rows, S resamples, K columns (the statistics of all metrics, of the tuned model and of its base).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunefleet.trainers.evaluation.metric import Biased, Metric, measured
from tunefleet.trainers.evaluation.rows import Floats, Ids, RowScores, places_of

DRAWS_AT_ONCE = 1 << 22  # rows drawn before they are counted: bounds the memory of a resample to about 70 MB
MODELS = ("tuned", "base")


@dataclass(frozen=True)
class Drawn:
    """A metric of both models: over all rows, and of every resample (``draws``, (S,)). ``difference`` is tuned minus base.

    Of a Biased metric the draws are mirrored at the value: what chance adds to them is taken off differences, not added once more. ``distances`` are how
    far its draws lie from all rows (none of other metrics): an interval of the metric itself reaches as far to both sides, down to 0.
    """

    value: Mapping[str, float]
    draws: Mapping[str, Floats]
    distances: Mapping[str, Floats]

    def interval(self, model: str) -> dict[str, float | None]:
        """The metric of a model with its interval."""
        value, far_S = self.value[model], self.distances.get(model)
        return interval(value, self.draws[model] if far_S is None else np.concatenate([np.maximum(value - far_S, 0.0), value + far_S]))

    @property
    def difference(self) -> tuple[float, Floats]:
        """Tuned minus base, over all rows and of every resample."""
        with np.errstate(invalid="ignore"):  # inf - inf, of two models that both diverged
            return self.value["tuned"] - self.value["base"], self.draws["tuned"] - self.draws["base"]


@dataclass(frozen=True)
class Paired:
    """``ids`` (R,) ascending, ``tokens`` (R,), and the statistics of each metric's rows (R, k), tuned then base, by the metric's name.

    A metric that raised is in ``failed``, with why, and not in ``metrics``.
    """

    ids: Ids
    tokens: Floats
    metrics: Mapping[str, Metric]
    statistics: Mapping[str, tuple[Floats, ...]]
    failed: Mapping[str, str]

    @classmethod
    def of(cls, tuned: RowScores, base: RowScores, metrics: Mapping[str, Metric]) -> Paired:
        """Both hold the same rows."""
        assert np.array_equal(tuned.ids, base.ids), "tuned and base were scored on different rows"
        assert tuned.answered() in (base.answered(), None) or base.answered() is None, "tuned and base answered different rows"
        found, failed = counted(metrics, tuned, base)
        return cls(tuned.ids, tuned.sums["tokens"], {name: metrics[name] for name in found}, found, failed)

    def compared(self) -> Paired:
        """Without the metrics of the clock, by which models are not compared."""
        return self._only(lambda metric: not measured(metric))

    def of_single_rows(self) -> Paired:
        """Without the metrics that say nothing of a single row."""
        return self._only(lambda metric: not isinstance(metric, Biased))

    def select(self, ids: Ids) -> Paired:
        """The rows of these ids, which must all be there."""
        wanted, where = places_of(ids, self.ids)
        statistics = {name: tuple(part[where] for part in parts) for name, parts in self.statistics.items()}
        return replace(self, ids=wanted, tokens=self.tokens[where], statistics=statistics)

    def of_rows(self, name: str) -> tuple[Floats, Floats]:
        """A metric of every single row (R,), tuned and base; NaN where a row counts nothing."""
        tuned, base = (self.metrics[name].value(part) for part in self.statistics[name])
        return tuned, base

    def gains(self, name: str) -> Floats:
        """By how much the tuned model is better on every row (R,), whichever way the metric is better; NaN where that cannot be said."""
        tuned, base = self.of_rows(name)
        with np.errstate(invalid="ignore"):
            found: Floats = base - tuned if self.metrics[name].better == "min" else tuned - base
        return found

    def _only(self, keeps: Callable[[Metric], bool]) -> Paired:
        kept = {name: metric for name, metric in self.metrics.items() if keeps(metric)}
        return replace(self, metrics=kept, statistics={name: self.statistics[name] for name in kept})

    def whole(self, name: str) -> tuple[float, float]:
        """A metric over all rows, tuned and base."""
        tuned, base = (float(self.metrics[name].value(part.sum(0, keepdims=True))[0]) for part in self.statistics[name])
        return tuned, base

    def drawn(self, resamples: int, seed: int) -> dict[str, Drawn]:
        """Every metric over all rows and of every resample; every column of one resample is of the same draw."""
        if not self.metrics:
            return {}
        parts = [part for both in self.statistics.values() for part in both]
        columns_RK, ends = np.concatenate(parts, axis=1), np.cumsum([part.shape[1] for part in parts])[:-1]
        resampled = np.split(resampled_totals(columns_RK, resamples, seed), ends, axis=1)
        found = {}
        for i, (name, metric) in enumerate(self.metrics.items()):
            totals = dict(zip(MODELS, resampled[2 * i : 2 * i + 2], strict=True))
            value = dict(zip(MODELS, self.whole(name), strict=True))
            draws, distances = {model: metric.value(drawn) for model, drawn in totals.items()}, {}
            if isinstance(metric, Biased):
                draws = {model: 2 * value[model] - drawn for model, drawn in draws.items()}
                distances = {model: metric.distance(totals[model], part.sum(0)) for model, part in zip(MODELS, self.statistics[name], strict=True)}
            found[name] = Drawn(value, draws, distances)
        return found


def counted(metrics: Mapping[str, Metric], *scored: RowScores) -> tuple[dict[str, tuple[Floats, ...]], dict[str, str]]:
    """The statistics (R, K) of each metric for each of several models' scores of the same rows; and of those that raise, why: they may be a stranger's code."""
    found: dict[str, tuple[Floats, ...]] = {}
    failed: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            counts = tuple(metric.statistics(rows) for rows in scored)
            for part in counts:  # of every row, of all, and of a resample that counts nothing
                probes = np.concatenate([part, part.sum(0, keepdims=True), np.zeros_like(part[:1])])
                if len(values := metric.value(probes)) != len(probes):
                    raise ValueError(f"{len(probes)} totals have {len(values)} values")
                if isinstance(metric, Biased):
                    metric.distance(probes, part.sum(0))
            found[name] = counts
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and no other number waits for it
            failed[name] = reason(error)
    return found, failed


def reason(error: Exception) -> str:
    """Why a metric could not be computed, in one line."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


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


def interval(value: float, draws_S: Floats) -> dict[str, float | None]:
    """A value and the 95% percentile interval of its resamples; None for what is not finite. Resamples that counted nothing (NaN) are left out."""
    low, high = ends(draws_S, 0.95)
    return {"value": plain(value), "low": low, "high": high}


def ends(draws_S: Floats, share: float) -> tuple[float | None, float | None]:
    """Between which two values this share of the resamples lies, equally much beyond both ends."""
    counted = draws_S[~np.isnan(draws_S)]
    if not len(counted):
        return None, None
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(counted, [50 * (1 - share), 100 - 50 * (1 - share)])
    return plain(low), plain(high)


def plain(number: Any) -> float | None:
    """As JSON has it: None for what is not finite."""
    return float(number) if math.isfinite(number) else None
