"""ROUGE: how many words, pairs of words, or words in order answers and references share."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores
from tunefleet.trainers.evaluation.words import common, f1, overlap, words


class Rouge:
    """The mean F-measure over answered rows, between 0 and 1, without stemming.

    A row of which answer or reference has nothing to share (no word, or with 2 no pair of words) scores 0, as rouge_score has it.
    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """

    class Config(Named):
        """Which of the family."""

        kind: Literal["rouge"] = "rouge"
        variant: Literal["1", "2", "L"] = Field(default="L", description="1: words; 2: pairs of words; L: the longest common subsequence of words")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """The row's F-measure, and 1 for the row."""
        return of_answers(rows, lambda answer, reference: (self._row(words(answer), words(reference)), 1.0), 2)

    def value(self, totals_SK: Floats) -> Floats:
        """The mean."""
        return ratio(totals_SK)

    def _row(self, answer: list[str], reference: list[str]) -> float:
        if self.config.variant == "L":
            return f1(common(answer, reference), len(answer), len(reference))
        size = int(self.config.variant)
        grams = [Counter(zip(*(text[i:] for i in range(size)), strict=False)) for text in (answer, reference)]
        return overlap(*grams)["f1"]
