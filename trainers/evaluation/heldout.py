"""The held-out rows of a store, the sets that they are reported by, and what each row is beside its scores."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tunefleet.cluster.errors import DataError
from tunefleet.trainers.evaluation.files import base_key
from tunefleet.trainers.evaluation.rows import Ids

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.data.store import Split, Store
    from tunefleet.trainers.run import RunFile

HOLDOUT = "holdout"
LABEL_CHARACTERS = 64
LABELS = 50
"""The short answers of rows count as their labels where there are no more different ones than this, and half as many as rows at most."""


@dataclass(frozen=True)
class RowFacts:
    """What a held-out row is: all (R,), by id.

    ``sources`` name where it comes from, ``lengths`` are its tokens; ``labels`` what it is labelled, judged (good, bad) or, where rows have few short
    answers, its answer; None elsewhere. ``prompts`` and ``answers`` are its own words; None in a store that was made by hand.
    """

    sources: Sequence[str]
    lengths: Ids
    labels: Sequence[str | None]
    prompts: Sequence[str | None]
    answers: Sequence[str | None]


@dataclass(frozen=True)
class HeldOut:
    """``sets`` names the ids of each held-out source (one set, ``holdout``, where a share was drawn); ``fingerprint`` is that of the store."""

    split: Split
    sets: Mapping[str, Ids]
    fingerprint: str
    home: Storage | None = None

    @cached_property
    def facts(self) -> RowFacts:
        """What every row is. The words of all rows are read, once."""
        return _facts(self.home, self.split)

    def key(self, run: RunFile) -> str:
        """What the base model's scores of these rows are kept under."""
        return base_key(run, self.fingerprint)


def held_out(store: Store) -> HeldOut:
    """The held-out rows of a store. Raises DataError when it has none."""
    index = store.index
    if HOLDOUT not in index.splits:
        raise DataError("there are no held-out rows", got="data.holdout: 0", want="a share above 0, or a list of sources", fix="set data.holdout")
    split = store.split(HOLDOUT)
    ranges = index.meta.get("sets") or {HOLDOUT: [0, split.rows]}
    return HeldOut(split, {name: np.arange(start, stop) for name, (start, stop) in ranges.items()}, index.fingerprint, store.files.storage)


def _facts(home: Storage | None, split: Split) -> RowFacts:
    from tunefleet.data.making import HELD_ROWS

    lines = home.read(HELD_ROWS).splitlines() if home is not None and home.exists(HELD_ROWS) else []
    words = [json.loads(line) for line in lines] or [{}] * split.rows
    sources = [place.name for place in split.sources for _ in place.ids]
    short = {word["answer"].strip() for word in words if _may_label(word)}
    labels = [_label(word, short if len(short) <= min(LABELS, split.rows // 2) else ()) for word in words]
    lengths: Ids = split.lengths.astype(np.int64)
    return RowFacts(sources, lengths, labels, [word.get("prompt") for word in words], [word.get("answer") for word in words])


def _may_label(word: Mapping[str, Any]) -> bool:
    """Whether the answer of a row could be a label; that of a text is all of it."""
    return bool(word.get("prompt")) and 0 < len(word["answer"].strip()) <= LABEL_CHARACTERS


def _label(word: Mapping[str, Any], short: Collection[str]) -> str | None:
    if "labels" in word:
        return ", ".join(word["labels"])
    if "good" in word:
        return "good" if word["good"] else "bad"
    return answer if _may_label(word) and (answer := word["answer"].strip()) in short else None
