"""How many words answers and references share: F1, precision or recall, row by row."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores
from tunefleet.trainers.evaluation.words import overlap, words


class TokenF1:
    """The mean over answered rows, between 0 and 1; words without capitals and punctuation. Source: Rajpurkar et al. 2016, arXiv:1606.05250.

    A reference without a word, "no answer", is met by the same text alone (as in SQuAD 2.0, where it is empty: Rajpurkar et al. 2018, arXiv:1806.03822).
    """

    class Config(Named):
        """Which side is asked."""

        kind: Literal["token_f1"] = "token_f1"
        part: Literal["f1", "precision", "recall"] = Field(default="f1", description="f1, precision (of the answer's words) or recall (of the reference's)")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """The row's score, and 1 for the row."""

        def scored(answer: str, reference: str) -> tuple[float, float]:
            if answer.strip() == reference.strip():
                return 1.0, 1.0
            return overlap(Counter(words(answer)), Counter(words(reference)))[self.config.part], 1.0

        return of_answers(rows, scored, 2)

    def value(self, totals_SK: Floats) -> Floats:
        """The mean."""
        return ratio(totals_SK)
