"""One trial of a study: an ordinary run in an output of its own, done in a thread, whose evaluations are handed on as they come.

It knows no Ray Tune: ``tuning/raytune.py`` has an actor call it.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tunefleet.cluster.errors import Refusal, Stopped, StorageError, TunefleetError
from tunefleet.cluster.masking import masked
from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.files import by_set
from tunefleet.trainers.handover import Pointer
from tunefleet.trainers.launch import result_of, train
from tunefleet.trainers.manifest import brief
from tunefleet.trainers.nested import Nested
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import EVENTS, METRICS
from tunefleet.trainers.stopping import ask_to_stop
from tunefleet.tuning.goal import STEP, numbers, value_of
from tunefleet.tuning.lines import FAILED, FINISHED, STOPPED
from tunefleet.tuning.space import Point
from tunefleet.tuning.study import StudyFile, read_study

FOLDER = "trials"
TRIAL = "trial.json"  # in a trial's output, when a start of it has ended: what it cost, and how it ended
END_S = 60.0
"""How long a trial that is to end may take to save and to let its workers go, before it is ended by force."""
LOOK_S = 1.0
STOPPING_WALL_TIME = "budget.wall_time_s is spent"
_REACHED = frozenset({"evaluation_finished", "checkpoint_complete", "stopping"})
"""Events that say how far an attempt has come: metrics are not of every step (``logging.every_steps``)."""


@dataclass(frozen=True)
class Plan:
    """What all trials of a study share. ``study``: its file with the run in place and every path absolute. ``base``: where the base's scores lie.

    ``deadline``: seconds since 1970, when every trial ends. ``local``: the cluster ends with the driver of the study. ``begin_at``: the checkpoints that
    trials of a cut study had been given by PBT; whether they had come to take them over is seen in their outputs.
    """

    study: StudyFile
    placement: Literal["actors", "inline"]
    local: bool
    base: str
    deadline: float | None = None
    begin_at: Mapping[str, Pointer] = field(default_factory=dict)


def output_of(study: str, trial: str) -> str:
    """Where a trial's run lies."""
    return f"{study.rstrip('/')}/{FOLDER}/{trial}"


def run_of(plan: Plan, trial: str, parameters: Point) -> RunFile:
    """The run file of a trial. It exports nothing: `tunefleet export` of its output does, once it is known which is the best. Raises what is wrong with it."""
    study = read_study(plan.study).study
    assert study is not None, "a study that is under way was read before"
    read = study.trial(parameters, output_of(plan.study.output, trial))
    Refusal.raise_if(read.problems)
    assert read.value is not None
    run = read.value
    placed = run.evaluation.model_copy(update={"placement": plan.placement, "behind": "wait"})
    export = run.export.model_copy(update={"at_end": False})
    return run.model_copy(update={"name": f"{plan.study.name}-{trial}", "evaluation": placed, "export": export})


@dataclass
class Course:
    """What is known of one start of a trial, from the lines that its run writes; of two files, so a step may be seen before its attempt began.

    ``metric``: what trials are compared by. ``since``, ``seen``: when its workers started, and the time of the latest line; seconds since 1970.
    """

    metric: str = ""
    last_step: int | None = None
    step: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    workers: int = 0
    since: float | None = None
    seen: float = 0.0
    _began: dict[int, int] = field(default_factory=dict)
    _reached: dict[int, int] = field(default_factory=dict)

    def line(self, name: str, record: Mapping[str, Any]) -> bool:
        """Take in a line; True where it is a new evaluation."""
        self.seen = max(self.seen, record["time"])
        event = record.get("event")
        if name == METRICS or event in _REACHED:
            self._reached[record["attempt"]] = max(self._reached.get(record["attempt"], 0), record["step"])
        if event == "group_started":
            self.workers, self.since = len(record["workers"]), self.since or record["time"]
        elif event == "training_started":
            self._began[record["attempt"]], self.last_step = record["step"], record["steps"]
        elif event == "evaluation_finished":
            self.step, self.metrics = record["step"], numbers(record, record["sets"], self.metric)
            return True
        return False

    @property
    def steps(self) -> int:
        """Done since this start of it, those done anew among them."""
        return sum(max(0, self._reached.get(attempt, 0) - step) for attempt, step in self._began.items())

    def cost(self, until: float) -> dict[str, float]:
        """Optimizer steps, and seconds times workers, of this start; ``until``: seconds since 1970."""
        return {"steps": self.steps, "worker_seconds": round(self.workers * max(0.0, until - self.since), 3) if self.since is not None else 0.0}


def cost_since(output: Storage, moment: float) -> dict[str, float]:
    """What a start of a trial at a moment has cost so far, by the lines of its run; steps that a restart of its workers dropped are not among them."""
    course = Course()
    for name in (EVENTS, METRICS):
        for record in read_lines(output, name):
            if record["time"] >= moment:
                course.line(name, record)
    return course.cost(course.seen)


class Attempt:
    """One start of a trial. ``next`` waits for what there is to report: {step, metrics, cost}, and at the end {done, ended, why} with them."""

    def __init__(self, plan: Plan, trial: str, parameters: Point, begin_at: Pointer | None = None) -> None:
        self.plan, self.trial, self.parameters, self.begin_at = plan, trial, parameters, begin_at
        self.output = output_of(plan.study.output, trial)
        self.course = Course(plan.study.metric)
        self._reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._why, self._began = "", 0.0
        self._thread = threading.Thread(target=self._work, name=f"trial {trial}", daemon=True)

    def start(self) -> None:
        """Begin, or go on where an earlier start left it."""
        self._began = time.time()
        self._thread.start()

    def next(self) -> dict[str, Any]:
        """The next report; waits for it. A trial that is past the study's deadline is asked to end."""
        while True:
            alive = self._thread.is_alive()  # asked before the look: what it said last is there by then
            try:
                return self._reports.get(timeout=LOOK_S)
            except queue.Empty:
                if not alive:
                    return self._said({"done": True, "ended": FAILED, "why": "it ended without a word"})
                if self.plan.deadline is not None and time.time() > self.plan.deadline:
                    self.ask(STOPPING_WALL_TIME)  # again and again, see ``end``

    def ask(self, why: str) -> None:
        """Have it save and end, soon."""
        self._why = self._why or why
        with suppress(StorageError):  # whoever asks asks again
            ask_to_stop(open_storage(self.output), why)

    def end(self, within_s: float) -> None:
        """Have it save and end, and wait for that."""
        deadline = time.monotonic() + within_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self.ask("the study stops it")  # again: it may have claimed its output, and forgotten what stood there, only now
            self._thread.join(LOOK_S)

    def _work(self) -> None:
        ended, why = FAILED, ""
        try:
            run = run_of(self.plan, self.trial, self.parameters)
            train(run, resume="auto", nested=Nested(self._follow, self.plan.local, self.plan.base, self.begin_at))
            self._take_last()
            ended = FINISHED
        except Stopped as error:
            ended, why = STOPPED, self._why or error.what
        except TunefleetError as error:
            why = str(error)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this trial's end, and not the study's
            why = brief(error)
        said = {"ended": ended, "why": masked(why)}
        course = {STEP: self.course.step, "metrics": dict(self.course.metrics), "cost": self.course.cost(time.time())}
        with suppress(StorageError):  # a storage in trouble must not leave the study waiting
            open_storage(self.output).put(TRIAL, json.dumps({**said, "began": self._began, **course}).encode())
        self._reports.put(self._said({"done": True, **said}))

    def _follow(self, name: str, record: Mapping[str, Any]) -> None:
        if self.course.line(name, record) and self.course.step != self.course.last_step:  # the last one is told when the run is done
            self._reports.put(self._said({}))

    def _take_last(self) -> None:
        found = result_of(self.output).evaluation
        if found:
            self.course.step, self.course.metrics = found[STEP], numbers(found, by_set(found), self.plan.study.metric)

    def _said(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """A report. The goal's metric is not in it where it was not computed, and is the worst where it is not finite."""
        goal, metrics = self.plan.study, dict(self.course.metrics)
        value = value_of(metrics, goal.metric)
        worst = float("inf") if goal.mode == "min" else -float("inf")
        known = {goal.metric: worst if value is None else value} if goal.metric in metrics else {}
        return {STEP: self.course.step, "metrics": metrics, **known, "cost": self.course.cost(time.time()), **more}
