"""The book of a study: which trials were begun, how each stands, what was spent; every change is a line of trials.jsonl. It knows no Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.masking import masked
from tunefleet.cluster.metrics import Lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.handover import Pointer
from tunefleet.trainers.stopping import ask_to_stop
from tunefleet.tuning.goal import STEP
from tunefleet.tuning.lines import ENDED, FAILED, FINISHED, RUNNING, STOPPED, TRIALS, TrialLine, last_lines, never_less
from tunefleet.tuning.study import SEED, Budget
from tunefleet.tuning.trial import END_S, TRIAL, cost_since, output_of

SETTLE_S = 0.5
SWEEP_S = 5.0
"""How often what a dead trial held is looked for while its next start may wait for it: Ray ends its workers' controller a little later, at no known time."""


class Suggests(Protocol):
    """A searcher, as far as the book knows it."""

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        """Parameters; None where there are no more."""
        ...

    def ended(self, line: TrialLine) -> None:
        """How a trial ended: its last line."""
        ...


@dataclass(frozen=True)
class Begun:
    """A trial to begin, or to go on with."""

    id: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much of a study goes on at once, and when it ends. ``spent_s``: its wall time so far. ``seed``: that of the run file."""

    live: int
    budget: Budget
    seed: int = 0
    spent_s: float = 0.0


class Keeper:
    """Called from one thread, ``leave`` from any.

    ``why`` says why the stopper stopped a trial; ``changed`` is told every line and how all trials stand, ``gone`` that a trial's workers have ended.
    """

    def __init__(
        self,
        storage: Storage,
        searcher: Suggests,
        limits: Limits,
        earlier: Sequence[TrialLine] = (),
        *,
        why: Callable[[str], str | None] = lambda trial: None,
        changed: Callable[[TrialLine, Mapping[str, TrialLine]], None] = lambda line, trials: None,
        gone: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.storage, self.searcher, self.limits = storage, searcher, limits
        self._why, self._changed, self._gone, self._clock = why, changed, gone, clock
        self._lines = Lines(storage, TRIALS)
        self.trials = last_lines(earlier)
        self._live: set[str] = set()
        self._stopping: dict[str, float] = {}
        self._before: dict[str, Mapping[str, float]] = {}
        self._since: dict[str, float] = {}
        self._deaths: dict[str, str] = {}
        self._down: set[str] = set()
        self._dry = False
        self.leaving = False
        """See ``leave``: no trial begins, and one that ends unfinished is one that was cut."""
        self._began, self._settled, self._swept = clock(), -float("inf"), -float("inf")
        self._again = self._cut()

    def _cut(self) -> list[TrialLine]:
        """The trials that an earlier start left unfinished; those that its stopper had given up do not go on."""
        for line in [line for line in self.trials.values() if line.open]:
            if (why := self._why(line.id)) is not None:
                self._write(replace(line, status=STOPPED, why=why, cut=False))
                self.searcher.ended(self.trials[line.id])
        return [line for line in self.trials.values() if line.open]

    def next(self) -> Begun | None:
        """The next trial, where there is room for one: first those that an earlier start left unfinished. None for none now."""
        if self.leaving or len(self._live) + len(self._stopping) >= self.limits.live:
            return None
        if (why := self.spent()) is not None:
            for line in self._again:
                if not line.cut:
                    self._write(replace(line, status=STOPPED, why=why, cut=True))
            self._again.clear()
            return None
        if self._again:
            line = self._again.pop(0)
            self._live.add(line.id)
            if line.cut:
                self._write(replace(line, status=RUNNING, why="", cut=False))
            return Begun(line.id, line.parameters)
        name = trial_name(len(self.trials))
        suggested = None if self._dry else self.searcher.suggest(name)
        if suggested is None:
            self._dry = True
            return None
        seed = int(suggested.get(SEED, self.limits.seed))
        self._write(TrialLine(name, len(self.trials), dict(suggested), RUNNING, seed, output=output_of(self.storage.address, name)))
        self._live.add(name)
        return Begun(name, dict(suggested))

    def started(self, trial: str, parameters: Mapping[str, Any], pointer: Pointer | None) -> None:
        """A trial's process runs, with these parameters. ``pointer``: at the checkpoint that it goes on from: its own, or that of another by PBT."""
        line = self._costed(self.trials[trial], self._untold(trial))  # of an earlier start whose process died, or which PBT ended
        self._since[trial], self._before[trial] = time.time(), line.compute
        self._down.discard(trial)
        if pointer is not None and (other := pointer.output.rpartition("/")[2]) != trial:
            line = replace(line, parameters=dict(parameters), parent={"id": other, **pointer.to_json()})
        if line != self.trials[trial]:
            self._write(line)

    def reported(self, trial: str, result: Mapping[str, Any]) -> None:
        """An evaluation of a trial that goes on; what is told at its end is taken by ``ended``."""
        if not result.get("ended"):
            self._write(self._with(trial, result))

    def died(self, trial: str, why: str) -> None:
        """The process of a trial died: it is started again, or ``ended`` says that it is not."""
        self._deaths[trial] = why
        self._down.add(trial)

    def ended(self, trial: str, result: Mapping[str, Any], *, died: bool = False) -> None:
        """A trial is over, or was told to end: then its workers still save and go."""
        if trial not in self._live:
            return
        self._live.discard(trial)
        line, status = self._with(trial, result), result.get("ended")
        told_to_end = status is None and not died
        if died or trial in self._down:
            line = self._costed(line, self._untold(trial))
        elif told_to_end and trial in self._since:
            self._stopping[trial] = self._clock() + 2 * END_S
        self._write(self._judged(line, result, told_to_end=told_to_end))
        if not self.trials[trial].open:
            self.searcher.ended(self.trials[trial])
        if trial not in self._stopping:
            self._gone()

    def _judged(self, line: TrialLine, result: Mapping[str, Any], *, told_to_end: bool) -> TrialLine:
        """The last line of a trial. While the study is leaving, one that failed goes on later too: what ends a study may end workers."""
        status, spent = result.get("ended"), self.spent()
        if told_to_end and (why := self._why(line.id)) is not None:
            return replace(line, status=STOPPED, why=why)
        if self.leaving and status != FINISHED:
            return line
        if told_to_end:
            return replace(line, status=STOPPED, why=spent or "stopped", cut=spent is not None)
        if status is None:
            return replace(line, status=FAILED, why=f"the process of the trial died, time and again: {self._deaths.get(line.id, '')}")
        return replace(line, status=status, why=result.get("why", ""), cut=status == STOPPED and spent is not None)

    def settle(self) -> None:
        """Ask trials to end where the study is, and see which of those that were told to have ended, and at what cost. Cheap: it is called all the time."""
        now = self._clock()
        if now - self._settled < SETTLE_S:
            return
        self._settled = now
        if self.leaving:
            self._ask_to_end()
        if now - self._swept >= SWEEP_S and any(trial in self._deaths for trial in self._live):
            self._swept = now
            self._gone()
        for trial, deadline in list(self._stopping.items()):
            told = self._told(trial)
            if told is None and now < deadline:
                continue
            del self._stopping[trial]
            if told is None:
                self._write(self._costed(self.trials[trial], self._untold(trial)))
            else:
                line = self._with(trial, told)
                done = told["ended"] == FINISHED  # it came to its end before it was told to stop
                self._write(replace(line, status=FINISHED, why="", cut=False) if done else line)
            self._gone()

    def _ask_to_end(self) -> None:
        """Again and again: a trial that begins may claim its output, and forget what stood there, only now."""
        for trial in self._live:
            with suppress(StorageError):
                ask_to_stop(open_storage(self.trials[trial].output), "the study is asked to stop")

    def _told(self, trial: str) -> dict[str, Any] | None:
        """What the last start of a trial left at its end; None where it has not, though one before it may just have."""
        output = open_storage(self.trials[trial].output)
        with suppress(StorageError):
            told: dict[str, Any] = json.loads(output.read(TRIAL)) if output.exists(TRIAL) else {}
            return told if told.get("began", 0.0) >= self._since[trial] else None
        return None

    def spent(self) -> str | None:
        """Why no trial begins or goes on, or None."""
        budget = self.limits.budget
        if budget.max_steps is not None and (steps := self.steps()) >= budget.max_steps:
            return f"budget.max_steps is spent: {steps:g} of {budget.max_steps} steps"
        if budget.wall_time_s is not None and (seconds := self.seconds()) >= budget.wall_time_s:
            return f"budget.wall_time_s is spent: {seconds:.0f} of {budget.wall_time_s:g} s"
        return None

    @property
    def ending(self) -> bool:
        """Whether no trial is to begin or to go on, for whatever reason."""
        return self.leaving or self.spent() is not None

    def over(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self._live and not self._stopping and (self.ending or (self._dry and not self._again))

    def leave(self) -> None:
        """The study is to end, and to go on later: ``settle`` asks every trial under way to save and end."""
        self.leaving = True

    def steps(self) -> float:
        """Optimizer steps of all trials so far."""
        return sum(line.compute.get("steps", 0) for line in self.trials.values())

    def seconds(self) -> float:
        """Wall time of the study so far."""
        return self.limits.spent_s + self._clock() - self._began

    def close(self) -> None:
        """Store what is left."""
        self._lines.close()

    def _with(self, trial: str, result: Mapping[str, Any]) -> TrialLine:
        line = self.trials[trial]
        if result.get("metrics"):
            line = replace(line, step=int(result[STEP]), metrics=dict(result["metrics"]))
        return self._costed(line, result.get("cost", {}))

    def _untold(self, trial: str) -> dict[str, float]:
        """What the last start of a trial has cost by its own lines, which run on after its last report; nothing where none has come to a process."""
        return cost_since(open_storage(self.trials[trial].output), self._since[trial]) if trial in self._since else {}

    def _costed(self, line: TrialLine, cost: Mapping[str, float]) -> TrialLine:
        return replace(line, compute=never_less(line.compute, self._before.get(line.id, {}), cost))

    def _write(self, line: TrialLine) -> None:
        line = replace(line, time=time.time(), why=masked(line.why))
        self.trials[line.id] = line
        self._lines.add(line.to_json())
        self._changed(line, self.trials)


def trial_name(number: int) -> str:
    """The name of a trial, which is also that of its folder; names sort as numbers do."""
    return f"{number:05d}"


def counted(trials: Mapping[str, TrialLine]) -> dict[str, int]:
    """How many trials have which status."""
    return {status: sum(line.status == status for line in trials.values()) for status in (RUNNING, *sorted(ENDED))}
