"""Rank 0's side of the evaluation actors: one snapshot at work, all actors on it, and nothing here waits unless it is told to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tunefleet.trainers.evaluation.actors import Order
from tunefleet.trainers.evaluation.outcome import OnEvent, Outcome
from tunefleet.trainers.evaluation.policy import Queue, Ticket


class Pool:
    """The actors that the driver created, found by their names. They outlive this process, so a restarted rank 0 finds them again, models loaded."""

    def __init__(self, names: Sequence[str], order: Order, on_event: OnEvent) -> None:
        import ray

        self.actors = [ray.get_actor(name) for name in names]
        self.order, self.on_event = order, on_event
        self.queue = Queue()
        self._reply: Any = None
        self._began = 0.0

    def begin(self, step: int) -> None:
        """Have the actors load the model and score the base, so that the first evaluation finds them ready. What goes wrong there, shows again then."""
        for index, actor in enumerate(self.actors):
            actor.prepare.remote(self.order, index, len(self.actors))

    def submit(self, ticket: Ticket) -> None:
        """Start on the ticket, or let it wait in place of an older one."""
        self.queue, dropped = self.queue.offer(ticket)
        if dropped is not None:
            self.on_event("evaluation_dropped", {"step": dropped.step, "for_step": ticket.step, "why": "evaluation fell behind the training"})
        self._start()

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The outcome of the ticket at work, when it is there; the waiting one is started by the next call, once that outcome is written."""
        import ray

        self._start()
        if self.queue.working is None or not ray.wait([self._reply], timeout=timeout_s)[0]:
            return []
        try:
            reply = ray.get(self._reply)
        except ray.exceptions.RayError as error:
            return [self._close(error=_reason(error))]
        for name in reply["restarted"]:
            self.on_event("evaluation_actor_restarted", {"step": self.queue.working.step, "actor": name})
        return [replace(self._close(comparison=reply["comparison"]), samples=reply["samples"], samples_error=reply["samples_error"])]

    def busy(self) -> bool:
        """Whether a ticket is at work."""
        return self.queue.working is not None

    def give_up(self, why: str) -> list[Outcome]:
        """Forget the ticket at work; its actors may still be at it, and the next one waits behind it."""
        return [self._close(error=why)] if self.busy() else []

    def names(self) -> set[str]:
        """Manifests at work or waiting."""
        return self.queue.names()

    def _start(self) -> None:
        ticket = self.queue.working
        if ticket is None or self._reply is not None:
            return
        self.on_event("evaluation_started", {"step": ticket.step, "manifest": ticket.manifest, "placement": "actors"})
        self._began = time.monotonic()
        shares = [actor.score.remote(self.order, ticket, index, len(self.actors)) for index, actor in enumerate(self.actors)]
        self._reply = self.actors[0].compare.remote(self.order, *shares)

    def _close(self, *, comparison: dict[str, Any] | None = None, error: str = "") -> Outcome:
        ticket = self.queue.working
        assert ticket is not None
        outcome = Outcome(ticket, time.monotonic() - self._began, comparison, error)
        self.queue, self._reply = self.queue.done(), None
        return outcome


def _reason(error: Exception) -> str:
    """What an actor raised, in one line; Ray's own words where the actor is gone."""
    import ray

    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
