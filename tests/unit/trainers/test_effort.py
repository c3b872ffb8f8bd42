"""Whose fault a slow step is: the rank that itself needed long, not those that waited for it."""

import pytest

from tunefleet.cluster import heartbeat
from tunefleet.trainers.effort import Effort, Straggler, slowest, straggler, waiting


def test_own_seconds_are_a_mean_over_the_steps_since_the_last_question():
    effort = Effort(on_cpu=True)
    effort.add(2.0, 0.5, 1.0)
    effort.add(2.0, 0.0, 0.5)
    assert effort.take() == pytest.approx((1.0, 2.0))
    assert effort.take() == (0.0, 0.0)


def test_a_thread_that_spins_for_a_gpu_is_not_at_work():
    effort = Effort(on_cpu=False)
    effort.add(2.0, 0.5, 9.0)
    assert effort.take()[0] == pytest.approx(0.5)


def test_a_process_that_was_stopped_needed_that_long_itself(monkeypatch):
    effort = Effort(on_cpu=True)
    effort.add(2.0, 0.0, 1.0)
    monkeypatch.setattr(heartbeat, "_stalled_s", heartbeat.stalled_s() + 20.0)
    assert effort.take()[0] == pytest.approx(21.0)


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        ([0.1, 20.0], Straggler(1, 20.0, 0.1)),
        ([3.0, 1.0, 1.1, 0.9], Straggler(0, 3.0, 1.0)),
        ([0.1, 0.3], None),
        ([1.0, 1.9], None),
        ([5.0], None),
    ],
)
def test_a_straggler_is_far_slower_than_the_others_in_proportion_and_in_seconds(seconds, found):
    assert straggler(seconds) == found


def test_the_slowest_is_named_even_where_nobody_is_late():
    assert slowest([0.1, 0.3, 0.2]) == 1


def test_time_in_which_nobody_worked_was_the_networks():
    assert waiting([0.1, 0.2], 1.0) == pytest.approx(0.8)
    assert waiting([0.1, 1.2], 1.0) == 0.0
    assert waiting([0.1], 1.0) == 0.0
