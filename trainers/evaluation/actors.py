"""Evaluation beside the training: Ray actors that hold the model, score their share of the held-out rows, and compare.

The driver creates them, so they outlive restarts of the worker group and end with the driver. They are told what to do by addresses and JSON;
a model never travels. One that dies is started again by Ray and loads what it needs; a request is tried three times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tunefleet.cluster.actors import Actors, create_actors, restarted
from tunefleet.trainers.evaluation.policy import Ticket
from tunefleet.trainers.evaluation.rows import RowScores
from tunefleet.trainers.run import Evaluation

if TYPE_CHECKING:
    from tunefleet.trainers.evaluation.plain import Examiner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """What an actor evaluates: a run file as JSON, the store of its shards, the address of its output, and the id that fills padding."""

    run: str
    store: str
    output: str
    pad_id: int


@dataclass(frozen=True)
class ActorShare:
    """One actor's rows, of the weights asked for and of the base; ``restarted`` names the actor when it had died before.

    ``samples``: what the first actor generated, or why it could not.
    """

    tuned: RowScores
    base: RowScores
    restarted: str | None
    samples: Sequence[Mapping[str, Any]] = ()
    samples_error: str = ""


class Evaluator:
    """The actor. It keeps one model, and takes up another run only when it is asked to: the runs of a chain share their actors."""

    def __init__(self, cpu: float) -> None:
        """Nothing is imported yet: the training starts meanwhile, and needs the processors."""
        self._threads = max(1, round(cpu))
        self._order: Order | None = None
        self._restarted = restarted()
        self._examiner: Examiner | None = None

    def prepare(self, order: Order, index: int, count: int) -> None:
        """Load the model, and score share ``index`` of ``count`` with it."""
        examiner = self._take_up(order)
        examiner.base_share(index, count)
        if index == 0:
            _try(examiner.base_samples)  # what goes wrong here goes wrong again with the first weights, and is said then

    def base(self, order: Order, index: int, count: int) -> RowScores:
        """Score share ``index`` of ``count`` with the base model."""
        self.prepare(order, index, count)
        return self._take_up(order).base_share(index, count)

    def keep_base(self, order: Order, *parts: RowScores) -> None:
        """Keep the base model's scores in the run's output."""
        self._take_up(order).keep_base(parts)

    def score(self, order: Order, ticket: Ticket, index: int, count: int) -> ActorShare:
        """Score share ``index`` of ``count`` with the weights of a ticket. The base is scored before any weights are loaded, and once."""
        examiner = self._take_up(order)
        base = examiner.base_share(index, count)
        assert ticket.manifest is not None, "actors load weights; they need a manifest"
        asked, _ = _try(examiner.base_samples) if index == 0 else ("", None)
        tuned = examiner.tuned_share(ticket.manifest, index, count)
        error, samples = _try(examiner.tuned_samples) if index == 0 and not asked else (asked, None)
        restarted, self._restarted = self._restarted, None  # said once
        return ActorShare(tuned, base, restarted, samples or (), error)

    def compare(self, order: Order, *parts: ActorShare) -> dict[str, Any]:
        """Numbers and intervals of all shares together, computed here and not in the training's time."""
        comparison = self._take_up(order).compare([p.tuned for p in parts], [p.base for p in parts])
        samples = {"samples": parts[0].samples, "samples_error": parts[0].samples_error}
        return {"comparison": comparison, "restarted": [p.restarted for p in parts if p.restarted], **samples}

    def _take_up(self, order: Order) -> Examiner:
        import torch

        from tunefleet.trainers.evaluation.plain import Examiner

        if self._examiner is None or self._order != order:
            torch.set_num_threads(self._threads)
            self._examiner = None  # the model before is let go first
            self._examiner, self._order = Examiner.open(order.run, order.store, order.output, order.pad_id), order
        return self._examiner


def create_evaluators(evaluation: Evaluation) -> Actors:
    """Create ``evaluation.actors`` actors in the Ray session of this process, and return at once; they load a model when they are first asked.

    Call it in the driver; rank 0 finds them by their names, which travel in the payload.
    """
    held = evaluation.resources
    return create_actors(Evaluator, evaluation.actors, held.cpu, stem="tunefleet-evaluator", cpu=held.cpu, gpu=held.gpu)


def keep_base_scores(order: Order, evaluation: Evaluation) -> None:
    """Have the base model scored, and the scores kept in the output that the order names, by actors that live no longer. Waits for it.

    Raises what the scoring raised.
    """
    import ray

    actors = create_evaluators(evaluation)
    try:
        count = len(actors.handles)
        parts = [actor.base.remote(order, index, count) for index, actor in enumerate(actors.handles)]
        ray.get(actors.handles[0].keep_base.remote(order, *parts))
    finally:
        actors.close()


def _try(work: Callable[[], T]) -> tuple[str, T | None]:
    """Why it did not work, and what came of it: samples are a comfort, and no number waits for them."""
    try:
        return "", work()
    except Exception as error:  # noqa: BLE001 - whatever a model's own generation raises
        return f"{type(error).__name__}: {error}".splitlines()[0], None
