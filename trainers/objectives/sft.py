"""Supervised fine-tuning: the negative log-likelihood of the answers, given everything before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.layout import ANSWERS, Record
from tunefleet.trainers.batches import sample_records, token_batch
from tunefleet.trainers.objective import Loss, Scorer, Term

if TYPE_CHECKING:
    from tunefleet.trainers.objective import Batch


class Sft:
    """Raise the probability of every supervised token; each token of the step counts the same, whatever row or rank it is on."""

    class Config(Settings):
        """Supervised fine-tuning has no settings of its own."""

        kind: Literal["sft"] = "sft"

    layout = ANSWERS

    def __init__(self, config: Config, pad_id: int) -> None:
        self.config, self.pad_id = config, pad_id

    def collate(self, records: Sequence[Record]) -> Batch:
        """Right-padded rows, (B, T)."""
        return token_batch(records, self.pad_id)

    def weights(self, batch: Batch) -> dict[str, float]:
        """The number of supervised tokens."""
        return {"tokens": float((batch["labels"] >= 0).sum())}

    def loss(self, scorer: Scorer, batch: Batch) -> Loss:
        """Sum over supervised tokens of -log p, per token."""
        return Loss((Term(-scorer.token_scores(batch).logp_BT.sum(), per="tokens"),))

    def sample_records(self) -> list[Record]:
        """Three rows of different lengths, prompts unsupervised."""
        return sample_records(prompt=2)
