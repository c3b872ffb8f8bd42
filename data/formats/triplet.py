"""Rows ``{query, positive, negative}``: a query, a text that answers it, and texts that do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Triplet
from tunefleet.data.turns import text_of

QUERIES = ("query", "anchor")
_NEGATIVE = re.compile(r"negatives?|negative_(\d+)")


class Triplets:
    """A query and what answers it; negatives are a text, a list of texts, or columns negative_1, negative_2 and so on. There may be none."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["triplet"] = "triplet"

    columns: ClassVar[str] = "query, positive or anchor, positive (and negative, negatives, negative_1)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """One query and a positive text."""
        return "positive" in columns and len(columns.intersection(QUERIES)) == 1

    def read(self, values: Mapping[str, Any]) -> Triplet:
        """The texts as they stand; negatives in the order of their columns."""
        queries = [name for name in QUERIES if name in values]
        if len(queries) != 1 or "positive" not in values:
            raise DataError("not exactly one query and a positive text", got=", ".join(sorted(map(str, values))), want=self.columns)
        query, positive = _said(values[queries[0]], queries[0]), _said(values["positive"], "positive")
        names = sorted((name for name in values if _NEGATIVE.fullmatch(name)), key=_number)
        negatives = tuple(_said(text, name) for name in names for text in _listed(values[name]))
        if positive in negatives:
            raise DataError("the positive text is also a negative one", got=positive[:80], want="negatives that do not answer the query")
        return Triplet(query, positive, negatives)


def _listed(value: Any) -> list[Any]:
    """The texts of a column of negatives; none where it is empty, for rows may have fewer than others."""
    if isinstance(value, list | tuple):
        return list(value)
    return [] if value in (None, "") else [value]


def _number(name: str) -> tuple[int, str]:
    found = _NEGATIVE.fullmatch(name)
    return (int(found[1]) if found and found[1] else 0, name)


def _said(value: Any, name: str) -> str:
    text = text_of(value, name, empty=False)
    if not text.strip():
        raise DataError(f"{name} is empty", got=repr(text), want="a text")
    return text
