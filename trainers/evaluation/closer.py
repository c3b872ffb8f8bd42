"""A comparison with what lies below its totals: rows won and lost, slices, and the largest regressions in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.trainers.evaluation.compare import aimed_at, compare
from tunefleet.trainers.evaluation.gatefile import KINDS, Offered
from tunefleet.trainers.evaluation.metric import Metric
from tunefleet.trainers.evaluation.paired import Paired
from tunefleet.trainers.evaluation.regressions import cut, regressions
from tunefleet.trainers.evaluation.rows import Ids, RowScores
from tunefleet.trainers.evaluation.slices import Slice, by_label, by_length, by_source, compare_slices, won_and_lost

if TYPE_CHECKING:
    from tunefleet.trainers.evaluation.heldout import HeldOut
    from tunefleet.trainers.run import RunFile


class Closer:
    """The held-out rows of a run or a suite, ready to be looked at closely. ``own`` and ``general``: see compare."""

    def __init__(self, run: RunFile, held: HeldOut, *, own: Mapping[str, Mapping[str, Metric]] | None = None, general: Collection[str] = ()) -> None:
        self.run, self.held, self.own, self.general = run, held, own or {}, general

    def compare(self, tuned: RowScores, base: RowScores, metrics: Mapping[str, Metric]) -> dict[str, Any]:
        """What ``compare`` finds, and beside it ``better`` (the direction of each metric), ``rows_won``, ``comparisons``, ``slices`` and ``regressions``.

        See compare_slices and regressions.
        """
        settings, seed = self.run.evaluation, self.run.training.seed
        how: dict[str, Any] = {"own": self.own, "general": self.general, "resamples": settings.bootstrap, "seed": seed}
        found = compare(tuned, base, metrics, sets=self.held.sets, **how)
        tuned, base = tuned.select(self.rows), base.select(self.rows)
        paired = Paired.of(tuned, base, metrics).compared()
        found["better"] = {name: metric.better for some in (*self.own.values(), metrics) for name, metric in some.items()}
        found["rows_won"] = {name: won_and_lost(paired.gains(name)) for name in paired.of_single_rows().metrics}
        found |= compare_slices(paired, self.slices, resamples=settings.bootstrap, seed=seed)
        return {**found, "regressions": regressions(tuned, base, paired, self._row)}

    def offered(self, metrics: Mapping[str, Metric], *, no_gap: str) -> Offered:
        """What a gate can ask for. The rows' words are read, no model. ``no_gap``: why no training rows are scored; empty where some are."""
        kinds = {kind: [one.name for one in self.slices if one.by == kind] for kind in KINDS}
        return Offered(metrics, {name: self.own.get(name, metrics) for name in self.held.sets}, self.general, kinds, no_gap)

    @property
    def rows(self) -> Ids:
        """The ids of the rows that the numbers at the top are of."""
        return np.sort(np.concatenate([self.held.sets[name] for name in aimed_at(self.held.sets, self.general)]))

    @cached_property
    def slices(self) -> list[Slice]:
        """By source, by length, and by label where rows have labels."""
        facts, rows = self.held.facts, self.rows
        return [*by_source(facts.sources, rows), *by_length(facts.lengths, rows), *by_label(facts.labels, rows)]

    def _row(self, row: int) -> dict[str, Any]:
        facts = self.held.facts
        return {"source": facts.sources[row], "prompt": cut(facts.prompts[row]), "reference": cut(facts.answers[row])}
