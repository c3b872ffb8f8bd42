"""The share of answers that come to the reference's result: the last number, or what a pattern finds, as for GSM8K."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import ClassVar, Literal

from pydantic import Field

from tunefleet.trainers.evaluation.metric import Named, Pattern, of_answers, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, REFERENCE, Floats, RowScores

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


class AnswerCheck:
    """Right results per answered row, between 0 and 1. Numbers are compared by value, all else as text. Source: Cobbe et al. 2021, arXiv:2110.14168."""

    class Config(Named):
        """Where the result stands."""

        kind: Literal["answer_check"] = "answer_check"
        pattern: Pattern = Field(
            default=NUMBER, description="a regular expression of which the last match is the result: its group where it has one; by default the last number"
        )

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, REFERENCE)

    def __init__(self, config: Config) -> None:
        self._pattern = re.compile(config.pattern)

    def statistics(self, rows: RowScores) -> Floats:
        """A right result, and 1 for the row. A reference without a result counts no row."""

        def checked(answer: str, reference: str) -> tuple[float, float]:
            wanted = self._result(reference)
            return (0.0, 0.0) if wanted is None else (float(self._result(answer) == wanted), 1.0)

        return of_answers(rows, checked, 2)

    def value(self, totals_SK: Floats) -> Floats:
        """Right results per row."""
        return ratio(totals_SK)

    def _result(self, text: str) -> Decimal | str | None:
        found = list(self._pattern.finditer(text))
        if not found:
            return None
        said = (found[-1][1] if self._pattern.groups else found[-1][0]) or ""
        try:
            number = Decimal(said.replace(",", "").strip())
        except InvalidOperation:
            return said.strip()
        return number if number.is_finite() else said.strip()  # NaN is not equal to itself
