"""The share of supervised tokens that are the model's first choice, given the true tokens before them."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.evaluation.rows import Floats, RowScores


class TokenAccuracy:
    """Greedy hits per supervised token, between 0 and 1."""

    class Config(Settings):
        """Token accuracy has no settings."""

        kind: Literal["token_accuracy"] = "token_accuracy"

    better: ClassVar[Literal["min", "max"]] = "max"
    reads: ClassVar[tuple[str, ...]] = ("correct", "tokens")

    def __init__(self, config: Config) -> None:
        self.config = config

    def parts(self, rows: RowScores) -> tuple[Floats, Floats]:
        """Hits and tokens of every row."""
        return rows.sums["correct"], rows.sums["tokens"]

    def value(self, total: Floats, count: Floats) -> Floats:
        """Hits per token."""
        return total / count
