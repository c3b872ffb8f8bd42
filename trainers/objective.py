"""What the engine asks of an objective, and what an objective may ask of the model. Nothing more crosses this line.

Shape letters: B examples of a micro-batch, T tokens (padded), N supervised tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tunefleet.cluster.plugins import plugin
from tunefleet.cluster.settings import Settings
from tunefleet.data.layout import Layout, Record
from tunefleet.trainers.run import OBJECTIVES

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
"""``input_ids``, ``attention_mask``, ``position_ids`` and ``labels``, each (B, T) int64. Labels are already shifted (``labels[b, t]`` is the
target of position t) and -100 where nothing is supervised, so that a sequence may be cut anywhere. Rows are padded on the right. An objective may
add further tensors."""


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of a loss: a sum over this micro-batch, and the name of what it is divided by over the whole step.

    ``total`` is a scalar, float32, with grad; ``per`` is a key of ``Objective.weights``. Only the engine ever divides.
    """

    total: torch.Tensor
    per: str
    scale: float = 1.0


@dataclass(frozen=True)
class Loss:
    """The terms of one micro-batch, and metrics as (sum, count) pairs of detached scalars."""

    terms: tuple[Term, ...]
    metrics: Mapping[str, tuple[torch.Tensor, float]] = field(default_factory=dict)

    def over(self, weights: Mapping[str, float]) -> torch.Tensor:
        """The scalar to go backward from: every term divided by its weight over the whole step."""
        parts = [term.total * (term.scale / max(weights[term.per], 1e-12)) for term in self.terms]
        return sum(parts[1:], start=parts[0])


class TokenScores(NamedTuple):
    """Scores of the supervised tokens: ``logp_BT`` is float32, zero where nothing is supervised.

    Only when asked for: ``correct_BT`` (greedy hit) and ``top_BT`` (the log-probability of the model's first choice, without a
    gradient). A tuple, because ZeRO-3 must find the tensors in what a forward pass returns.
    """

    logp_BT: torch.Tensor  # noqa: N815  (a named tuple of tensors: shape letters)
    correct_BT: torch.Tensor | None = None  # noqa: N815
    top_BT: torch.Tensor | None = None  # noqa: N815


class Scorer(Protocol):
    """The one door to probabilities (trainers/scoring.py)."""

    def token_scores(self, batch: Batch, *, correct: bool = False) -> TokenScores:
        """Log-probabilities of ``labels`` under the model; no whole logits are ever held."""
        ...

    def computed_tokens(self, batch: Batch) -> int:
        """Tokens that a forward over this batch computes: with the padding, where padding is computed."""
        ...


class Objective(Protocol):
    """Turns records into batches, and batches into a loss. It knows no rank, step, optimizer or file."""

    layout: Layout
    pad_id: int

    def collate(self, records: Sequence[Record]) -> Batch:
        """Make one batch; the first dimension of every tensor is B. A function of the records alone: it is called ahead of time, in another thread."""
        ...

    def weights(self, batch: Batch) -> dict[str, float]:
        """What terms of this batch are divided by, known before the forward pass: tokens, pairs, rows."""
        ...

    def loss(self, scorer: Scorer, batch: Batch) -> Loss:
        """Score one micro-batch. Sums, never means."""
        ...

    def sample_records(self) -> list[Record]:
        """A few small records for the laws that every objective must keep (token ids below 32)."""
        ...


def make_objective(settings: Settings, pad_id: int) -> Objective:
    """The objective of a run file's ``objective`` section. ``pad_id`` fills the padding, which never carries loss."""
    kind: Any = vars(settings)["kind"]
    objective: Objective = plugin(OBJECTIVES, kind)(settings, pad_id)
    return objective
