"""The book of a study: what is begun when, what each change writes, what a cut study goes on with, when the budget ends it."""

import json
import threading
import time

import pytest
from processes import until

from tunefleet.cluster.lease import Lease
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.handover import Pointer
from tunefleet.trainers.output import LEASE
from tunefleet.trainers.stopping import asked_to_stop
from tunefleet.tuning.keeper import Keeper, Limits
from tunefleet.tuning.lines import FAILED, last_lines, read_trials
from tunefleet.tuning.study import Budget
from tunefleet.tuning.trial import END_S, TRIAL

KEY = "training.learning_rate"


class Listed:
    """A searcher over a list of learning rates."""

    def __init__(self, *rates):
        self.rates, self.told = list(rates), []

    def suggest(self, trial_id):
        return {KEY: self.rates.pop(0)} if self.rates else None

    def ended(self, line):
        self.told.append((line.id, line.metrics.get("loss"), line.status == FAILED))


@pytest.fixture
def clock():
    def now():
        return now.s

    now.s = 0.0
    return now


@pytest.fixture
def make(tmp_path, clock):
    def keeper(*rates, live=2, earlier=(), why=lambda trial: None, gone=lambda: None, **budget):
        return Keeper(open_storage(tmp_path), Listed(*rates), Limits(live, Budget(**budget)), earlier, why=why, gone=gone, clock=clock)

    return keeper


def result(step, loss, steps, **more):
    return {"step": step, "metrics": {"loss": loss}, "cost": {"steps": steps, "worker_seconds": 2.0 * steps}, **more}


def lines(keeper):
    return read_trials(keeper.storage)


def begin(keeper):
    begun = keeper.next()
    keeper.started(begun.id, begun.parameters, None)
    return begun.id


def test_as_many_trials_are_live_as_there_is_room_for_and_each_has_a_name_a_line_and_an_output(make):
    keeper = make(0.1, 0.2, 0.3)
    assert [begin(keeper), begin(keeper), keeper.next()] == ["00000", "00001", None]
    assert not keeper.over()
    keeper.ended("00000", result(20, 1.5, 20, ended="finished", why=""))
    assert begin(keeper) == "00002"
    first = lines(keeper)[0]
    assert (first.number, first.parameters, first.status, first.output) == (0, {KEY: 0.1}, "running", f"{keeper.storage.address}/trials/00000")
    assert keeper.searcher.told == [("00000", 1.5, False)]
    for name in ("00001", "00002"):
        keeper.ended(name, result(20, 1.0, 20, ended="finished", why=""))
    assert keeper.next() is None
    assert keeper.over()


def test_a_stopped_trial_holds_its_room_until_its_workers_have_gone_and_then_says_what_it_cost(make, clock):
    swept = []
    keeper = make(0.1, 0.2, live=1, why={"00000": "stopped at step 10: too slow"}.get, gone=lambda: swept.append(clock()))
    begin(keeper)
    keeper.reported("00000", result(10, 3.0, 11))
    keeper.ended("00000", result(10, 3.0, 11))
    assert (keeper.trials["00000"].status, keeper.trials["00000"].why) == ("stopped", "stopped at step 10: too slow")
    keeper.settle()
    assert keeper.next() is None
    assert swept == []
    open_storage(keeper.trials["00000"].output).put(TRIAL, json.dumps(result(10, 3.0, 14, ended="stopped")).encode())
    clock.s += 1
    keeper.settle()
    assert swept == [1]
    assert keeper.trials["00000"].compute == {"steps": 14, "worker_seconds": 28.0}
    assert begin(keeper) == "00001"


def test_a_trial_that_was_done_before_it_could_be_stopped_counts_as_finished(make, clock):
    keeper = make(0.1)
    begin(keeper)
    keeper.ended("00000", result(10, 3.0, 10))
    open_storage(keeper.trials["00000"].output).put(TRIAL, json.dumps(result(40, 2.0, 40, ended="finished")).encode())
    clock.s += 1
    keeper.settle()
    line = last_lines(lines(keeper))["00000"]
    assert (line.status, line.step, line.metrics, line.why) == ("finished", 40, {"loss": 2.0}, "")


def test_a_stopped_trial_that_never_ends_is_given_up_after_its_time(make, clock):
    keeper = make(0.1, 0.2, live=1)
    begin(keeper)
    keeper.ended("00000", result(10, 3.0, 10))
    clock.s += END_S
    keeper.settle()
    assert keeper.next() is None
    clock.s += END_S + 1
    keeper.settle()
    assert begin(keeper) == "00001"


def test_a_trial_that_fails_or_dies_is_recorded_and_the_study_goes_on(make):
    keeper = make(0.1, 0.2, 0.3, live=1)
    begin(keeper)
    keeper.ended("00000", result(0, None, 3, ended="failed", why="the gradients are not finite"))
    keeper.next()  # its process never came up
    keeper.ended("00001", {}, died=True)
    assert [(line.status, bool(line.why)) for line in last_lines(lines(keeper)).values()] == [("failed", True)] * 2
    assert [error for _, _, error in keeper.searcher.told] == [True, True]
    assert begin(keeper) == "00002"


def test_a_cut_study_goes_on_with_what_had_begun_before_anything_new_and_adds_up_its_cost(make):
    keeper = make(0.1, 0.2, 0.3)
    begin(keeper)
    begin(keeper)
    keeper.ended("00000", result(20, 1.5, 20, ended="finished", why=""))
    keeper.reported("00001", result(10, 2.0, 10))
    again = make(0.3, earlier=lines(keeper))
    assert [begin(again), begin(again)] == ["00001", "00002"]
    again.reported("00001", result(20, 1.9, 12))
    assert again.trials["00001"].compute["steps"] == 22
    assert again.trials["00000"].status == "finished"
    assert again.steps() == 42


def test_no_trial_begins_once_the_steps_or_the_time_are_spent(make, clock):
    keeper = make(0.1, 0.2, 0.3, max_steps=25)
    begin(keeper)
    keeper.reported("00000", result(20, 2.0, 20))
    assert keeper.spent() is None
    keeper.reported("00000", result(30, 2.0, 30))
    assert "30 of 25 steps" in keeper.spent()
    assert keeper.next() is None
    keeper.ended("00000", result(30, 2.0, 30, ended="finished", why=""))
    assert keeper.over()
    timed = make(0.1, wall_time_s=60.0, earlier=())
    clock.s += 61
    assert "wall_time_s" in timed.spent()
    assert timed.over()


def test_parameters_that_pbt_changes_are_a_line_with_the_checkpoint_that_they_came_with(make):
    keeper = make(0.1, 0.2)
    begin(keeper)
    begin(keeper)
    keeper.started("00001", {KEY: 0.08}, Pointer("/study/trials/00000", "checkpoints/step-00000040/manifest.json", "d", 40, "m"))
    last = lines(keeper)[-1]
    assert (last.id, last.parameters, last.parent) == ("00001", {KEY: 0.08}, {"id": "00000", "step": 40})
    keeper.started("00001", {KEY: 0.08}, None)
    assert lines(keeper)[-1] == last


def test_a_study_that_is_to_end_asks_its_trials_and_goes_on_with_them_later(make, clock):
    keeper = make(1e-3, 1e-2, 1e-1)
    first, second = begin(keeper), begin(keeper)
    held = Lease.acquire(open_storage(keeper.trials[first].output), LEASE, holder="trial")
    thread = threading.Thread(target=keeper.leave)
    thread.start()
    until(lambda: asked_to_stop(open_storage(keeper.trials[first].output), held.fence))
    assert keeper.next() is None
    keeper.ended(first, result(7, 0.5, 7, ended="stopped", why="stopped on request"))
    keeper.ended(second, result(9, 0.4, 9, ended="finished"))
    thread.join(30)
    held.release()
    assert keeper.over()
    assert {line.id: (line.status, line.step) for line in last_lines(lines(keeper)).values()} == {first: ("running", 7), second: ("finished", 9)}
    keeper.close()
    assert make(1e-3, earlier=lines(keeper)).next().id == first


def test_a_trial_that_was_given_up_just_before_the_study_was_cut_does_not_go_on(make):
    keeper = make(0.1, 0.2)
    begin(keeper)
    keeper.reported("00000", result(10, 3.0, 10))
    again = make(0.2, earlier=lines(keeper), why={"00000": "stopped at step 10: slow"}.get)
    assert (again.trials["00000"].status, again.trials["00000"].why) == ("stopped", "stopped at step 10: slow")
    assert again.searcher.told == [("00000", 3.0, False)]
    assert begin(again) == "00001"


@pytest.mark.parametrize("dies", [True, False])
def test_steps_that_a_trial_did_after_its_last_report_count_where_its_process_died(make, dies):
    keeper = make(0.1)
    name = begin(keeper)
    output, now = open_storage(keeper.trials[name].output), time.time()
    events = [
        {"event": "group_started", "workers": [{}], "time": now + 1},
        {"event": "training_started", "attempt": 1, "step": 0, "steps": 90, "time": now + 2},
    ]
    output.put("events.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode())
    output.put("metrics.jsonl", (json.dumps({"step": 17, "attempt": 1, "time": now + 9}) + "\n").encode())
    keeper.reported(name, result(10, 3.0, 10))
    if dies:
        keeper.ended(name, result(10, 3.0, 10), died=True)
    else:
        keeper.started(name, {KEY: 0.1}, None)
    assert keeper.trials[name].compute == {"steps": 17, "worker_seconds": 20.0}
    assert keeper.steps() == 17
    if not dies:
        keeper.reported(name, result(20, 2.0, 10))
        assert keeper.trials[name].compute == {"steps": 27, "worker_seconds": 40.0}
