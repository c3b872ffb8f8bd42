"""What we rely on inside Ray Train, and how its errors are read."""

import inspect

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.torch import TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tunefleet.cluster.errors import SettingsError, StorageError, WorkerError
from tunefleet.cluster.failures import Budget, RaisedError
from tunefleet.cluster.metrics import SharedLines, read_lines
from tunefleet.cluster.raytrain import FAILURES, STACKS, Judge, KeepAway, classify
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.unreliable import STARTED

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


def test_what_we_use_of_the_start_of_a_process_group_exists():
    assert list(inspect.signature(_TorchBackend.on_start).parameters) == ["self", "worker_group", "backend_config"]
    assert callable(_set_torch_distributed_env_vars)
    assert "num_workers" in inspect.signature(ControllerCallback.on_controller_start_worker_group).parameters


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


def test_a_node_whose_ranks_died_twice_is_avoided_where_the_others_have_room_and_that_is_said(tmp_path):
    notes = open_storage(tmp_path)
    nodes = [{"NodeID": f"id-{name}", "NodeManagerAddress": name, "Alive": True, "Resources": {"CPU": 1.0}} for name in ("a", "b", "c")]
    judge = Judge(Budget(5, 0), lambda: 0, notes, workers=2, bundle={"CPU": 1.0}, nodes=lambda: nodes)
    away = KeepAway(notes, nodes=lambda: nodes)
    for attempt in (1, 2):
        assert away.on_controller_start_worker_group() is None
        workers = [{"rank": rank, "address": address} for rank, address in enumerate("ab")]
        SharedLines(notes, STARTED).add({"attempt": attempt, "workers": workers})
        judge.make_decision(group_of(r1=DEATH))
    assert away.on_controller_start_worker_group() == {"ray.io/node-id": "!in(id-b)"}
    first, second = read_lines(notes, FAILURES)
    assert "avoided" not in first
    assert second["avoided"] == ["b"]
    assert second["reason"].endswith("b failed twice and is avoided from now on")


def test_a_group_that_dies_before_it_has_said_where_it_is_blames_no_node_of_the_one_before(tmp_path):
    notes = open_storage(tmp_path)
    nodes = [{"NodeID": f"id-{name}", "NodeManagerAddress": name, "Alive": True, "Resources": {"CPU": 1.0}} for name in ("a", "b", "c")]
    judge = Judge(Budget(5, 0), lambda: 0, notes, workers=2, bundle={"CPU": 1.0}, nodes=lambda: nodes)
    SharedLines(notes, STARTED).add({"attempt": 1, "workers": [{"rank": rank, "address": address} for rank, address in enumerate("ab")]})
    for _ in range(3):
        judge.make_decision(group_of(r1=DEATH))
    assert not any("avoided" in line for line in read_lines(notes, FAILURES))


def test_a_node_is_not_avoided_where_nothing_else_has_room(tmp_path):
    notes = open_storage(tmp_path)
    judge = Judge(Budget(5, 0), lambda: 0, notes, workers=1, bundle={"CPU": 1.0}, nodes=lambda: [])
    for attempt in (1, 2):
        SharedLines(notes, STARTED).add({"attempt": attempt, "workers": [{"rank": 0, "address": "a"}]})
        judge.make_decision(group_of(r0=DEATH))
    last = read_lines(notes, FAILURES)[-1]
    assert "avoided" not in last
    assert last["reason"].endswith("a failed twice, and there is no room elsewhere")
