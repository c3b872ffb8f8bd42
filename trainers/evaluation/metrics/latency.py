"""How long an answer takes, as measured where it was given: to its first token, and whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tunefleet.cluster.machine import machine
from tunefleet.trainers.evaluation.metric import Named, ratio
from tunefleet.trainers.evaluation.rows import ANSWER, Floats, RowScores

SPANS = ("first_token_s", "answer_s")


class Latency:
    """Mean seconds from the prompt to the first token or to the last one, of answered rows.

    The rows of a batch wait for each other: ``evaluation.answers.batch_size: 1`` measures what one user alone sees. A measurement of one machine, not of
    the model: it has no interval, and no difference to the base is drawn.
    """

    class Config(Named):
        """Up to where."""

        kind: Literal["latency"] = "latency"
        upto: Literal["first_token_s", "answer_s"] = Field(default="answer_s", description="first_token_s, or answer_s: the whole answer")

    better: ClassVar[Literal["min", "max"]] = "min"
    reads: ClassVar[tuple[str, ...]] = (ANSWER, *SPANS, "answered")

    def __init__(self, config: Config) -> None:
        self.config = config

    def statistics(self, rows: RowScores) -> Floats:
        """Seconds, and 1 for an answered row."""
        return np.stack([rows.sums[self.config.upto], rows.sums["answered"]], axis=1)

    def value(self, totals_SK: Floats) -> Floats:
        """Seconds an answer."""
        return ratio(totals_SK)

    def describe(self, rows: RowScores) -> Mapping[str, Any]:
        """Median and 95th percentile of both, and the machine that put them together (actors may have run on others)."""
        answered = rows.sums["answered"] > 0
        found: dict[str, Any] = {"measured_on": machine()["cpu"], "answers": int(answered.sum())}
        for span in SPANS if answered.any() else ():
            middle, most = np.percentile(rows.sums[span][answered], [50, 95]).tolist()
            found[span] = {"median": middle, "p95": most}
        return found
