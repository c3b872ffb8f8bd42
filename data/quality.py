"""The quality gate: rows that would train the model wrongly are counted, and dropped or refused as data.quality says; never silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import DataError, Refusal
from tunefleet.data.settings import Quality
from tunefleet.data.survey import Survey

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]

SHOWN = 3
MEANING = {
    "invalid": "cannot be read",
    "unsupervised": "have no token to learn (an answer that data.max_length cuts off counts)",
    "truncated": "are longer than data.max_length",
    "exact_duplicates": "equal an earlier one",
    "near_duplicates": "nearly equal an earlier one",
    "contradictions": "answer the prompt of an earlier one otherwise",
    "leakage": "are for training with a prompt that is also held out",
}
REMEDY = {
    "invalid": "mend the rows, or set data.quality.invalid to drop",
    "unsupervised": "mend the rows or raise data.max_length, or set data.quality.unsupervised to drop",
    "truncated": "raise data.max_length, or set data.quality.truncated to keep or drop",
}


@dataclass
class Tally:
    """Counts of what was found, and the first places of each kind."""

    quality: Quality
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MEANING, 0))
    places: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in MEANING})

    def found(self, kind: str, places: Sequence[str], count: int | None = None) -> None:
        """Count rows of a kind; ``places`` may be only the first of them when ``count`` is given."""
        self.counts[kind] += len(places) if count is None else count
        self.places[kind] += places[: SHOWN - len(self.places[kind])]

    def policy(self, kind: str) -> str:
        """What data.quality says of a kind; an unreadable row cannot be kept."""
        policy = str(vars(self.quality)[kind])
        return "drop" if kind == "invalid" and policy == "keep" else policy

    def refuse(self, seen: int) -> None:
        """Raise, all at once, what the policies call an error. ``seen`` is the number of rows looked at so far."""
        kinds = [kind for kind, count in self.counts.items() if count and self.policy(kind) == "error"]
        Refusal.raise_if(self._error(kind, seen) for kind in kinds)

    def decisions(self) -> list[str]:
        """A line for every kind that was found and neither refused nor kept by request."""
        done = {"warn": "kept", "drop": "dropped", "keep": "kept"}
        found = [kind for kind, count in self.counts.items() if count]
        return [f"data.quality.{kind}: {self.counts[kind]} {done[self.policy(kind)]}, rows that {MEANING[kind]} ({self._places(kind)})" for kind in found]

    def _error(self, kind: str, seen: int) -> DataError:
        fix = REMEDY.get(kind, f"mend the rows, or set data.quality.{kind} to drop or warn")
        return DataError(
            f"data.quality.{kind}: {self.counts[kind]} of {seen} rows {MEANING[kind]}", got=self._places(kind), want="none, as the policy is error", fix=fix
        )

    def _places(self, kind: str) -> str:
        more = self.counts[kind] - len(self.places[kind])
        return "; ".join(self.places[kind]) + (f" and {more} more" if more else "")


def judge(survey: Survey, tally: Tally) -> Bools:
    """Which good rows are dropped for being duplicates, contradictions or leaks; the earliest of equals is always kept.

    Near duplicates and contradictions are sought among rows that equal no earlier one, leaks among those that stay. Sources that are held out as a whole
    are compared among themselves, training rows likewise, and leakage is what they have in common.
    """
    import numpy as np

    held, opening, context, claim = survey.held(), survey.keys("opening"), survey.keys("context"), survey.keys("claim")
    side = held.astype(np.int64)
    distinct = _earliest(survey.keys("whole"), side)
    dropped = np.zeros(len(held), bool)

    def note(kind: str, rows: Bools) -> None:
        if tally.policy(kind) == "off":
            return
        places = np.flatnonzero(rows)
        tally.found(kind, [survey.where(i) for i in places[:SHOWN].tolist()], len(places))
        if tally.policy(kind) == "drop":
            dropped[rows] = True

    note("exact_duplicates", ~distinct)
    if survey.shingles is not None:
        note("near_duplicates", survey.shingles.near_duplicates(distinct, side))
    note("contradictions", _later(claim, side, distinct & (claim != 0)))
    prompt = np.where(context != 0, context, opening)  # of a long chat all before its last answer: many begin with the same greeting
    note("leakage", ~held & ~dropped & np.isin(prompt, prompt[held]))
    return dropped


def _earliest(keys: npt.NDArray[np.uint64], side: npt.NDArray[np.int64]) -> Bools:
    """Which rows are the first with their key on their side."""
    import numpy as np

    found = np.zeros(len(keys), bool)
    for value in (0, 1):
        places = np.flatnonzero(side == value)
        found[places[np.unique(keys[places], return_index=True)[1]]] = True
    return found


def _later(keys: npt.NDArray[np.uint64], side: npt.NDArray[np.int64], among: Bools) -> Bools:
    """Which of some rows have a key that an earlier one of them has, on the same side."""
    import numpy as np

    places = np.flatnonzero(among)
    found = np.zeros(len(keys), bool)
    found[places] = ~_earliest(keys[places], side[places])
    return found
