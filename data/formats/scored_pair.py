"""Rows ``{sentence1, sentence2, score}``: two texts and how alike they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Pair
from tunefleet.data.turns import text_of

TEXTS = (("sentence1", "sentence2"), ("text1", "text2"))


class ScoredPair:
    """Two texts with a number that says how alike they are, on whatever scale; the objective knows the scale."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["scored_pair"] = "scored_pair"

    columns: ClassVar[str] = "sentence1, sentence2, score or text1, text2, score"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Two texts and a score."""
        return len(_found(columns)) == 1 and "score" in columns

    def read(self, values: Mapping[str, Any]) -> Pair:
        """The texts as they stand, the score as a number."""
        found = _found(frozenset(values))
        if len(found) != 1 or "score" not in values:
            raise DataError("not exactly two texts and a score", got=", ".join(sorted(map(str, values))), want=self.columns)
        first, second = (text_of(values[name], name, empty=False) for name in found[0])
        for name, text in zip(found[0], (first, second), strict=True):
            if not text.strip():
                raise DataError(f"{name} is empty", got=repr(text), want="a text")
        return Pair(first, second, _number(values["score"]))


def _number(value: Any) -> float:
    """A score; text is read as a number, for CSV has nothing else. Raises DataError for what is none, and for NaN and infinity."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError("the score is no number", got=repr(value)[:80], want="a finite number")
    return number


def _found(columns: frozenset[str]) -> list[tuple[str, str]]:
    return [pair for pair in TEXTS if columns.issuperset(pair)]
