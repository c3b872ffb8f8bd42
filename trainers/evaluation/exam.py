"""What a model is examined on: held-out rows, what is measured on each set of them, and which rows are answered for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.cluster.errors import DataError
from tunefleet.trainers.evaluation.answers import spread_over
from tunefleet.trainers.evaluation.closer import Closer
from tunefleet.trainers.evaluation.compare import aimed_at
from tunefleet.trainers.evaluation.heldout import HOLDOUT, HeldOut
from tunefleet.trainers.evaluation.metric import Metric, make_metrics, needs
from tunefleet.trainers.evaluation.rows import ANSWER, Ids
from tunefleet.trainers.evaluation.suite import Suite, examined_run, metrics_by_set
from tunefleet.trainers.run import RunFile

if TYPE_CHECKING:
    from tunefleet.data.store import Store


@dataclass(frozen=True)
class Exam:
    """``run`` says how rows are computed and answered. ``metrics`` are those of the numbers at the top, ``own`` those of each set; ``general``: see Suite."""

    run: RunFile
    held: HeldOut
    metrics: Mapping[str, Metric]
    own: Mapping[str, Mapping[str, Metric]]
    general: tuple[str, ...] = ()

    @cached_property
    def needs(self) -> frozenset[str]:
        """All that is read of a row in any set."""
        return frozenset().union(*(needs(metrics) for metrics in self.own.values()))

    @cached_property
    def asked(self) -> Ids:
        """The rows that are answered: of each set with a metric of answers as many as ``evaluation.answers.rows``."""
        most = self.run.evaluation.answers.rows
        own = [spread_over(ids, most) for name, ids in self.held.sets.items() if ANSWER in needs(self.own[name])]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *own]))

    @property
    def top(self) -> Mapping[str, Ids]:
        """The sets that the numbers at the top are of."""
        return {name: self.held.sets[name] for name in aimed_at(self.held.sets, self.general)}

    @cached_property
    def closer(self) -> Closer:
        """Compares the scores of its rows."""
        return Closer(self.run, self.held, own=self.own, general=self.general)


def exam_of_run(run: RunFile, held: HeldOut) -> Exam:
    """A run's own held-out rows."""
    metrics = make_metrics(run.evaluation.metrics)
    return Exam(run, held, metrics, dict.fromkeys(held.sets, metrics))


def exam_of_suite(suite: Suite, run: RunFile, store: Store) -> Exam:
    """The sets of a suite, whose rows a store holds one behind the other. Raises DataError for a set of which no row was kept."""
    split, index = store.split(HOLDOUT), store.index
    places = iter(split.sources)
    sets: dict[str, Ids] = {}
    for name, held in suite.sets.items():
        sets[name] = np.concatenate([np.asarray(next(places).ids, np.int64) for _ in held.sources])
    if empty := [name for name, ids in sets.items() if not len(ids)]:
        fix = "look at the data report beside the store, and at quality"
        raise DataError(f"sets.{empty[0]}: no row is left", got="every row was dropped", want="one row or more", fix=fix)
    own = {name: make_metrics(wanted) for name, wanted in metrics_by_set(suite).items()}
    general = tuple(name for name, held in suite.sets.items() if held.general)
    top = aimed_at(sets, general)
    settings = {name: {key: dict(vars(wanted)) for key, wanted in zip(own[name], metrics_by_set(suite)[name], strict=True)} for name in top}
    shared = [key for key in settings[top[0]] if all(settings[name].get(key) == settings[top[0]][key] for name in top)]
    run = examined_run(suite, run)
    return Exam(run, HeldOut(split, sets, index.fingerprint, store.files.storage), {key: own[top[0]][key] for key in shared}, own, general)
