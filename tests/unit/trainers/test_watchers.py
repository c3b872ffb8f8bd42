"""The watchers of the loop: what a line of metrics holds, when a run gives up, when it saves and what it then lets go."""

import pytest
import torch

from tunefleet.cluster.errors import StorageError, TunefleetError
from tunefleet.cluster.metrics import Lines, read_lines
from tunefleet.cluster.storage import Stored, open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.engine import Stepped
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.loop import Report, State
from tunefleet.trainers.manifest import Manifest
from tunefleet.trainers.watchers import CheckpointWatch, EvaluateWatch, FiniteGuard, LogWatch, Pulse


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


@pytest.fixture
def events(storage):
    return Events(storage)


def told(storage):
    return [(line["event"], line.get("step")) for line in read_lines(storage, "events.jsonl")]


def report(step, *, totals=(1.0,), metrics=(), applied=True, seconds=2.0):
    stepped = Stepped(0.5 if applied else float("inf"), applied)
    weights = {"tokens": 5.0, "useful_tokens": 30.0}
    return Report(step, 1e-3, stepped, seconds, 0.0, 0.1, 40, weights, [torch.tensor(t) for t in totals], list(metrics))


class Rows:
    """A stream that only says where it stands."""

    def epoch(self, step):
        return step / 10

    def digest(self, step):
        return f"set {step}"


def test_the_rank_that_writes_asks_now_and_then_whether_it_was_given_up(monkeypatch):
    asked = []
    pulse = Pulse(lambda: asked.append(1))
    pulse.watch(State(1), report(0))
    assert asked == []
    monkeypatch.setattr("tunefleet.trainers.watchers.GHOST_CHECK_S", -1.0)
    pulse.watch(State(2), report(1))
    assert asked == [1]


class TestLog:
    def watch(self, storage, every, *states):
        log = LogWatch(Lines(storage, "m.jsonl"), World.single(), Rows(), every=every, steps=10)
        for step, seen in states:
            log.watch(State(step, 30 * step), seen)
        return read_lines(storage, "m.jsonl")

    def test_a_line_holds_sums_over_rounds_and_means_by_their_own_counts(self, storage):
        accuracy = [{"accuracy": (torch.tensor(1.0), 4.0)}, {"accuracy": (torch.tensor(3.0), 4.0)}]
        (line,) = self.watch(storage, 1, (1, report(0, totals=(1.0, 0.25), metrics=accuracy)))
        assert {"step": 1, "epoch": 0.1, "tokens": 30, "loss": 1.25, "accuracy": 0.5, "padding": 0.25, "tokens_per_second": 15.0}.items() <= line.items()
        assert line["examples"] == "set 0"

    def test_a_line_says_how_long_each_rank_itself_needed_a_step(self, storage):
        (line,) = self.watch(storage, 2, (1, report(0)), (2, report(1)))
        assert (line["rank_seconds"], line["slowest_rank"]) == ([0.1], 0)

    def test_lines_come_every_so_many_steps_and_at_the_last(self, storage):
        assert [line["step"] for line in self.watch(storage, 4, *((step, report(step - 1)) for step in range(1, 11)))] == [4, 8, 10]

    def test_what_is_not_finite_is_null(self, storage):
        (line,) = self.watch(storage, 1, (1, report(0, totals=(float("nan"),), applied=False)))
        assert (line["loss"], line["grad_norm"], line["applied"]) == (None, None, False)


def test_single_steps_that_are_not_finite_are_recorded_and_too_many_in_a_row_end_the_run(storage, events):
    guard = FiniteGuard(2, events)
    guard.watch(State(1), report(0))
    for step, row in ((2, 1), (3, 2)):
        guard.watch(State(step, nonfinite=row), report(step - 1, applied=False))
    with pytest.raises(TunefleetError, match="not finite") as ended:
        guard.watch(State(4, nonfinite=3), report(3, applied=False))
    assert "3 steps in a row" in ended.value.got
    assert told(storage) == [("step_skipped", 2), ("step_skipped", 3), ("step_skipped", 4)]


class Save:
    """A save on its way that is complete when the test says so."""

    def __init__(self, step, optimizer, error=None):
        self.step, self.optimizer, self.error, self.complete = step, optimizer, error, False
        self.name = f"checkpoints/step-{step:08d}/manifest.json"

    def done(self):
        return self.complete

    def wait(self):
        self.complete = True
        if self.error:
            raise self.error
        return Manifest(self.name, "d", self.step, 1, "a", self.step if self.optimizer else None, (Stored("f", 7, ""),), {})


@pytest.fixture
def saves():
    return []


@pytest.fixture
def checkpoints(events, saves):
    def saver(state, optimizer):
        saves.append(Save(state.step, optimizer))
        return saves[-1]

    return CheckpointWatch(saver, events, every=4, steps=10)


def test_it_saves_when_due_and_after_the_last_step_and_once_a_step(checkpoints, saves):
    for step in range(1, 11):
        checkpoints.watch(State(step), report(step - 1))
    assert checkpoints.save(State(10), optimizer=False) == saves[-1].name
    assert [(save.step, save.optimizer) for save in saves] == [(4, True), (8, True), (10, True)]
    assert checkpoints.last(State(10)) == saves[-1].name
    assert saves[-1].complete


def test_older_ones_go_only_when_a_new_one_is_complete(checkpoints, saves, storage):
    let_go = []
    checkpoints.retain = lambda: let_go.append(len(let_go))
    for step in (4, 5):
        checkpoints.watch(State(step), report(step - 1))
    assert let_go == []
    saves[0].complete = True
    checkpoints.watch(State(6), report(5))
    assert let_go == [0]
    assert told(storage)[-1] == ("checkpoint_complete", 4)


def test_what_went_wrong_in_the_background_ends_the_run(checkpoints, saves):
    checkpoints.watch(State(4), report(3))
    saves[0].error, saves[0].complete = StorageError("the disk is full"), True
    with pytest.raises(StorageError, match="the disk is full"):
        checkpoints.watch(State(5), report(4))


class Evaluation:
    """What the watch of evaluation asks of the evaluation itself, with every call noted."""

    placement, wants_stop, best_manifest, patient = "actors", False, None, False

    def __init__(self):
        self.started, self.protected = [], {"best"}

    def due(self, step):
        return step % 2 == 0

    def start(self, step, manifest):
        self.started.append((step, manifest))

    def poll(self):
        return []

    def finish(self):
        self.started.append("awaited")
        return []


def test_training_waits_for_the_evaluation_before_where_none_may_be_dropped(checkpoints, saves):
    evaluation = Evaluation()
    evaluation.patient = True
    watch = EvaluateWatch(evaluation, checkpoints)
    for step in range(1, 5):
        checkpoints.watch(State(step), report(step - 1))
        watch.watch(State(step), report(step - 1))
    assert evaluation.started == ["awaited", (2, saves[0].name), "awaited"]


def test_an_evaluation_starts_when_its_weights_stand_and_they_are_protected_until_then(checkpoints, saves):
    evaluation = Evaluation()
    watch = EvaluateWatch(evaluation, checkpoints)
    for step in (1, 2, 3):
        checkpoints.watch(State(step), report(step - 1))
        watch.watch(State(step), report(step - 1))
    assert [(save.step, save.optimizer) for save in saves] == [(2, False)]
    assert (evaluation.started, watch.protected()) == ([], {"best", saves[0].name})
    for step in (4, 5):
        checkpoints.watch(State(step), report(step - 1))
        watch.watch(State(step), report(step - 1))
    assert evaluation.started == [(2, saves[0].name)]
    assert [(save.step, save.optimizer) for save in saves] == [(2, False), (4, True)]
    watch.finish()
    assert evaluation.started == [(2, saves[0].name), (4, saves[1].name), "awaited"]
