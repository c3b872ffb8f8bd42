"""The training loop. It knows sources, objectives, engines and watchers as protocols, and no file, format or cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tunefleet.trainers.objective import Objective, Scorer
from tunefleet.trainers.upcoming import Source, Upcoming

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.world import World
    from tunefleet.data.stream import Round
    from tunefleet.trainers.objective import Batch

STOP = "stop"  # rides on the all-reduce of the weights, so that all ranks stop before the same step
USEFUL = "useful_tokens"  # rides there too: tokens that are no padding


@dataclass(frozen=True, slots=True)
class State:
    """Where the run stands: finished optimizer steps, useful tokens read so far, and non-finite steps in a row."""

    step: int = 0
    tokens: int = 0
    nonfinite: int = 0


@dataclass(frozen=True)
class Report:
    """What one step did. Totals, metrics and computed tokens (those of idle rounds too) are this rank's; weights are the whole step's, over all ranks."""

    step: int
    rate: float
    stepped: Stepped
    seconds: float
    waited_seconds: float
    """For the step's rows."""
    busy_seconds: float
    """Of this thread on a core."""
    computed_tokens: int
    weights: dict[str, float]
    totals: Sequence[torch.Tensor]
    metrics: Sequence[dict[str, tuple[torch.Tensor, float]]]


class Stepper(Protocol):
    """The engine, as far as the loop knows it."""

    @property
    def scorer(self) -> Scorer:
        """The one door to probabilities."""
        ...

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradients of one micro-batch; ``last`` ends the accumulation."""
        ...

    def step(self, rate: float) -> Stepped:
        """Clip, update the weights, clear the gradients."""
        ...


class Stepped(Protocol):
    """What an engine says of a step."""

    @property
    def grad_norm(self) -> float:
        """Global norm before clipping."""
        ...

    @property
    def applied(self) -> bool:
        """False when the gradient was not finite, on any rank."""
        ...


class Watcher(Protocol):
    """Looks at every step on every rank: logs, saves, evaluates. Each knows itself when it is due."""

    def watch(self, state: State, report: Report) -> None:
        """Called after every step."""
        ...

    def wants_stop(self) -> bool:
        """Whether training should end before the next step; one rank's yes is enough."""
        ...


def train_loop(
    state: State,
    steps: int,
    *,
    source: Source,
    objective: Objective,
    engine: Stepper,
    world: World,
    rate: Callable[[int], float],
    watchers: Sequence[Watcher],
    seed: int,
) -> State:
    """Train from ``state`` to ``steps`` optimizer steps, or until a watcher stops it. Returns where it ended."""
    with Upcoming(source, objective.collate, world.device, steps) as upcoming:
        while state.step < steps:
            began, busy = time.perf_counter(), time.thread_time()
            rounds, batches = upcoming.take(state.step)
            waited = time.perf_counter() - began
            weights = world.sum({**total_weights(objective, rounds, batches), STOP: float(any(w.wants_stop() for w in watchers))})
            if weights.pop(STOP):
                break
            totals, metrics = [], []
            for number, (r, batch) in enumerate(zip(rounds, batches, strict=True)):
                seed_round(seed, state.step, r)
                loss = objective.loss(engine.scorer, to_device(batch, world.device))
                total = loss.over(weights) * float(r.real)  # a round made only to keep the ranks in step weighs nothing
                engine.backward(total, last=number == len(rounds) - 1)
                totals.append(total.detach())
                metrics.append({name: (value * r.real, count * r.real) for name, (value, count) in loss.metrics.items()})  # the same names on every rank
            stepped = engine.step(rate(state.step))
            computed = sum(engine.scorer.computed_tokens(batch) for batch in batches)
            report = Report(
                state.step, rate(state.step), stepped, time.perf_counter() - began, waited, time.thread_time() - busy, computed, weights, totals, metrics
            )
            state = State(state.step + 1, state.tokens + round(weights[USEFUL]), 0 if stepped.applied else state.nonfinite + 1)
            for watcher in watchers:
                watcher.watch(state, report)
    return state


def total_weights(objective: Objective, rounds: Sequence[Round], batches: Sequence[Batch]) -> dict[str, float]:
    """This rank's addends of what the loss is divided by, over all its rounds; the same keys on every rank."""
    totals = {USEFUL: 0.0}
    for r, batch in zip(rounds, batches, strict=True):
        for name, value in objective.weights(batch).items():
            totals[name] = totals.get(name, 0.0) + value * r.real
        totals[USEFUL] += float(batch["attention_mask"].sum()) * r.real
    return totals


def seed_round(seed: int, step: int, r: Round) -> None:
    """Seed dropout and noise by (seed, step, first example), so that a resumed step repeats exactly what a killed one did."""
    import torch

    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + r.records[0].id) % (1 << 63))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the rank's device."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
