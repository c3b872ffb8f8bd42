"""The policy on failures: budgets are keyed on progress, and what would fail again is not tried again."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.errors import CheckpointError, DataError, SettingsError, StorageError, WorkerError
from tunefleet.cluster.failures import Budget, Failure, RaisedError, Verdict, final_error

DEATH = Failure("died", "killed", (1,))


def run_through(budget, events):
    """Verdicts for (failure, progress) pairs, up to the first that stops."""
    verdicts = []
    for failure, progress in events:
        budget, verdict = budget.after(failure, progress)
        verdicts.append(verdict.restart)
        if not verdict.restart:
            break
    return verdicts


def test_deaths_without_progress_spend_the_budget():
    assert run_through(Budget(3, 0), [(DEATH, 0)] * 9) == [True, True, True, False]


def test_a_budget_of_zero_allows_no_restart():
    assert run_through(Budget(0, 0), [(DEATH, 50)]) == [False]


@given(st.integers(1, 5), st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_a_run_that_gets_on_is_restarted_for_ever(allowed, growth):
    progress, events = 0, []
    for step in growth:
        progress += step
        events.append((DEATH, progress))
    assert run_through(Budget(allowed, 0), events) == [True] * len(events)


@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from(["died", "hung", "lost", "raised"]), st.booleans()), max_size=60))
def test_no_sequence_of_failures_restarts_more_often_in_a_row_than_allowed(allowed, failures):
    budget, progress, since = Budget(allowed, 0), 0, 0
    for kind, grew in failures:
        progress += grew
        since = 1 if grew else since + 1
        budget, verdict = budget.after(Failure(kind, "x"), progress)
        assert verdict.restart == (since <= allowed)
        if not verdict.restart:
            return


def test_progress_that_shrinks_refills_nothing():
    assert run_through(Budget(1, 100), [(DEATH, 50), (DEATH, 100)]) == [True, False]


def test_the_same_exception_twice_without_progress_stops_early():
    crash = Failure("raised", "ValueError: x (a.py:1)", (0,), signature="ValueError@a.py:1")
    other = Failure("raised", "KeyError: x (b.py:1)", (0,), signature="KeyError@b.py:1")
    assert run_through(Budget(9, 0), [(crash, 0), (crash, 0)]) == [True, False]
    assert run_through(Budget(9, 0), [(crash, 0), (crash, 10), (crash, 20)]) == [True, True, True]
    assert run_through(Budget(9, 0), [(crash, 0), (other, 0), (crash, 0)]) == [True, True, True]


@pytest.mark.parametrize("kind", [SettingsError, DataError])
def test_a_wrong_request_stops_at_once_and_comes_out_as_itself(kind):
    error = kind("wrong", got="x", fix="y")
    failure = Failure("raised", error.headline(), (1,), signature="s", error=error)
    assert run_through(Budget(9, 0), [(failure, 10)]) == [False]
    assert final_error(failure, Verdict(False, "")) is error


@pytest.mark.parametrize("kind", [StorageError, CheckpointError])
def test_our_other_errors_may_pass_and_are_tried_again(kind):
    error = kind("trouble")
    failure = Failure("raised", error.headline(), (1,), signature="s", error=error)
    assert run_through(Budget(9, 0), [(failure, 0), (failure, 0)]) == [True, False]
    assert final_error(failure, Verdict(False, "")) is error


def test_preemption_costs_nothing():
    taken = Failure("preempted", "node went")
    assert run_through(Budget(1, 0), [(taken, 0)] * 50) == [True] * 50


@pytest.mark.parametrize("kind", ["start", "internal"])
def test_what_cannot_be_started_is_not_tried_for_ever(kind):
    assert run_through(Budget(9, 0), [(Failure(kind, "no room"), 0)]) == [False]


@pytest.mark.parametrize("kind", ["raised", "died", "hung", "lost", "start", "preempted", "internal"])
def test_the_final_error_names_rank_cause_and_reason(kind):
    error = final_error(Failure(kind, "the cause", (0, 2)), Verdict(False, "the reason"))
    assert type(error) is WorkerError
    assert "ranks 0, 2" in error.what
    assert "the cause" in error.what
    assert error.got == "the reason"


def test_a_raised_error_crosses_processes():
    error = RaisedError("ValueError", "message", "a.py:3", "trace", False)
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
