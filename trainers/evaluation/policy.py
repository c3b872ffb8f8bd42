"""When to evaluate, what waits, what is dropped, which step is best and when to stop: pure functions of plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunefleet.trainers.run import RunFile


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the values so far say. ``since_best`` counts evaluations after the best one; ``stop`` is the decision of early stopping."""

    best_step: int | None = None
    best_value: float | None = None
    since_best: int = 0
    stop: bool = False


def judge(values: Sequence[tuple[int, float | None]], *, mode: Literal["min", "max"], patience: int | None) -> Judgement:
    """The best step, and whether ``patience`` evaluations in a row brought no better value.

    ``values`` are (step, value) in order of steps. A value that is missing or not finite is never better; equal is not better, so of
    equals the earliest is best. ``patience`` None never stops.
    """
    best: tuple[int, float] | None = None
    since = 0
    for step, value in values:
        if value is not None and math.isfinite(value) and (best is None or (value < best[1] if mode == "min" else value > best[1])):
            best, since = (step, float(value)), 0
        else:
            since += 1
    stop = patience is not None and since >= patience
    return Judgement(best[0] if best else None, best[1] if best else None, since, stop)


def due(step: int, *, every: int | None, steps: int) -> bool:
    """Whether the weights after ``step`` optimizer steps are evaluated: every so many steps, and always after the last."""
    return step > 0 and (step == steps or (every is not None and step % every == 0))


@dataclass(frozen=True, slots=True)
class Ticket:
    """Weights that are to be evaluated: the step they stand at, and the manifest that names them (None where ranks score what they hold)."""

    step: int
    manifest: str | None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """One ticket in work and at most one waiting: training never waits for evaluation, so the older waiting one gives way."""

    working: Ticket | None = None
    waiting: Ticket | None = None

    def offer(self, ticket: Ticket) -> tuple[Queue, Ticket | None]:
        """The queue with the ticket in it, and the ticket that was dropped for it. An idle queue starts work at once."""
        if self.working is None:
            return Queue(ticket), None
        return Queue(self.working, ticket), self.waiting

    def done(self) -> Queue:
        """The queue after the work is done: the waiting ticket is now in work."""
        return Queue(self.waiting)

    def names(self) -> set[str]:
        """The manifests that must not be removed yet."""
        return {t.manifest for t in (self.working, self.waiting) if t is not None and t.manifest is not None}


Place = Literal["actors", "inline", "none"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where evaluation runs, and why."""

    kind: Place
    why: str

    @property
    def said(self) -> str:
        """The decision in words."""
        return f"evaluation.placement: {self.kind}, since {self.why}"


def place(run: RunFile, available: Mapping[str, float]) -> Placement:
    """Where evaluation runs: as the run file says, or for ``auto`` beside the training where ``available`` CPUs and GPUs hold both; nowhere without rows.

    ``available`` are physical resources ({"CPU": ..., "GPU": ...}), not the logical CPUs of a local Ray that was started larger than its host.
    """
    wanted = run.evaluation.placement
    if not run.data.holdout:
        return Placement("none", "no rows are held out")
    if wanted != "auto":
        return Placement(wanted, "evaluation.placement says so")
    if run.scaling.use_gpu and not run.evaluation.resources.gpu:
        return Placement("inline", "training has GPUs and an evaluation actor none (evaluation.resources.gpu is 0)")
    training = {"CPU": run.scaling.num_workers * run.scaling.cpus_per_worker, "GPU": run.scaling.num_workers * run.scaling.use_gpu}
    actors = {"CPU": run.evaluation.actors * run.evaluation.resources.cpu, "GPU": run.evaluation.actors * run.evaluation.resources.gpu}
    for kind in training:
        need, free = training[kind] + actors[kind], available.get(kind, 0.0)
        if need > free:
            return Placement("inline", f"training and {run.evaluation.actors} evaluation actors need {need:g} {kind}, {free:g} are there")
    return Placement("actors", "there is room beside the training")
