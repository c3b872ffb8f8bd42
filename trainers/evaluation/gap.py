"""The overfitting gap: how much more the tuned model gained on rows that it was trained on than on rows that it never saw.

The base model saw neither, so that its own gap is how much harder the held-out rows happen to be; what exceeds it is overfitting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.cluster.errors import RequestError
from tunefleet.data.making import TRAIN
from tunefleet.trainers.evaluation.metric import Metric
from tunefleet.trainers.evaluation.paired import MODELS, Drawn, Paired, interval
from tunefleet.trainers.evaluation.rows import ANSWER, Ids, RowScores

if TYPE_CHECKING:
    from tunefleet.data.layout import Layout, Record
    from tunefleet.data.store import Split, Store
    from tunefleet.trainers.run import RunFile


@dataclass(frozen=True)
class Seen:
    """The training rows that are scored, and the address of the store that holds them; ``lacks``: why there are none."""

    store: str = ""
    rows: Sampled | None = None
    lacks: str = ""


@dataclass(frozen=True)
class Scored:
    """A model's scores of the held-out rows, and of the training rows where some are sampled."""

    held: RowScores
    trained: RowScores | None


class Sampled:
    """Some rows of a split as a split of their own: ids count from 0."""

    def __init__(self, split: Split, ids: Ids) -> None:
        self._split, self._ids = split, ids
        self.lengths = split.lengths[ids]

    def records(self, rows: Sequence[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        return self._split.records(self._ids[list(rows)].tolist())


def trained_rows(store: Store, number: int, seed: int) -> Sampled:
    """Training rows, drawn by a seed."""
    split = store.split(TRAIN)
    return Sampled(split, sample(split.rows, number, seed))


def seen_rows(run: RunFile, store: Store | None, layout: Layout, tokenizer: Any) -> Seen:
    """Rows that a run was trained on. ``store``: its own; None where other rows are the held-out ones: then it is opened where it stands, never made."""
    from tunefleet.data.prepare import standing
    from tunefleet.data.store import Store

    number = run.evaluation.gap_rows
    if not number:
        return Seen(lacks="evaluation.gap_rows: 0")
    if store is None:
        try:
            found = standing(run.data, layout, tokenizer)
        except RequestError as error:
            return Seen(lacks=error.what)
        if found is None:
            return Seen(lacks=f"the run's rows are not prepared in {run.data.store}")
        store = Store.open(found, run.data.cache)
    if TRAIN not in store.index.splits or not store.index.splits[TRAIN].rows:
        return Seen(lacks="the run has no training rows")
    return Seen(store.files.storage.address, trained_rows(store, number, run.training.seed))


def sample(rows: int, number: int, seed: int) -> Ids:
    """``number`` of so many rows, drawn without replacement by a seed, ascending; all of them where there are no more."""
    drawn: Ids = np.sort(np.random.default_rng([seed, rows]).permutation(rows)[:number]).astype(np.int64)
    return drawn


def of_tokens(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics that need no generation: a gap of others would have hundreds of answers more generated."""
    return {name: metric for name, metric in metrics.items() if ANSWER not in metric.reads}


def overfitting(
    tuned: Scored,
    base: Scored,
    metrics: Mapping[str, Metric],
    *,
    sets: Mapping[str, Ids],
    own: Mapping[str, Mapping[str, Metric]] | None = None,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """See gap; None where no training rows were scored, or no metric reads tokens: training rows are never answered.

    ``sets`` are the held-out rows that training rows are held against: all together by ``metrics``, and, where there are several, each by its ``own``.
    """
    own = {name: of_tokens((own or {}).get(name, metrics)) for name in sets}
    if not any(own.values()) or tuned.trained is None or base.trained is None or not tuned.trained.sums["tokens"].sum():
        return None
    seen = (tuned.trained, base.trained)

    def both(ids: Ids, metrics: Mapping[str, Metric]) -> tuple[Paired, Paired]:
        return Paired.of(*seen, metrics).compared(), Paired.of(tuned.held.select(ids), base.held.select(ids), metrics).compared()

    several = {name: both(ids, own[name]) for name, ids in sets.items()} if len(sets) > 1 else {}
    return gap(*both(np.concatenate(list(sets.values())), of_tokens(metrics)), several, resamples=resamples, seed=seed)


def gap(trained: Paired, held: Paired, sets: Mapping[str, tuple[Paired, Paired]], *, resamples: int, seed: int) -> dict[str, Any]:
    """Training rows beside held-out ones, both by the same metrics: a value above zero says that a model is better on training rows.

    ``tuned``, ``base`` and ``difference`` are of the training rows; ``gaps`` holds the gap of each model, and ``overfitting`` is that of the tuned
    one less that of its base, each with its interval. Neither says it alone: held-out rows may be harder, and a base that is far worse on both may
    find another side harder than the tuned model does. ``sets`` has all against each held-out set, by metrics of its own: one unlike the training
    rows measures nothing. The rows of the two sides are drawn independently of each other.
    """
    result: dict[str, Any] = {"rows": len(trained.ids), "tokens": int(trained.tokens.sum())}
    seen = trained.drawn(resamples, seed + 1)
    for model in MODELS:
        result[model] = {name: found.interval(model) for name, found in seen.items()}
    result["difference"] = {name: interval(*found.difference) for name, found in seen.items()}
    against = {name: _against(own.metrics, own.drawn(resamples, seed + 1), part.drawn(resamples, seed)) for name, (own, part) in sets.items()}
    return {**result, **_against(trained.metrics, seen, held.drawn(resamples, seed)), "sets": against}


def _against(metrics: Mapping[str, Metric], seen: Mapping[str, Drawn], unseen: Mapping[str, Drawn]) -> dict[str, Any]:
    """The gaps between training rows and some held-out ones, by metric; of a metric that failed on one side, none."""
    result: dict[str, Any] = {"gaps": {model: {} for model in MODELS}, "overfitting": {}}
    for name in (name for name in seen if name in unseen):
        sign = 1.0 if metrics[name].better == "min" else -1.0
        for model in MODELS:
            value = sign * (unseen[name].value[model] - seen[name].value[model])
            result["gaps"][model][name] = interval(value, sign * (unseen[name].draws[model] - seen[name].draws[model]))
        (before, before_S), (after, after_S) = unseen[name].difference, seen[name].difference
        result["overfitting"][name] = interval(sign * (before - after), sign * (before_S - after_S))
    return result
