"""The book of a study: what is begun when, what each change writes, what a cut study goes on with, when the budget ends it."""

import json
import time

import pytest

from tunefleet.cluster.lease import Lease
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.handover import Pointer
from tunefleet.trainers.output import LEASE
from tunefleet.trainers.stopping import asked_to_stop
from tunefleet.tuning.keeper import Keeper, Limits
from tunefleet.tuning.lines import FAILED, last_lines, read_trials
from tunefleet.tuning.standings import spent
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


def last(keeper, trial="00000"):
    return last_lines(lines(keeper))[trial]


def write_end(keeper, trial, told, *, after=1.0):
    """What a start of a trial writes at its end, that began so long after the last start known."""
    told = {**told, "began": keeper._since[trial] + after}
    open_storage(keeper.trials[trial].output).put(TRIAL, json.dumps(told).encode())


def write_lines(keeper, trial, *, reached, seconds):
    """What a trial of one worker writes from now on that takes some steps, and what its group costs by then."""
    output, now = open_storage(keeper.trials[trial].output), time.time()
    events = [
        {"event": "group_started", "workers": [{}], "time": now + 1},
        {"event": "training_started", "attempt": 1, "step": 0, "steps": 90, "time": now + 2},
    ]
    output.put("events.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode())
    output.put("metrics.jsonl", (json.dumps({"step": reached, "attempt": 1, "time": now + 1 + seconds}) + "\n").encode())


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
    write_end(keeper, "00000", result(10, 3.0, 14, ended="stopped"))
    clock.s += 1
    keeper.settle()
    assert swept == [1]
    assert keeper.trials["00000"].compute == {"steps": 14, "worker_seconds": 28.0}
    assert begin(keeper) == "00001"


def test_a_trial_that_was_done_before_it_could_be_stopped_counts_as_finished(make, clock):
    keeper = make(0.1)
    begin(keeper)
    keeper.ended("00000", result(10, 3.0, 10))
    write_end(keeper, "00000", result(40, 2.0, 40, ended="finished"))
    clock.s += 1
    keeper.settle()
    line = last_lines(lines(keeper))["00000"]
    assert (line.status, line.step, line.metrics, line.why) == ("finished", 40, {"loss": 2.0}, "")


def test_a_stopped_trial_that_never_ends_is_given_up_after_its_time_with_what_its_lines_say_that_it_cost(make, clock):
    keeper = make(0.1, 0.2, live=1)
    begin(keeper)
    keeper.ended("00000", result(10, 3.0, 10))
    clock.s += END_S
    keeper.settle()
    assert keeper.next() is None
    write_lines(keeper, "00000", reached=17, seconds=8.0)
    clock.s += END_S + 1
    keeper.settle()
    assert last(keeper).compute == {"steps": 17, "worker_seconds": 20.0}
    assert begin(keeper) == "00001"


def test_what_an_earlier_start_of_a_trial_wrote_late_is_not_taken_for_the_end_of_its_last(make, clock):
    keeper = make(0.1, 0.2, live=1)
    begin(keeper)
    keeper.started("00000", {KEY: 0.08}, Pointer("/study/trials/00007", "m", "d", 40, "mark"))
    keeper.ended("00000", result(60, 2.0, 20))
    write_end(keeper, "00000", result(40, 9.0, 4, ended="stopped"), after=-1.0)
    clock.s += 1
    keeper.settle()
    assert keeper.next() is None
    write_end(keeper, "00000", result(60, 2.0, 23, ended="stopped"), after=0.0)
    clock.s += 1
    keeper.settle()
    assert (last(keeper).step, last(keeper).metrics, last(keeper).compute["steps"]) == (60, {"loss": 2.0}, 23)
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


def test_a_trial_that_the_budget_ended_goes_on_where_it_is_raised_and_nothing_of_it_counts_as_saved_by_the_stopper(make, clock):
    keeper = make(0.1, 0.2, max_steps=25)
    begin(keeper)
    begin(keeper)
    for step in (20, 40):
        keeper.reported("00000", result(step, 2.0, step))
    keeper.ended("00000", result(40, 2.0, 40))
    write_end(keeper, "00000", result(40, 2.0, 41, ended="stopped"))
    keeper.ended("00001", result(0, None, 0, ended="stopped", why="budget.wall_time_s is spent"))
    clock.s += 1
    keeper.settle()
    assert keeper.over()
    assert [(line.status, line.cut, line.why.partition(":")[0]) for line in last_lines(lines(keeper)).values()] == [
        ("stopped", True, "budget.max_steps is spent"),
        ("stopped", True, "budget.wall_time_s is spent"),
    ]
    assert keeper.searcher.told == []
    assert spent(last_lines(lines(keeper)).values(), 100).saved_steps == 0
    written = lines(keeper)
    same = make(max_steps=25, earlier=written)
    assert (same.next(), same.over(), lines(same)) == (None, True, written)
    raised = make(max_steps=100, earlier=written)
    assert [begin(raised), begin(raised)] == ["00000", "00001"]
    assert [(line.status, line.cut, line.why) for line in last_lines(lines(raised)).values()] == [("running", False, "")] * 2


def test_what_a_killed_study_left_running_is_not_said_to_run_where_its_budget_is_spent(make):
    keeper = make(0.1, 0.2)
    begin(keeper)
    keeper.reported("00000", result(20, 2.0, 20))
    again = make(earlier=lines(keeper), max_steps=20)
    assert (again.next(), again.over()) == (None, True)
    assert (last(again).status, last(again).cut) == ("stopped", True)


def test_trials_that_wait_for_their_turn_hold_nothing_up_when_they_are_told_to_end(make, clock):
    keeper = make(0.1, 0.2, 0.3, live=3, max_steps=20)
    begin(keeper)
    keeper.next()
    keeper.next()
    keeper.ended("00001", {})  # its process had not started
    keeper.reported("00000", result(20, 2.0, 20))
    keeper.ended("00000", result(20, 2.0, 20))
    write_end(keeper, "00000", result(20, 2.0, 20, ended="stopped"))
    keeper.died("00002", "gone")
    keeper.ended("00002", {})
    clock.s += 1
    keeper.settle()
    assert keeper.over()
    assert [(line.status, line.cut) for line in last_lines(lines(keeper)).values()] == [("stopped", True), ("stopped", False), ("stopped", True)]


def test_parameters_that_pbt_changes_are_a_line_with_the_checkpoint_that_they_came_with_which_a_resume_still_knows(make):
    keeper = make(0.1, 0.2)
    begin(keeper)
    begin(keeper)
    given = Pointer("/study/trials/00000", "checkpoints/step-00000040/manifest.json", "d", 40, "m")
    keeper.started("00001", {KEY: 0.08}, given)
    written = lines(keeper)
    assert (written[-1].id, written[-1].parameters, written[-1].parent["id"], written[-1].parent["step"]) == ("00001", {KEY: 0.08}, "00000", 40)
    assert written[-1].pointer() == given
    keeper.started("00001", {KEY: 0.08}, given)
    keeper.started("00001", {KEY: 0.08}, Pointer("/study/trials/00001", "checkpoints/step-00000080/manifest.json", "d", 80, "o"))
    keeper.started("00001", {KEY: 0.08}, None)
    assert lines(keeper) == written
    keeper.started("00001", {KEY: 0.08}, Pointer(given.output, given.manifest, given.digest, 40, "again"))  # the same parameters as before
    assert lines(keeper)[-1].pointer().mark == "again"


def test_a_study_that_is_to_end_asks_its_trials_time_and_again_and_goes_on_with_them_later(make, clock):
    keeper = make(1e-3, 1e-2, 1e-1)
    first, second = begin(keeper), begin(keeper)
    output = open_storage(keeper.trials[first].output)
    keeper.leave()
    keeper.settle()  # it holds its output only now
    held = Lease.acquire(output, LEASE, holder="trial")
    assert asked_to_stop(output, held.fence) is None
    clock.s += 1
    keeper.settle()
    assert asked_to_stop(output, held.fence)
    assert keeper.next() is None
    keeper.ended(first, result(7, 0.5, 7, ended="stopped", why="stopped on request"))
    keeper.ended(second, result(9, 0.4, 9, ended="finished"))
    held.release()
    assert keeper.over()
    assert {line.id: (line.status, line.step) for line in last_lines(lines(keeper)).values()} == {first: ("running", 7), second: ("finished", 9)}
    keeper.close()
    assert make(1e-3, earlier=lines(keeper)).next().id == first


def test_what_fails_or_dies_while_a_study_is_ending_goes_on_later_and_what_its_stopper_gave_up_does_not(make, clock):
    keeper = make(0.1, 0.2, 0.3, 0.4, live=4, why={"00003": "stopped at step 10: slow"}.get)
    for _ in range(4):
        begin(keeper)
    keeper.leave()
    keeper.ended("00000", result(7, 0.5, 7, ended="failed", why="a worker was killed"))
    keeper.ended("00001", result(7, 0.5, 7), died=True)
    keeper.ended("00002", result(7, 0.5, 7))  # it waited for its turn
    keeper.ended("00003", result(10, 0.5, 10))
    assert not keeper.over()
    for name in ("00002", "00003"):
        write_end(keeper, name, result(10, 0.5, 12, ended="stopped"))
    clock.s += 1
    keeper.settle()
    assert keeper.over()
    assert [line.status for line in last_lines(lines(keeper)).values()] == ["running", "running", "running", "stopped"]
    assert keeper.searcher.told == [("00003", 0.5, False)]
    assert keeper.steps() == 7 + 7 + 12 + 12


def test_what_a_dead_trial_held_is_looked_for_as_long_as_its_next_start_may_wait_for_it(make, clock):
    swept = []
    keeper = make(0.1, gone=lambda: swept.append(clock.s))
    begin(keeper)
    for _ in range(10):
        clock.s += 1
        keeper.settle()
    assert swept == []
    keeper.died("00000", "its worker was killed")
    for _ in range(12):
        clock.s += 1
        keeper.settle()
    keeper.started("00000", {KEY: 0.1}, None)
    for _ in range(6):
        clock.s += 1
        keeper.settle()
    assert swept == [11, 16, 21, 26]
    keeper.ended("00000", result(10, 1.0, 10, ended="finished"))
    assert swept[4:] == [28]


def test_no_secret_of_an_error_is_written_or_shown(make, tmp_path):
    shown = []
    keeper = Keeper(open_storage(tmp_path), Listed(0.1), Limits(1, Budget()), changed=lambda line, trials: shown.append((line, dict(trials))))
    begin(keeper)
    keeper.ended("00000", {"ended": "failed", "why": "GET https://bucket/key?X-Amz-Signature=0123456789abcdef: 403"})
    assert "0123456789abcdef" not in (tmp_path / "trials.jsonl").read_text() + repr(shown)
    assert "403" in last(keeper).why
    assert shown[-1][1]["00000"] is shown[-1][0]


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
    write_lines(keeper, name, reached=17, seconds=8.0)
    keeper.reported(name, result(10, 3.0, 10))
    if dies:
        keeper.ended(name, result(10, 3.0, 10), died=True)
    else:
        keeper.died(name, "gone")
        keeper.started(name, {KEY: 0.1}, None)
    assert keeper.trials[name].compute == {"steps": 17, "worker_seconds": 20.0}
    assert keeper.steps() == 17
    if not dies:
        keeper.reported(name, result(20, 2.0, 10))
        assert keeper.trials[name].compute == {"steps": 27, "worker_seconds": 40.0}
