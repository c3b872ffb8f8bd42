"""The mean negative log-likelihood of the supervised tokens, in nats."""

from __future__ import annotations

from typing import ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.evaluation.rows import Floats, RowScores


class Loss:
    """Nats per supervised token; every token counts the same, whatever row it is in."""

    class Config(Settings):
        """The loss has no settings."""

        kind: Literal["loss"] = "loss"

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = ("nll", "tokens")

    def __init__(self, config: Settings) -> None:
        self.config = config

    def parts(self, rows: RowScores) -> tuple[Floats, Floats]:
        """Nats and tokens of every row."""
        return rows.sums["nll"], rows.sums["tokens"]

    def value(self, total: Floats, count: Floats) -> Floats:
        """Nats per token."""
        return total / count
