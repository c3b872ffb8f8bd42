"""The share of answers that are the reference, word for word."""

from __future__ import annotations

import re
import string
from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactMatch:
    """Hits per answered row, between 0 and 1; white space never counts."""

    class Config(Named):
        """What counts as the same."""

        kind: Literal["exact_match"] = "exact_match"
        case: bool = Field(default=True, description="whether capitals count")
        punctuation: bool = Field(default=True, description="whether punctuation counts")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """A hit, and 1 for the row."""
        return of_answers(rows, lambda answer, reference: (self._plain(answer) == self._plain(reference), 1.0), 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Hits per row."""
        return ratio(totals_SK)

    def _plain(self, text: str) -> str:
        text = text if self.config.case else text.casefold()
        text = text if self.config.punctuation else text.translate(PUNCTUATION)
        return re.sub(r"\s+", " ", text).strip()
