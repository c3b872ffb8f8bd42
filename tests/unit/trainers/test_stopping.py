"""Who may ask a run to stop, and which start of it is meant."""

import pytest

from tunefleet.cluster.errors import Stopped
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.launch import raise_if_stopped
from tunefleet.trainers.output import LEASE, Claim
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import DONE
from tunefleet.trainers.stopping import StopWatch, ask_to_stop, asked_to_stop


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def test_the_run_that_holds_the_output_is_asked_and_no_later_one(storage):
    held = Lease.acquire(storage, LEASE, holder="first")
    assert ask_to_stop(storage, "somebody")
    assert asked_to_stop(storage, held.fence) == "somebody"
    assert asked_to_stop(storage, held.fence + 1) is None
    held.release()


def test_nobody_is_asked_where_nobody_runs(storage):
    assert not ask_to_stop(storage, "somebody")
    Lease.acquire(storage, LEASE, holder="first").release()
    assert not ask_to_stop(storage, "somebody")
    assert storage.list("stop") == []


def test_the_rank_that_looks_ends_the_loop(storage):
    held = Lease.acquire(storage, LEASE, holder="first")
    told = []
    base = (open_storage(f"{storage.address}/base"), 1)  # of a chain: the run that was named speaks for all
    with StopWatch([base, (storage, held.fence)], looks=True, then=lambda: told.append(1)) as looking, StopWatch([(storage, held.fence)], looks=False) as blind:
        assert not looking.wants_stop()
        ask_to_stop(storage, "somebody")
        looking._thread.join(30)
        assert looking.wants_stop()
        assert not blind.wants_stop()
        assert told == [1]
    held.release()


def test_workers_that_ended_before_the_run_was_done_were_stopped(storage, tmp_path):
    run = RunFile.model_validate({"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 1}, "output": str(tmp_path)})
    held = Lease.acquire(storage, LEASE, holder="first")
    ask_to_stop(storage, "somebody")
    with pytest.raises(Stopped, match="stopped on request") as stopped:
        raise_if_stopped([Claim(run, storage, held.fence, ())])
    assert "somebody" in stopped.value.got
    storage.put(DONE, b"{}")
    raise_if_stopped([Claim(run, storage, held.fence, ())])
    held.release()
