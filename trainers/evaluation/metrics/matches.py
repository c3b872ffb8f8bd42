"""The share of answers that keep to a format, said by a regular expression."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, Pattern, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores


class Matches:
    """Answers that match as a whole, per answered row, between 0 and 1."""

    class Config(Named):
        """The format."""

        kind: Literal["matches"] = "matches"
        pattern: Pattern = Field(default=r"(?s).*\S.*", description="a regular expression of the whole answer; by default any that says something")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        self._pattern = re.compile(config.pattern)

    def statistics(self, rows: RowScores) -> Floats:
        """Whether it keeps to the format, and 1 for the row."""
        return of_answers(rows, lambda answer, _: (self._pattern.fullmatch(answer.strip()) is not None, 1.0), 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Matches per row."""
        return ratio(totals_SK)
