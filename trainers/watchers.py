"""What looks at every step: the log, the guard against numbers that are not finite, checkpoints, evaluation. All ranks call them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tunefleet.cluster import heartbeat
from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.metrics import Lines
from tunefleet.trainers.effort import Effort, slowest, straggler, waiting
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.loop import USEFUL, Report, State

if TYPE_CHECKING:
    from tunefleet.cluster.world import World
    from tunefleet.data.stream import Stream
    from tunefleet.trainers.checkpoint import Saving
    from tunefleet.trainers.evaluation.watch import EvaluationWatch


GHOST_CHECK_S = 10.0
"""How often the rank that writes asks whether it was given up: cut off from the driver, but not from the other ranks and the storage."""


class Pulse:
    """Tells the watchdog of the worker group, step by step, that this rank gets on; and asks now and then whether it still should."""

    def __init__(self, refuse_ghosts: Callable[[], None] | None = None) -> None:
        self._refuse_ghosts, self._asked_s = refuse_ghosts, time.monotonic()

    def wants_stop(self) -> bool:
        """Never."""
        return False

    def watch(self, state: State, report: Report) -> None:
        """Every step is a sign of life. Raises in an attempt that was given up."""
        heartbeat.beat()
        if self._refuse_ghosts is not None and time.monotonic() - self._asked_s > GHOST_CHECK_S:
            self._refuse_ghosts()
            self._asked_s = time.monotonic()


class LogWatch:
    """Writes a line of metrics.jsonl every so many steps, and at the last; a rank that holds up the others is an event when it begins to."""

    def __init__(self, lines: Lines | None, world: World, stream: Stream, *, every: int, steps: int, events: Events | None = None, attempt: int = 1) -> None:
        self.lines, self.world, self.stream, self.every, self.steps, self.events, self.attempt = lines, world, stream, every, steps, events, attempt
        self._effort = Effort(on_cpu=world.device.type == "cpu")
        self._late: int | None = None

    def wants_stop(self) -> bool:
        """Never."""
        return False

    def watch(self, state: State, report: Report) -> None:
        """Sum over ranks what is not summed yet, and write."""
        self._effort.add(report.seconds, report.waited_seconds, report.busy_seconds)
        if state.step % self.every and state.step != self.steps:
            return
        local = {"loss": sum(float(t) for t in report.totals), "computed": float(report.computed_tokens)}
        local |= {_own(rank): 0.0 for rank in range(self.world.size)}
        local[_own(self.world.rank)], step_s = self._effort.take()
        for metrics in report.metrics:
            for name, (total, count) in metrics.items():
                local[f"{name}.sum"] = local.get(f"{name}.sum", 0.0) + float(total)
                local[f"{name}.count"] = local.get(f"{name}.count", 0.0) + count
        sums = self.world.sum(local)
        if self.lines is None:
            return
        each = [sums[_own(rank)] for rank in range(self.world.size)]
        self._tell_straggler(state.step, each)
        means = {name[:-4]: sums[name] / max(sums[f"{name[:-4]}.count"], 1.0) for name in sums if name.endswith(".sum")}
        self.lines.add(
            {
                "step": state.step,
                "time": time.time(),
                "attempt": self.attempt,
                "epoch": self.stream.epoch(state.step),
                "tokens": state.tokens,
                "loss": sums["loss"],
                **means,
                "learning_rate": report.rate,
                "grad_norm": report.stepped.grad_norm,
                "applied": report.stepped.applied,
                "tokens_per_second": report.weights[USEFUL] / report.seconds,
                "step_seconds": report.seconds,
                "rank_seconds": [round(seconds, 4) for seconds in each],
                "slowest_rank": slowest(each),
                "waiting": waiting(each, step_s),
                "padding": 1 - report.weights[USEFUL] / sums["computed"],
                "examples": self.stream.digest(report.step),
            }
        )

    def _tell_straggler(self, step: int, each: Sequence[float]) -> None:
        found = straggler(each)
        late, self._late = self._late, found.rank if found else None
        if self.events is not None and found is not None and found.rank != late:
            self.events.add("straggler", step=step, rank=found.rank, seconds=round(found.seconds, 2), others=round(found.others, 2))


def _own(rank: int) -> str:
    return f"own.{rank:05d}"


class FiniteGuard:
    """Stops a run whose gradients are not finite for too many steps in a row; single ones were skipped on every rank alike, and are recorded."""

    def __init__(self, allowed: int, events: Events) -> None:
        self.allowed, self.events = allowed, events

    def wants_stop(self) -> bool:
        """Never: too many raise."""
        return False

    def watch(self, state: State, report: Report) -> None:
        """Raises TunefleetError after more than the allowed number of skipped steps in a row."""
        if report.stepped.applied:
            return
        self.events.add("step_skipped", step=state.step, grad_norm=str(report.stepped.grad_norm))
        if state.nonfinite > self.allowed:
            raise TunefleetError(
                "the gradients are not finite",
                got=f"{state.nonfinite} steps in a row with a gradient norm of {report.stepped.grad_norm}, the last at step {state.step}",
                want=f"at most {self.allowed} (training.skip_nonfinite_steps)",
                fix="lower training.learning_rate, or look at the rows of these steps",
            )


class CheckpointWatch:
    """Saves when due, in the background, one save at a time; once a checkpoint is complete, older ones go."""

    def __init__(self, saver: Callable[[State, bool], Saving], events: Events, *, every: int | None, steps: int) -> None:
        self.saver, self.events, self.every, self.steps = saver, events, every, steps
        self.retain: Callable[[], object] = lambda: None
        self.pending: Saving | None = None
        self.saved: dict[int, str] = {}
        self._whole = True

    def wants_stop(self) -> bool:
        """Never."""
        return False

    def watch(self, state: State, report: Report) -> None:
        """Save on every n-th step and after the last; notice when the save before is complete."""
        if self.pending is not None and self.pending.done():
            self.settle()
        if state.step == self.steps or (self.every and state.step % self.every == 0):
            self.save(state)

    def save(self, state: State, *, optimizer: bool = True) -> str:
        """Save this state, unless that is done; the name of its manifest, which stands once ``settle`` has returned on rank 0. Collective."""
        if state.step in self.saved:
            return self.saved[state.step]
        with self.events.during("checkpoint", "checkpoint", "training", step=state.step, optimizer=optimizer):
            self.settle()
            self.pending = self.saver(state, optimizer)
        self.saved, self._whole = {state.step: self.pending.name}, optimizer
        return self.pending.name

    def last(self, state: State) -> str:
        """The manifest of the last state, complete. Collective."""
        name = self.save(state)
        self.settle()
        return name

    def resumable(self, state: State) -> str:
        """The manifest of a state that training can go on from, complete; weights that were saved alone are saved again with the rest. Collective."""
        if not self._whole:
            self.saved = {}
        return self.last(state)

    def stands(self, name: str) -> bool:
        """Whether a manifest that was saved is complete, as far as this rank has noticed."""
        return self.pending is None or self.pending.name != name

    def settle(self) -> None:
        """Wait for the save on its way, and drop what is no longer kept. Raises what went wrong in the background."""
        if self.pending is None:
            return
        manifest, self.pending = self.pending.wait(), None
        if manifest is not None:
            size = sum(file.bytes for file in manifest.files)
            self.events.add("checkpoint_complete", step=manifest.step, manifest=manifest.name, bytes=size, optimizer=manifest.updates is not None)
            self.retain()


class EvaluateWatch:
    """Hands weights to the evaluation when due, and passes on its wish to stop."""

    def __init__(self, evaluation: EvaluationWatch, checkpoints: CheckpointWatch) -> None:
        self.evaluation, self.checkpoints = evaluation, checkpoints
        self.inline = evaluation.placement == "inline"
        self._next: tuple[int, str] | None = None

    def wants_stop(self) -> bool:
        """Early stopping, on rank 0."""
        return self.evaluation.wants_stop

    def watch(self, state: State, report: Report) -> None:
        """Save the weights when an evaluation is due, and start it as soon as they stand; take in what came back."""
        if self.evaluation.due(state.step):
            self.start(state)
        if self._next is not None and self.checkpoints.stands(self._next[1]):
            self.submit()
        self.evaluation.poll()

    def begin(self, state: State) -> None:
        """Replay what was decided before a resume; inline, score the base model. Collective."""
        self.evaluation.begin(state.step, self.checkpoints.saved.get(state.step))

    def finish(self) -> str | None:
        """Wait for every evaluation; the manifest of the best weights, on rank 0. Collective."""
        self.flush()
        self.evaluation.finish()
        return self.evaluation.best_manifest

    def protected(self) -> set[str]:
        """Manifests that must stay: best, at work, or waiting, here for their save or there for an actor."""
        return self.evaluation.protected | ({self._next[1]} if self._next is not None else set())

    def start(self, state: State) -> None:
        """Have the weights saved; inline, score them at once. Collective."""
        self.flush()  # an evaluation that still waits for its own save goes first
        if self.evaluation.patient:
            self.evaluation.finish()
        self._next = (state.step, self.checkpoints.save(state, optimizer=False))
        if self.inline:
            self.flush()

    def flush(self) -> None:
        """Submit what waits for its save, now."""
        if self._next is not None:
            if not self.checkpoints.stands(self._next[1]):
                self.checkpoints.settle()
            self.submit()

    def submit(self) -> None:
        """Evaluate weights that stand."""
        assert self._next is not None
        (step, manifest), self._next = self._next, None
        if not self.inline:
            self.evaluation.start(step, manifest)
            return
        with self.checkpoints.events.during("inline_evaluation", "evaluation", "training", step=step):
            self.evaluation.start(step, manifest)
        self.evaluation.poll()
