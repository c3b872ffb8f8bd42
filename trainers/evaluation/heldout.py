"""The held-out rows of a store, and the sets that they are reported by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.cluster.errors import DataError
from tunefleet.trainers.evaluation.files import base_key
from tunefleet.trainers.evaluation.rows import Ids

if TYPE_CHECKING:
    from tunefleet.data.store import Split, Store
    from tunefleet.trainers.run import RunFile

HOLDOUT = "holdout"


@dataclass(frozen=True)
class HeldOut:
    """``sets`` names the ids of each held-out source (one set, ``holdout``, where a share was drawn); ``fingerprint`` is that of the store."""

    split: Split
    sets: Mapping[str, Ids]
    fingerprint: str

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
    return HeldOut(split, {name: np.arange(start, stop) for name, (start, stop) in ranges.items()}, index.fingerprint)
