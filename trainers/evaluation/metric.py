"""What a metric is: a sum and a count of every row, and a value of their totals. One metric a file in metrics/, found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol

from tunefleet.cluster.plugins import plugin
from tunefleet.trainers.evaluation.rows import Floats, RowScores
from tunefleet.trainers.run import METRICS


class Metric(Protocol):
    """Sums cross processes and resamples; only ``value`` divides. So no metric is a mean of means."""

    better: ClassVar[Literal["min", "max"]]
    reads: ClassVar[tuple[str, ...]]

    def parts(self, rows: RowScores) -> tuple[Floats, Floats]:
        """The sum and the count of every row, (R,) each, out of ``rows.sums``."""
        ...

    def value(self, total: Floats, count: Floats) -> Floats:
        """The metric of totals over rows, elementwise; a count is never zero."""
        ...


def make_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """The metrics of ``evaluation.metrics``. Raises SettingsError, with the nearest name, for one that does not exist."""
    kinds = {name: plugin(METRICS, name) for name in names}
    return {name: kind(kind.Config()) for name, kind in kinds.items()}


def needs_correct(metrics: Mapping[str, Metric]) -> bool:
    """Whether any metric reads the greedy hits, which cost an argmax over the vocabulary."""
    return any("correct" in metric.reads for metric in metrics.values())
