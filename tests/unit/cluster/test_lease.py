"""Leases: one writer at a time, and every later one has a higher number."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tunefleet.cluster import storage as storage_module
from tunefleet.cluster.errors import OutputError
from tunefleet.cluster.lease import Lease, newest
from tunefleet.cluster.storage import open_storage


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def alter(storage, **fields):
    fence, record = newest(storage, "lease")
    storage.put(f"lease/{fence:08d}.json", json.dumps({**record, **fields}).encode())


def age(storage, seconds):
    """Make the newest record look as if it had not been renewed for a while."""
    fence, _ = newest(storage, "lease")
    path = storage.local(f"lease/{fence:08d}.json")
    then = storage.modified(f"lease/{fence:08d}.json") - seconds
    os.utime(path, (then, then))


def test_fences_grow_through_releases(storage):
    fences = []
    for _ in range(4):
        lease = Lease.acquire(storage, "lease.json", "run")
        fences.append(lease.fence)
        lease.release()
        lease.release()
    assert fences == [1, 2, 3, 4]
    assert len(storage.list("lease/")) <= 2


def test_a_second_holder_is_refused_and_told_who_has_it(storage):
    lease = Lease.acquire(storage, "lease", "first-run")
    with pytest.raises(OutputError) as caught:
        Lease.acquire(storage, "lease", "second-run")
    assert "first-run" in caught.value.got
    assert str(os.getpid()) in caught.value.got
    lease.release()
    Lease.acquire(storage, "lease", "second-run").release()


def test_a_dead_process_of_this_machine_holds_nothing(storage):
    script = f"""
import os
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.storage import open_storage
Lease.acquire(open_storage({storage.address!r}), "lease", "killed")
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert newest(storage, "lease")[1]["holder"] == "killed"
    lease = Lease.acquire(storage, "lease", "next")
    assert lease.fence == 2
    lease.release()


def test_a_process_number_that_was_used_again_holds_nothing(storage):
    lease = Lease.acquire(storage, "lease", "first")
    alter(storage, process_started="1")
    assert Lease.acquire(storage, "lease", "second").fence == lease.fence + 1


def test_another_machine_holds_until_it_stops_renewing(storage):
    Lease.acquire(storage, "lease", "far", ttl_s=1000)
    alter(storage, machine="another")
    with pytest.raises(OutputError, match="in use"):
        Lease.acquire(storage, "lease", "near", ttl_s=1000)
    age(storage, 1001)
    assert Lease.acquire(storage, "lease", "near", ttl_s=1000).fence == 2


def test_a_holder_that_was_overtaken_finds_out_and_does_not_release_the_other(storage):
    ghost = Lease.acquire(storage, "lease", "ghost", ttl_s=1000)
    alter(storage, machine="another")
    age(storage, 1001)
    lease = Lease.acquire(storage, "lease", "next", ttl_s=1000)
    ghost.release()
    assert ghost.lost
    assert not lease.lost
    assert newest(storage, "lease")[1]["released"] is False
    with pytest.raises(OutputError, match="in use"):
        Lease.acquire(storage, "lease", "third", ttl_s=1000)


def test_of_many_at_once_one_gets_it(storage):
    def attempt(number):
        try:
            return Lease.acquire(storage, "lease", f"run-{number}").fence
        except OutputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = [fence for fence in pool.map(attempt, range(8)) if fence is not None]
    assert got == [1]


def test_a_torn_record_counts_as_given_back(storage):
    storage.put("lease/00000007.json", b'{"fen')
    assert Lease.acquire(storage, "lease", "next").fence == 8


def test_giving_back_never_hides_what_went_wrong(tmp_path, monkeypatch):
    lease = Lease.acquire(open_storage(tmp_path), "lease", "mine")

    def full(event: str, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage_module, "file_events", [full])
    lease.release()
