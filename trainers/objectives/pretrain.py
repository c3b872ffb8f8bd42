"""Domain adaptation on raw text: the negative log-likelihood of every token (continued pretraining)."""

from __future__ import annotations

from typing import Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.layout import TEXT, Record
from tunefleet.trainers.batches import sample_records
from tunefleet.trainers.objectives.sft import Sft


class Pretrain(Sft):
    """Next-token prediction on documents that are cut into examples of max_length tokens."""

    class Config(Settings):
        """Domain adaptation has no settings of its own."""

        kind: Literal["pretrain"] = "pretrain"

    layout = TEXT

    def sample_records(self) -> list[Record]:
        """Three pieces of different lengths, every token supervised."""
        return sample_records(prompt=0)
