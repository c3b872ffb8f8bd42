"""Evaluation by the training ranks themselves, between two steps: the same batches as the actors', so the same numbers, and a cost in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.trainers.evaluation.compare import compare, totals
from tunefleet.trainers.evaluation.files import read_base, write_base
from tunefleet.trainers.evaluation.metric import make_metrics, needs_correct
from tunefleet.trainers.evaluation.outcome import OnEvent, Outcome
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.rows import RowScores, merge, score_rows, score_share, shares

if TYPE_CHECKING:
    from torch import nn

    from tunefleet.cluster.storage import Storage
    from tunefleet.cluster.world import World
    from tunefleet.trainers.evaluation.heldout import HeldOut
    from tunefleet.trainers.objective import Objective, Scorer
    from tunefleet.trainers.run import RunFile


@dataclass(frozen=True)
class Trained:
    """The model in training, as evaluation sees it: its scorer, the module whose dropout is put off meanwhile, and the objective that collates."""

    scorer: Scorer
    module: nn.Module
    objective: Objective


class Inline:
    """Every rank scores a share, and calls every method equally often. Only rank 0 compares, and only it has outcomes."""

    def __init__(self, run: RunFile, trained: Trained, held: HeldOut, world: World, storage: Storage, on_event: OnEvent) -> None:
        self.run, self.trained, self.held, self.world, self.storage, self.on_event = run, trained, held, world, storage, on_event
        self.key = held.key(run)
        self.metrics = make_metrics(run.evaluation.metrics)
        self.correct = needs_correct(self.metrics)
        self._base: RowScores | None = None
        self._outcomes: list[Outcome] = []

    def begin(self, step: int) -> None:
        """Have the base model's scores: kept ones; else, before the first step, those of the model in training, which is still the base.

        A run that resumes and never kept them scores a base of its own on rank 0, while the others wait: said as an event.
        """
        self._base = read_base(self.storage, self.key, correct=self.correct) if self.world.main else None
        if self.world.broadcast(self._base is not None):
            return
        scored = self._score() if step == 0 else self._apart(step)
        if self.world.main and scored is not None:
            write_base(self.storage, self.key, scored, totals(scored, self.metrics))
            self._base = scored

    def submit(self, ticket: Ticket) -> None:
        """Score now. A metric that raises is an outcome with an error; a rank that fails to score raises, for the others wait for it."""
        if self.world.main:
            self.on_event("evaluation_started", {"step": ticket.step, "manifest": ticket.manifest, "placement": "inline"})
        began = time.monotonic()
        tuned = self._score()
        if self.world.main:
            self._outcomes.append(self._compared(ticket, tuned, began))

    def wait(self, timeout_s: float) -> list[Outcome]:
        """What ``submit`` left."""
        found, self._outcomes = self._outcomes, []
        return found

    def busy(self) -> bool:
        """Nothing is ever under way."""
        return False

    def give_up(self, why: str) -> list[Outcome]:
        """There is nothing to give up."""
        return []

    def names(self) -> set[str]:
        """Nothing is ever waiting."""
        return set()

    def _compared(self, ticket: Ticket, tuned: RowScores, began: float) -> Outcome:
        assert self._base is not None, "begin was not called"
        try:
            settings, seed = self.run.evaluation, self.run.training.seed
            found = compare(tuned, self._base, self.metrics, sets=self.held.sets, resamples=settings.bootstrap, seed=seed)
        except Exception as error:  # noqa: BLE001 - a metric may be a stranger's code, and the training goes on without it
            return Outcome(ticket, time.monotonic() - began, error=f"{type(error).__name__}: {error}")
        return Outcome(ticket, time.monotonic() - began, found)

    def _score(self) -> RowScores:
        """All rows, scored by all ranks with the weights as they are; on every rank."""
        share = shares(self.held.split.lengths, self.run.evaluation.batch_size, self.world.size)[self.world.rank]
        with _evaluating(self.trained.module):
            own = score_share(self.trained.scorer, self.held.split, share, self.trained.objective, device=self.world.device, correct=self.correct)
        return merge([RowScores.from_json(part) for part in self.world.gather(own.to_json())])

    def _apart(self, step: int) -> RowScores | None:
        found = None
        if self.world.main:
            from tunefleet.trainers.evaluation.plain import PlainModel

            self.on_event("base_scored_apart", {"step": step, "why": "no scores of the base model were kept, and the weights are trained already"})
            model = PlainModel.base(self.run, self.world.device)
            rows, size = self.held.split, self.run.evaluation.batch_size
            found = score_rows(model.scorer, rows, self.trained.objective, batch_size=size, device=self.world.device, correct=self.correct)
        self.world.barrier()
        return found


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off, and on again as it was."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
