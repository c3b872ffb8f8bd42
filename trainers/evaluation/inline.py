"""Evaluation by the training ranks themselves, between two steps: the same batches as the actors', so the same numbers, and a cost in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunefleet.trainers.evaluation.answers import make_answers
from tunefleet.trainers.evaluation.compare import totals
from tunefleet.trainers.evaluation.exam import exam_of_run
from tunefleet.trainers.evaluation.files import read_base, write_base
from tunefleet.trainers.evaluation.outcome import OnEvent, Outcome
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.rows import RowScores, merge, score_share, shares
from tunefleet.trainers.evaluation.samples import keep_base, kept_base
from tunefleet.trainers.zero import effective_stage

if TYPE_CHECKING:
    from torch import nn

    from tunefleet.cluster.storage import Storage
    from tunefleet.cluster.world import World
    from tunefleet.trainers.evaluation.heldout import HeldOut
    from tunefleet.trainers.evaluation.samples import Sampler
    from tunefleet.trainers.objective import Objective, Scorer
    from tunefleet.trainers.run import RunFile


@dataclass(frozen=True)
class Trained:
    """The model in training, as evaluation sees it: its scorer, the module whose dropout is put off meanwhile, and the objective that collates.

    ``model``: the transformers or PEFT model itself, where samples are wanted.
    """

    scorer: Scorer
    module: nn.Module
    objective: Objective
    model: Any = None


class Inline:
    """Every rank scores a share, and calls every method equally often. Only rank 0 compares, and only it has outcomes."""

    def __init__(
        self, run: RunFile, trained: Trained, held: HeldOut, world: World, storage: Storage, on_event: OnEvent, sampler: Sampler | None = None
    ) -> None:
        """``sampler``: what is to be generated at every evaluation."""
        self.sampler = sampler
        self._base_samples: list[str] | None = None
        self.run, self.trained, self.held, self.world, self.storage, self.on_event = run, trained, held, world, storage, on_event
        self.key, self.exam = held.key(run), exam_of_run(run, held)
        self.answers = make_answers(run, held.split, self.exam.needs, self.exam.asked)
        self._base: RowScores | None = None
        self._outcomes: list[Outcome] = []

    def begin(self, step: int) -> None:
        """Have the base model's scores: kept ones; else, before the first step, those of the model in training, which is still the base.

        A run that resumes and never kept them scores a base of its own on rank 0, while the others wait: said as an event.
        """
        self._ask_base(step)
        self._base = read_base(self.storage, self.key, self.exam.needs) if self.world.main else None
        if self.world.broadcast(self._base is not None):
            return
        scored = self._score() if step == 0 else self._apart(step)
        if self.world.main and scored is not None:
            write_base(self.storage, self.key, scored, totals(scored, self.exam.metrics))
            self._base = scored

    def submit(self, ticket: Ticket) -> None:
        """Score now. A metric that raises is an outcome with an error; a rank that fails to score raises, for the others wait for it."""
        if self.world.main:
            self.on_event("evaluation_started", {"step": ticket.step, "manifest": ticket.manifest, "placement": "inline"})
        began = time.monotonic()
        tuned = self._score()
        if self.world.main:
            self._outcomes.append(self._compared(ticket, tuned, began))
        if self.sampler is not None:
            answers = self._answers(self.sampler)
            if self.world.main:
                self._outcomes[-1] = replace(self._outcomes[-1], samples=self.sampler.content(self._base_samples, answers))

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
            found = self.exam.closer.compare(tuned, self._base, self.exam.metrics)
        except Exception as error:  # noqa: BLE001 - a metric may be a stranger's code, and the training goes on without it
            return Outcome(ticket, time.monotonic() - began, error=f"{type(error).__name__}: {error}")
        return Outcome(ticket, time.monotonic() - began, found)

    def _ask_base(self, step: int) -> None:
        """Have the base model's answers: kept ones; else, before the first step, those of the model in training."""
        if self.sampler is None:
            return
        key = self.sampler.key(self.key)
        self._base_samples = self.world.broadcast(kept_base(self.storage, key) if self.world.main else None)
        if self._base_samples is None and step == 0:
            self._base_samples = self._answers(self.sampler)
            if self.world.main:
                keep_base(self.storage, key, self._base_samples)

    def _answers(self, sampler: Sampler) -> list[str]:
        """The answers to all prompts with the weights as they are, each given by one rank; on every rank."""
        world, asked = self.world, sampler.asked
        mine = asked[world.rank :: world.size]
        together = effective_stage(self.run) == 3 and world.size > 1
        with _evaluating(self.trained.module):  # at stage 3 a rank without a prompt goes along with another's
            own = sampler.answer(self.trained.model, mine or asked[:1], world.device, together=together) if mine or together else []
        parts = world.gather(own[: len(mine)])
        return [parts[i % world.size][i // world.size] for i in range(len(asked))]

    def _score(self) -> RowScores:
        """All rows, scored by all ranks with the weights as they are; on every rank."""
        world, trained = self.world, self.trained
        divided = shares(self.held.split.lengths, self.run.evaluation.batch_size, world.size)
        with _evaluating(trained.module):
            share = divided[world.rank]
            own = score_share(trained.scorer, self.held.split, share, trained.objective, device=world.device, needs=self.exam.needs)
            if self.answers is not None:
                together = effective_stage(self.run) == 3 and world.size > 1
                own = self.answers.add(own, trained.model, divided, world.rank, world.device, together=together)
        return merge([RowScores.from_json(part) for part in self.world.gather(own.to_json())])

    def _apart(self, step: int) -> RowScores | None:
        found = None
        if self.world.main:
            from tunefleet.trainers.evaluation.plain import PlainModel

            self.on_event("base_scored_apart", {"step": step, "why": "no scores of the base model were kept, and the weights are trained already"})
            model = PlainModel.base(self.run, self.world.device)
            divided, device = shares(self.held.split.lengths, self.run.evaluation.batch_size, 1), self.world.device
            found = score_share(model.scorer, self.held.split, divided[0], self.trained.objective, device=device, needs=self.exam.needs)
            if self.answers is not None:
                found = self.answers.add(found, model.model, divided, 0, device)
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
