"""The watch: what it writes, protects, decides and replays. Numbers are scripted here; tests/gang and tests/ray compute them."""

import json
from dataclasses import dataclass, field

import pytest

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.world import World
from tunefleet.trainers.console import SAID, describe
from tunefleet.trainers.evaluation.files import base_key, digest, read_base, read_results, result_name, write_base
from tunefleet.trainers.evaluation.outcome import Outcome
from tunefleet.trainers.evaluation.policy import Queue, Ticket
from tunefleet.trainers.evaluation.rows import RowScores
from tunefleet.trainers.evaluation.watch import EvaluationWatch
from tunefleet.trainers.run import RunFile


def run_file(**evaluation):
    return RunFile.model_validate(
        {
            "model": {"name_or_path": "m"},
            "data": {"train": [{"path": "x"}]},
            "training": {"max_steps": 100},
            "evaluation": {"every_steps": 10, **evaluation},
            "output": "o",
        }
    )


@dataclass
class Script:
    """A place of evaluation whose losses are known beforehand, and which is as slow as the test says."""

    losses: dict
    queue: Queue = field(default_factory=Queue)

    def begin(self, step):
        pass

    def submit(self, ticket):
        self.queue, self.dropped = self.queue.offer(ticket)

    def wait(self, timeout_s):
        return [self.arrive()] if self.queue.working and timeout_s else []

    def busy(self):
        return self.queue.working is not None

    def give_up(self, why):
        raise AssertionError(why)

    def arrive(self):
        ticket, self.queue = self.queue.working, self.queue.done()
        loss = self.losses[ticket.step]
        if isinstance(loss, str):
            return Outcome(ticket, 1.0, error=loss)
        numbers = {"rows": 3, "tuned": {"loss": loss}, "base": {"loss": 4.0}, "difference": {}, "failed": {}, "sets": {}}
        return Outcome(ticket, 1.0, {**numbers, **loss} if isinstance(loss, dict) else numbers)

    def names(self):
        return self.queue.names()


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


@pytest.fixture
def events():
    return []


@pytest.fixture
def make(storage, events):
    def watch(losses, **evaluation):
        return EvaluationWatch(
            run_file(**evaluation),
            storage,
            World.single(),
            Script(losses),
            placement="actors",
            steps=100,
            on_event=lambda kind, fields: events.append((kind, fields)),
        )

    return watch


def manifest(storage, step):
    name = f"checkpoints/step-{step:08d}/manifest.json"
    storage.put(name, json.dumps({"step": step}).encode())
    return name


def evaluate(watch, storage, *steps):
    found = []
    for step in steps:
        watch.start(step, manifest(storage, step))
        found += watch.finish()
    return found


def test_a_result_is_written_with_the_step_and_the_hash_of_its_checkpoint(make, storage, events):
    watch = make({10: 3.0})
    evaluate(watch, storage, 10)
    content = json.loads(storage.read("evaluation/step-00000010.json"))
    assert {"version": 1, "step": 10, "rows": 3, "tuned": {"loss": 3.0}, "base": {"loss": 4.0}, "placement": "actors"}.items() <= content.items()
    assert content["checkpoint"] == digest(storage, content["manifest"])
    assert [kind for kind, _ in events] == ["evaluation_finished"]


def test_the_training_stops_when_patience_is_spent_and_says_so_once(make, storage, events):
    watch = make({10: 3.0, 20: 2.0, 30: 2.5, 40: 2.2, 50: 2.6}, early_stopping_patience=2)
    evaluate(watch, storage, 10, 20, 30)
    assert not watch.wants_stop
    evaluate(watch, storage, 40, 50)
    assert watch.wants_stop
    stops = [fields for kind, fields in events if kind == "early_stopping"]
    assert [(s["step"], s["best_step"], s["best"]) for s in stops] == [(40, 20, 2.0)]


def test_what_is_at_work_waiting_or_best_is_protected(make, storage):
    watch = make({10: 2.0, 20: 3.0, 30: 3.0, 40: 3.0})
    evaluate(watch, storage, 10, 20)
    for step in (30, 40):
        watch.start(step, manifest(storage, step))
    assert {name.split("/")[1][-2:] for name in watch.protected} == {"10", "30", "40"}
    watch.finish()
    assert {name.split("/")[1][-2:] for name in watch.protected} == {"10"}


def test_a_metric_that_raises_is_an_event_and_no_number_and_nothing_else_happens(make, storage, events):
    watch = make({10: 3.0, 20: "ValueError: a metric of mine", 30: 2.0}, early_stopping_patience=1)
    evaluate(watch, storage, 10, 20, 30)
    assert [content["step"] for content in read_results(storage)] == [10, 30]
    assert [fields["error"] for kind, fields in events if kind == "evaluation_failed"] == ["ValueError: a metric of mine"]
    assert not watch.wants_stop
    assert watch.best.best_step == 30


def test_a_metric_that_raises_among_others_is_named_in_the_file_the_event_and_the_console(make, storage, events):
    watch = make({10: {"tuned": {"loss": 3.0, "mine": None}, "failed": {"mine": "ValueError: no word"}}})
    (content,) = evaluate(watch, storage, 10)
    assert content["failed"] == {"mine": "ValueError: no word"}
    (said,) = [fields for kind, fields in events if kind == "metric_failed"]
    assert said == {"step": 10, "metric": "mine", "error": "ValueError: no word"}
    assert "metric_failed" in SAID
    assert "mine" in describe({"event": "metric_failed", "time": 1.0, **said})
    assert watch.best.best_value == 3.0


def test_a_resume_replays_the_decision_and_removes_the_branch_that_was_given_up(make, storage, events):
    losses = {10: 2.0, 20: 3.0, 30: 1.0}
    evaluate(make(losses), storage, 10, 20, 30)
    events.clear()
    again = make(losses, early_stopping_patience=1)
    assert again.begin(20, manifest(storage, 20)) == []
    assert again.wants_stop
    assert (again.best.best_step, again.protected) == (10, {manifest(storage, 10)})
    assert [content["step"] for content in read_results(storage)] == [10, 20]
    assert events == [("evaluation_given_up", {"steps": [30], "resumed_at": 20})]


def test_an_evaluation_that_died_with_the_workers_is_started_again(make, storage):
    watch = make({20: 3.0})
    watch.begin(20, manifest(storage, 20))
    assert [content["step"] for content in watch.finish()] == [20]
    other = make({})
    other.begin(25, manifest(storage, 25))
    assert other.finish() == []


def test_evaluations_that_were_at_work_and_waiting_are_asked_for_again_while_their_weights_stand(make, storage):
    for step in (20, 30):
        manifest(storage, step)
    watch = make({20: 3.0, 30: 2.0})
    watch.begin(35, manifest(storage, 35))
    assert [content["step"] for content in watch.finish()] == [20, 30]
    assert watch.best_manifest == manifest(storage, 30)


def test_a_rank_with_nothing_to_do_does_nothing(storage, events):
    watch = EvaluationWatch(run_file(), storage, World.single(), None, placement="actors", steps=100, on_event=lambda *e: events.append(e))
    assert watch.begin(0, None) == watch.start(10, manifest(storage, 10)) == watch.poll() == watch.finish() == []
    assert (watch.wants_stop, watch.protected, events) == (False, set(), [])


def test_the_base_is_kept_for_the_same_model_rows_and_parts_only(storage):
    run = run_file()
    key = base_key(run, "data-1")
    rows = RowScores.from_json({"ids": [0, 1], "sums": {"nll": [1.5, 2.5], "tokens": [1, 2]}})
    assert read_base(storage, key, {"nll", "tokens"}) is None
    write_base(storage, key, rows, {"loss": 4 / 3})
    kept = read_base(storage, key, {"nll", "tokens"})
    assert kept is not None
    assert kept.to_json() == rows.to_json()
    for more in ("correct", "answer"):
        assert read_base(storage, key, {more}) is None
    assert read_base(storage, base_key(run, "data-2"), {"nll", "tokens"}) is None
    other = run.model_copy(update={"model": run.model.model_copy(update={"name_or_path": "n"})})
    assert base_key(other, "data-1") != key
    quicker = run.model_copy(update={"scaling": run.scaling.model_copy(update={"num_workers": 7}), "evaluation": run_file(batch_size=3).evaluation})
    assert base_key(quicker, "data-1") == key


def test_numbers_that_never_come_count_as_failed_and_the_next_are_awaited(make, storage, events):
    @dataclass
    class Stuck(Script):
        def wait(self, timeout_s):
            return [] if self.queue.working and self.queue.working.step == 10 else super().wait(timeout_s)

        def give_up(self, why):
            ticket, self.queue = self.queue.working, self.queue.done()
            return [Outcome(ticket, 1.0, error=why)]

    run = run_file()
    run = run.model_copy(update={"failures": run.failures.model_copy(update={"hang_timeout_s": 1e-6})})
    on_event = lambda kind, fields: events.append((kind, fields["step"]))  # noqa: E731
    watch = EvaluationWatch(run, storage, World.single(), Stuck({20: 2.0}), placement="actors", steps=100, on_event=on_event)
    for step in (10, 20):
        watch.start(step, manifest(storage, step))
    assert [content["step"] for content in watch.finish()] == [20]
    assert events == [("evaluation_failed", 10), ("evaluation_finished", 20)]


def test_a_file_that_is_no_evaluation_is_named(storage):
    storage.put(result_name(5), b"{")
    with pytest.raises(StorageError, match=r"step-00000005\.json is no JSON"):
        read_results(storage)


def test_tickets_of_ranks_that_score_what_they_hold_need_no_checkpoint(make, storage):
    watch = make({10: 3.0})
    watch.start(10, None)
    (content,) = watch.finish()
    assert (content["checkpoint"], content["manifest"], watch.protected) == (None, None, set())
    assert Ticket(10, None) == Ticket(10, None, None)
