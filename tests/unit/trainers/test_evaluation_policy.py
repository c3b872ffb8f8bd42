"""What is due, what waits, what is best, when to stop."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.trainers.evaluation.policy import Judgement, Queue, Ticket, due, judge, place
from tunefleet.trainers.run import RunFile


def run_file(**sections):
    base = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 10}, "output": "o"}
    return RunFile.model_validate({**base, **sections})


def values(*numbers):
    return [((i + 1) * 10, number) for i, number in enumerate(numbers)]


def test_patience_counts_evaluations_after_the_best():
    assert judge(values(3.0, 2.0, 2.5), mode="min", patience=2) == Judgement(20, 2.0, 1, False)
    assert judge(values(3.0, 2.0, 2.5, 2.1), mode="min", patience=2) == Judgement(20, 2.0, 2, True)
    assert judge(values(3.0, 2.0, 2.5, 1.9), mode="min", patience=2) == Judgement(40, 1.9, 0, False)


def test_larger_is_better_when_the_mode_says_so():
    assert judge(values(0.1, 0.4, 0.3), mode="max", patience=1) == Judgement(20, 0.4, 1, True)


def test_an_equal_value_is_no_better_and_the_earliest_is_the_best():
    assert judge(values(2.0, 2.0, 2.0), mode="min", patience=2) == Judgement(10, 2.0, 2, True)


def test_a_value_that_is_missing_or_not_finite_is_never_best_but_counts():
    assert judge(values(None, math.nan, math.inf), mode="min", patience=3) == Judgement(None, None, 3, True)
    assert judge(values(2.0, None), mode="min", patience=1).stop
    assert judge(values(2.0, math.inf), mode="max", patience=5).best_step == 10


def test_without_patience_nothing_stops():
    assert not judge(values(*[1.0] * 50), mode="min", patience=None).stop
    assert judge([], mode="min", patience=1) == Judgement()


@given(st.lists(st.floats(allow_nan=True) | st.none(), max_size=30), st.integers(1, 5))
def test_a_replay_of_the_same_values_decides_the_same_and_a_stop_comes_at_most_once_per_prefix(numbers, patience):
    judged = [judge(values(*numbers[:i]), mode="min", patience=patience) for i in range(len(numbers) + 1)]
    assert judged == [judge(values(*numbers[:i]), mode="min", patience=patience) for i in range(len(numbers) + 1)]
    usable = [n for n in numbers if n is not None and math.isfinite(n)]
    assert judged[-1].best_value == (min(usable) if usable else None)
    assert all(j.stop == (j.since_best >= patience) for j in judged)


def test_the_last_step_is_always_due_and_step_zero_never():
    assert [s for s in range(11) if due(s, every=4, steps=10)] == [4, 8, 10]
    assert [s for s in range(11) if due(s, every=None, steps=10)] == [10]


def test_the_older_waiting_one_gives_way_and_what_is_at_work_never():
    a, b, c = (Ticket(step, f"checkpoints/{step}") for step in (1, 2, 3))
    queue, dropped = Queue().offer(a)
    assert (queue.working, dropped) == (a, None)
    queue, dropped = queue.offer(b)
    assert (queue, dropped) == (Queue(a, b), None)
    queue, dropped = queue.offer(c)
    assert (queue, dropped) == (Queue(a, c), b)
    assert queue.names() == {"checkpoints/1", "checkpoints/3"}
    assert queue.done() == Queue(c)
    assert queue.done().done() == Queue()


@given(st.lists(st.booleans(), max_size=60))
def test_every_ticket_is_worked_on_or_dropped_and_the_newest_is_never_dropped(moves):
    queue, worked, dropped, step = Queue(), [], [], 0
    for offers in [*moves, True]:
        if offers:
            step += 1
            queue, lost = queue.offer(Ticket(step, None))
            dropped += [lost.step] if lost else []
        elif queue.working:
            worked.append(queue.working.step)
            queue = queue.done()
    while queue.working:
        worked.append(queue.working.step)
        queue = queue.done()
    assert sorted(worked + dropped) == list(range(1, step + 1))
    assert worked == sorted(worked)
    assert worked[-1] == step


@pytest.mark.parametrize(
    ("cpus", "gpus", "sections", "kind"),
    [
        (3, 0, {"scaling": {"num_workers": 2}}, "actors"),
        (2, 0, {"scaling": {"num_workers": 2}}, "inline"),
        (2, 0, {"scaling": {"num_workers": 2}, "evaluation": {"placement": "actors"}}, "actors"),
        (64, 0, {"evaluation": {"placement": "inline"}}, "inline"),
        (64, 8, {"scaling": {"num_workers": 8, "use_gpu": True}, "evaluation": {"resources": {"gpu": 1}}}, "inline"),
        (64, 9, {"scaling": {"num_workers": 8, "use_gpu": True}, "evaluation": {"resources": {"gpu": 1}}}, "actors"),
        (64, 9, {"scaling": {"num_workers": 8, "use_gpu": True}}, "inline"),
        (64, 0, {"data": {"train": [{"path": "x"}], "holdout": 0}}, "none"),
    ],
)
def test_evaluation_runs_beside_the_training_only_where_there_is_room(cpus, gpus, sections, kind):
    placed = place(run_file(**sections), {"CPU": cpus, "GPU": gpus})
    assert placed.kind == kind
    assert placed.why
