"""What is known of every held-out row: sums over its tokens and the answer to its prompt. All metrics are made of these.

Shape letters: R rows, B rows of a batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tunefleet.cluster import heartbeat

if TYPE_CHECKING:
    import torch

    from tunefleet.data.layout import Record
    from tunefleet.trainers.objective import Objective, Scorer, TokenScores

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int64]]
BINS = 15  # of equal width, as in Guo et al. 2017
BINNED = tuple(f"{what}_{number:02d}" for what in ("binned", "confidence", "hits") for number in range(BINS))
"""Supervised tokens by the probability of the model's first choice, fifteenths of it: how many, the sum of those probabilities, and how often it was right."""
TIMES = ("first_token_s", "answer_s", "busy_s")
TIMED = (*TIMES, "answered", "answer_tokens")
PARTS = ("nll", "tokens", "correct", *BINNED, *TIMED)
ANSWER, REFERENCE = "answer", "reference"


@dataclass(frozen=True)
class RowScores:
    """What was summed over each row, and what was said to it.

    ``ids`` (R,) are positions in the split, ascending. ``sums`` are (R,) each: ``nll`` the negative log-likelihood of the supervised tokens in
    nats, ``tokens`` their number, ``correct`` how many of them were the model's first choice and BINNED how sure it was (only when it was asked for).
    Of a row that was answered, where it was asked for: ``answered`` 1, ``answer_tokens`` with the one that ended it, wall seconds to the first of them and
    to the last (``first_token_s``, ``answer_s``), and ``busy_s``, its part of the time that its batch took. ``texts`` are R each: the ``answer`` that was
    generated and the row's own, its ``reference``; None for a row that was not asked.
    """

    ids: Ids
    sums: Mapping[str, Floats]
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)

    def select(self, ids: Ids) -> RowScores:
        """The rows of these ids, which must all be there, in ascending order."""
        wanted, where = places_of(ids, self.ids)
        texts = {name: [values[i] for i in where.tolist()] for name, values in self.texts.items()}
        return RowScores(wanted, {name: values[where] for name, values in self.sums.items()}, texts)

    def to_json(self) -> dict[str, Any]:
        """Plain lists; a float survives JSON exactly, and what is not finite is None."""
        sums = {name: [v if math.isfinite(v) else None for v in values.tolist()] for name, values in self.sums.items()}
        return {"ids": self.ids.tolist(), "sums": sums, "texts": {name: list(values) for name, values in self.texts.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RowScores:
        """The inverse of ``to_json``, with NaN for what was not finite."""
        sums = {name: np.asarray(v, np.float64) for name, v in value["sums"].items()}
        return cls(np.asarray(value["ids"], np.int64), sums, value.get("texts", {}))

    def answered(self) -> list[int] | None:
        """The ids of the rows that were answered; None where nobody asked."""
        return [row for row, answer in zip(self.ids.tolist(), self.texts[ANSWER], strict=True) if answer is not None] if ANSWER in self.texts else None

    def holds(self, wanted: Collection[str]) -> bool:
        """Whether all of these are known."""
        return all(name in self.sums or name in self.texts for name in wanted)


def places_of(ids: Ids, among: Ids) -> tuple[Ids, Ids]:
    """Some ids, ascending, and where each stands among others, which are ascending and hold them all."""
    wanted = np.sort(ids)
    where: Ids = np.searchsorted(among, wanted).astype(np.int64)
    assert np.isin(wanted, among, assume_unique=True).all(), "a row was not scored"
    return wanted, where


class SomeRows(Protocol):
    """Rows that can be scored: a split, or a part of one. Ids count from 0."""

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of every row."""
        ...

    def records(self, rows: Sequence[int]) -> list[Record]:
        """The rows with these ids, in their order."""
        ...


@dataclass(frozen=True)
class Share:
    """The batches of ids that one of several scorers computes. ``real`` is False for a batch that only keeps the numbers of forwards equal."""

    batches: tuple[Ids, ...]
    real: tuple[bool, ...]

    def ids(self) -> Ids:
        """The rows of this share."""
        own = [ids for ids, real in zip(self.batches, self.real, strict=True) if real]
        return np.concatenate(own) if own else np.zeros(0, np.int64)


def shares(lengths: np.ndarray[Any, Any], batch_size: int, count: int) -> list[Share]:
    """Divide the rows of a split among ``count`` scorers.

    Rows are sorted by length and cut into batches before they are dealt, so every row meets the same rows whoever scores it: actors and ranks
    give the same numbers, and little is padded. Every share has equally many batches, for ZeRO-3 hangs when ranks run unequally many forwards.
    """
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    divided = []
    for index in range(count):
        own = batches[index::count]
        missing = -(-len(batches) // count) - len(own)
        filled = (*own, *[batches[0][:1]] * missing)
        divided.append(Share(filled, (True,) * len(own) + (False,) * missing))
    return divided


def score_share(
    scorer: Scorer, split: SomeRows, share: Share, objective: Objective, *, device: torch.device | str = "cpu", needs: Collection[str] = ()
) -> RowScores:
    """Score the rows of one share; ``needs``: what is wanted beside nll and tokens. The caller puts the model into evaluation mode."""
    import torch

    correct, binned = "correct" in needs, not set(BINNED).isdisjoint(needs)
    found: list[RowScores] = []
    for ids, real in zip(share.batches, share.real, strict=True):
        heartbeat.beat()
        batch = {name: tensor.to(device) for name, tensor in objective.collate(split.records(ids.tolist())).items()}
        with torch.no_grad():  # not inference_mode: weights that ZeRO-3 gathers in it could not be trained afterwards
            scores = scorer.token_scores(batch, correct=correct or binned)
        sums = {"nll": -scores.logp_BT.double().sum(1), "tokens": (batch["labels"] >= 0).sum(1).double()}
        if correct and scores.correct_BT is not None:
            sums["correct"] = scores.correct_BT.double().sum(1)
        if binned:
            sums |= _binned(scores, batch["labels"] >= 0)
        if real:
            assert len(sums["nll"]) == len(ids), "the objective makes no one row of a record"
            found.append(RowScores(ids, {name: tensor.cpu().numpy() for name, tensor in sums.items()}))
    return merge(found) if found else empty({*(("correct",) if correct else ()), *(BINNED if binned else ())})


def _binned(scores: TokenScores, mask_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums of rows for BINNED. A bin holds the probabilities up to its upper edge; what is not finite spoils the first."""
    import torch

    assert scores.top_BT is not None, "asked for with the hits"
    assert scores.correct_BT is not None, "asked for"
    sure_BT = scores.top_BT.double().exp()
    bin_BT = (torch.nan_to_num(sure_BT) * BINS).ceil().long().clamp(1, BINS) - 1
    rows = mask_BT.shape[0]
    found: dict[str, torch.Tensor] = {}
    for what, values_BT in (("binned", torch.ones_like(sure_BT)), ("confidence", sure_BT), ("hits", scores.correct_BT.double())):
        sums = torch.zeros((rows, BINS), dtype=torch.float64, device=mask_BT.device)
        sums.scatter_add_(1, bin_BT, torch.where(mask_BT, values_BT, 0.0))
        found |= {f"{what}_{number:02d}": sums[:, number] for number in range(BINS)}
    return found


def merge(parts: Sequence[RowScores]) -> RowScores:
    """Rows scored by several scorers as one, in the order of their ids."""
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids, kind="stable")
    assert len(np.unique(ids)) == len(ids), "a row was scored twice"
    names = [name for name in PARTS if all(name in part.sums for part in parts)]
    sums = {name: np.concatenate([part.sums[name] for part in parts])[order] for name in names}
    said = [name for name in (ANSWER, REFERENCE) if all(name in part.texts for part in parts)]
    texts = {name: [text for part in parts for text in part.texts[name]] for name in said}
    return RowScores(ids[order], sums, {name: [values[i] for i in order.tolist()] for name, values in texts.items()})


def empty(also: Collection[str] = ()) -> RowScores:
    """The scores of no row; ``also``: the sums that it has beside nll and tokens."""
    return RowScores(np.zeros(0, np.int64), {name: np.zeros(0) for name in PARTS if name in {"nll", "tokens", *also}})
