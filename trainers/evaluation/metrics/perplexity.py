"""The exponential of the mean negative log-likelihood of the supervised tokens."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tunefleet.trainers.evaluation.metric import Named, ratio
from tunefleet.trainers.evaluation.metrics.loss import Loss
from tunefleet.trainers.evaluation.rows import Floats


class Perplexity(Loss):
    """How many equally likely tokens the model is as unsure as; e to the loss of all rows together, never a mean of rows' perplexities."""

    class Config(Named):
        """Perplexity has no settings."""

        kind: Literal["perplexity"] = "perplexity"

    def value(self, totals_SK: Floats) -> Floats:
        """The exponential of nats per token; inf beyond 709 nats."""
        with np.errstate(over="ignore"):
            found: Floats = np.exp(ratio(totals_SK))
        return found
