"""What we rely on inside Ray Train, and how its errors are read."""

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tunefleet.cluster.errors import SettingsError, StorageError, WorkerError
from tunefleet.cluster.failures import Budget, RaisedError
from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.raytrain import FAILURES, STACKS, Judge, classify
from tunefleet.cluster.storage import open_storage

DEATH = WorkerHealthCheckFailedError("a worker failed", ActorDiedError())
LOST = RaisedError("RuntimeError", "Connection closed by peer", "distributed_c10d.py:1", "trace", True)
CRASH = RaisedError("ValueError", "bad\nmore", "loss.py:3", "trace", False)
OWN = StorageError("disk is full")
APART = WorkerError("no way leads from a to b")


def group_of(**failures):
    return WorkerGroupError("worker errors", {int(rank[1:]): error for rank, error in failures.items()})


@pytest.mark.parametrize("name", ["_create_default_callbacks", "_initialize_and_run_controller", "_register_sigint_handler"])
def test_the_methods_that_we_override_exist(name):
    assert callable(vars(TorchTrainer.__mro__[1]).get(name))


@pytest.mark.parametrize(
    ("error", "kind", "ranks"),
    [
        (group_of(r0=LOST, r1=DEATH), "died", (1,)),
        (group_of(r0=LOST, r1=CRASH), "raised", (1,)),
        (group_of(r0=DEATH, r1=CRASH), "raised", (1,)),
        (group_of(r0=CRASH, r1=OWN), "raised", (1,)),
        (group_of(r0=LOST, r1=LOST), "lost", (0,)),
        (group_of(r1=WorkerHealthCheckTimeoutError("hanging")), "hung", (1,)),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), "start", ()),
        (ControllerError(WorkerGroupStartupFailedError("one\ntwo")), "died", ()),
        (ControllerError(KeyError("ours")), "internal", ()),
        (ControllerError(ActorDiedError()), "died", ()),
        (ControllerError(RayTaskError("join", "trace", APART).as_instanceof_cause()), "raised", ()),
    ],
)
def test_the_most_telling_failure_is_the_cause(error, kind, ranks):
    failure = classify(error)
    assert (failure.kind, failure.ranks) == (kind, ranks)
    assert "\n" not in failure.cause


def test_only_what_may_be_a_bug_has_a_signature():
    assert classify(group_of(r0=CRASH)).signature == "ValueError@loss.py:3"
    assert classify(group_of(r0=OWN)).error is OWN
    for chance in (DEATH, LOST):
        assert classify(group_of(r0=chance)).signature == ""


def test_a_judge_whose_progress_cannot_be_read_counts_none_and_says_so(tmp_path):
    def broken():
        raise StorageError("the folder is gone")

    judge = Judge(Budget(1, 0), broken, open_storage(tmp_path), workers=2)
    decisions = [judge.make_decision(group_of(r0=DEATH)).value for _ in range(2)]
    assert decisions == ["RETRY", "RAISE"]
    assert "the folder is gone" in read_lines(open_storage(tmp_path), FAILURES)[0]["trouble"]


def test_a_judge_finds_the_frozen_rank_by_the_stacks_that_are_missing(tmp_path):
    notes = open_storage(tmp_path)
    judge = Judge(Budget(5, 0), lambda: 0, notes, workers=3)
    for rank in (0, 2):
        notes.put(f"{STACKS}attempt-1-rank-{rank}.txt", b"no progress for 9 s\nstacks")
    judge.make_decision(group_of(r0=DEATH))
    judge.make_decision(group_of(r0=DEATH))
    first, second = read_lines(notes, FAILURES)
    assert (first["kind"], first["ranks"]) == ("hung", [1])
    assert (second["kind"], second["ranks"]) == ("died", [0])


def test_a_request_error_is_not_tried_again(tmp_path):
    judge = Judge(Budget(5, 0), lambda: 0, open_storage(tmp_path), workers=1)
    assert judge.make_decision(group_of(r0=SettingsError("wrong"))).value == "RAISE"
