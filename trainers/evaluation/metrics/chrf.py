"""chrF of all answers together: F-score of character n-grams, as sacrebleu counts it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from tunefleet.trainers.evaluation.metric import Named, installed, of_answers
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

CHARACTERS = 6


class Chrf:
    """Between 0 and 100, of the corpus. Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation"."""

    class Config(Named):
        """Which of the family."""

        kind: Literal["chrf"] = "chrf"
        words: NonNegativeInt = Field(default=0, description="longest n-grams of words that count beside those of characters; 2 is chrF++")

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError where sacrebleu is not installed."""
        installed("sacrebleu")
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """N-grams of answer and reference, and those that match, of every order."""
        chrf = self._chrf()

        def counted(answer: str, reference: str) -> list[float]:
            (found,) = chrf._extract_corpus_statistics([answer], [[reference]])
            return list(found)

        return of_answers(rows, counted, 3 * (CHARACTERS + self.config.words))

    def value(self, totals_SK: Floats) -> Floats:
        """The score of summed counts."""
        chrf = self._chrf()
        found = [chrf._compute_f_score(totals.tolist()) if totals.any() else np.nan for totals in totals_SK]
        return np.asarray(found, np.float64)

    def _chrf(self) -> Any:
        from sacrebleu.metrics import CHRF

        return CHRF(char_order=CHARACTERS, word_order=self.config.words)
