"""What a metric is: statistics of every row that may be summed, and a value of their totals. One metric a file in metrics/, found by name.

Shape letters: R rows, K statistics of a metric, S totals (the whole, or one of each resample).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import AfterValidator, Field

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.plugins import plugin
from tunefleet.cluster.settings import Settings, refusal
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, TIMES, Floats, RowScores
from tunefleet.trainers.run import METRICS


class Metric(Protocol):
    """Totals cross processes and resamples; only ``value`` divides. So no metric is a mean of means, and none depends on how rows were shared out."""

    better: ClassVar[Literal["min", "max"]]
    reads: ClassVar[tuple[str, ...]]

    def statistics(self, rows: RowScores) -> Floats:
        """What is summed over rows, (R, K), out of what the metric reads: ``rows.sums``, or ``rows.texts``."""
        ...

    def value(self, totals_SK: Floats) -> Floats:
        """The metric of totals, (S,); NaN where they count nothing."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A metric with more to say of some rows than one value: a value for each label, a median. It is written beside the values, as it stands."""

    def describe(self, rows: RowScores) -> Mapping[str, Any]:
        """Plain JSON."""
        ...


@runtime_checkable
class Biased(Protocol):
    """A metric of how far sums lie from what they should be: never below 0, and above it by chance alone, the more so the fewer rows there are.

    Resamples have that chance twice, so its intervals are made otherwise (see paired.Drawn); and it is no metric of a single row.
    """

    def distance(self, totals_SK: Floats, whole_K: Floats) -> Floats:
        """How far totals lie from those of all rows, (S,): at least as far as their values do."""
        ...


class Named(Settings):
    """The settings that metrics of one kind need to stand beside each other."""

    name: str = Field(default="", description="what its results are called; its kind where empty")


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise refusal(SettingsError("no regular expression", got=f"{text} ({error})", want="Python's syntax", fix="mend it")) from error
    return text


Pattern = Annotated[str, AfterValidator(_expression)]
"""A regular expression of a metric's settings."""


def make_metrics(wanted: Sequence[Settings]) -> dict[str, Metric]:
    """The metrics of ``evaluation.metrics`` by name. Raises SettingsError for two of one name."""
    found: dict[str, Metric] = {}
    for settings in wanted:
        name = result_name(vars(settings))
        if name in found:
            raise SettingsError("evaluation.metrics: a name stands twice", got=name, want="a name for each", fix="give one of them a name: of its own")
        found[name] = plugin(METRICS, vars(settings)["kind"])(settings)
    return found


def result_name(settings: Mapping[str, object]) -> str:
    """What the results of a metric with these settings are called."""
    return str(settings.get("name") or settings["kind"])


def needs(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """All that is read of a row: what nobody reads is not computed (greedy hits cost an argmax over the vocabulary, answers a generation)."""
    return frozenset(name for metric in metrics.values() for name in metric.reads)


def measured(metric: Metric) -> bool:
    """Whether its values are of the clock, so of one machine in one hour: they have no interval, and tuned and base are not compared by them."""
    return any(name in TIMES for name in metric.reads)


def ratio(totals_S2: Floats) -> Floats:
    """A sum by a count, NaN where the count is zero."""
    total, count = totals_S2[:, 0], totals_S2[:, 1]
    found: Floats = np.divide(total, count, out=np.full(len(totals_S2), np.nan), where=count > 0)
    return found


def of_answers(rows: RowScores, score: Callable[[str, str], Sequence[float]], width: int) -> Floats:
    """``score(answer, reference)`` of every row that was answered, (R, width); zeros for the others."""
    found = np.zeros((len(rows.ids), width))
    for row, (answer, reference) in enumerate(zip(rows.texts[ANSWER], rows.texts[REFERENCE], strict=True)):
        if answer is not None and reference is not None:
            found[row] = score(answer, reference)
    return found


def installed(package: str) -> None:
    """Raises SettingsError where a metric's library is missing."""
    if find_spec(package) is None:
        want = "the package on driver, workers and actors"
        raise SettingsError(f"evaluation.metrics: {package} is not installed", got="a metric that needs it", want=want, fix="install tunefleet[metrics]")
