"""How much of an answer must be changed to make it the reference: the revision rate."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, installed, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores


class EditDistance:
    """Insertions, deletions and substitutions per unit of the references, of all rows together; 0 for equal texts, and above 1 for much too long ones."""

    class Config(Named):
        """What is counted."""

        kind: Literal["edit_distance"] = "edit_distance"
        unit: Literal["character", "word"] = Field(default="character", description="character or word")

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        """Raises SettingsError where rapidfuzz is not installed."""
        installed("rapidfuzz")
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Edits, and units of the reference."""
        from rapidfuzz.distance import Levenshtein

        def edits(answer: str, reference: str) -> tuple[float, float]:
            sides = (answer.strip(), reference.strip()) if self.config.unit == "character" else (answer.split(), reference.split())
            return float(Levenshtein.distance(*sides)), float(len(sides[1]))

        return of_answers(rows, edits, 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Edits per unit."""
        return ratio(totals_SK)
