"""A file is fetched once a node, is whole and right whenever it is seen, and stays while anybody uses it."""

import fcntl
import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gangs import gang, process_of
from processes import until
from remotes import Remote

from tunefleet.cluster import filecache
from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.filecache import FileCache, key_of

BYTES = 1000


@pytest.fixture
def remote(tmp_path):
    return Remote(tmp_path / "far", tmp_path / "log")


def put(remote: Remote, name: str, fill: int = 0) -> dict:
    """Write a file; returns what a reader asks for it with."""
    data = bytes([fill]) * BYTES
    remote.put(name, data)
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": BYTES}


def cached(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if len(path.name) == 64}


def fetch_many(remote: Remote, folder: Path, files: list[dict]) -> list[bytes]:
    cache, first = FileCache(folder), int(os.environ.get("RANK", "0"))
    held = [cache.hold(remote, **file) for file in files[first:] + files[:first]]
    return sorted(h.path.read_bytes()[:1] for h in held)


def test_processes_that_want_the_same_files_at_once_fetch_each_once(tmp_path):
    remote = Remote(tmp_path / "far", tmp_path / "log", slow_s=0.05)
    files = [put(remote, f"f{i}", i) for i in range(6)]
    found = gang(4, fetch_many, remote, tmp_path / "cache", files)
    assert found == [[bytes([i]) for i in range(6)]] * 4
    assert remote.reads() == {file["name"]: 1 for file in files}
    fetch_many(remote, tmp_path / "cache", files)  # another run
    assert remote.reads().total() == 6


def test_threads_of_one_process_fetch_once(remote, tmp_path):
    file, cache = put(remote, "f"), FileCache(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        held = list(pool.map(lambda _: cache.hold(remote, **file), range(8)))
    assert remote.reads() == {"f": 1}
    assert sum(h.fetched for h in held) == 1


def hang(remote: Remote, folder: Path, file: dict) -> None:
    remote.spoil = lambda name, data: signal.pause() or data
    FileCache(folder).hold(remote, **file)


def test_a_fetcher_that_is_killed_leaves_nothing_that_counts_and_whoever_waits_takes_over(remote, tmp_path):
    file, folder = put(remote, "f"), tmp_path / "cache"
    process = process_of(hang, remote, folder, file)
    until(lambda: remote.reads()["f"])
    assert FileCache(folder).hold(remote, **file, wait=False) is None
    (folder / f".tmp-{file['sha256']}-1-half").write_bytes(b"half")  # what it would leave when it dies while it writes
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(FileCache(folder).hold, remote, **file)
        os.kill(process.pid, signal.SIGKILL)
        held = waiting.result(timeout=30)
    process.join()
    assert held.path.read_bytes() == bytes(BYTES)
    assert remote.reads() == {"f": 2}
    assert not list(folder.glob(".tmp-*"))


def test_a_fetcher_that_hangs_is_not_waited_for(remote, tmp_path):
    file, folder = put(remote, "f"), tmp_path / "cache"
    process = process_of(hang, remote, folder, file)
    until(lambda: remote.reads()["f"])
    try:
        held = [FileCache(folder, stall_s=0.1).hold(remote, **file) for _ in range(2)]
    finally:
        process.kill()
        process.join()
    assert [h.path.read_bytes() for h in held] == [bytes(BYTES)] * 2
    assert remote.reads() == {"f": 2}


def test_what_was_longest_unused_goes_first_and_what_is_in_use_never(remote, tmp_path):
    files = [put(remote, f"f{i}", i) for i in range(5)]
    cache = FileCache(tmp_path / "cache", 3 * BYTES)
    used = cache.hold(remote, **files[0])
    for age, file in ((2, files[1]), (1, files[2])):
        cache.hold(remote, **file).release()
        os.utime(tmp_path / "cache" / f"{file['sha256']}.lock", (1e9 - age, 1e9 - age))
    mapped = np.memmap(used.path, np.uint8, "r")
    last = [cache.hold(remote, **file) for file in files[3:]]
    assert cached(tmp_path / "cache") == {files[i]["sha256"] for i in (0, 3, 4)}
    assert cache.hold(remote, **files[1], within_limit=True) is None  # all three are in use
    assert remote.reads()["f1"] == 1
    needed = cache.hold(remote, **files[1])  # what cannot wait goes beyond the limit
    assert cached(tmp_path / "cache") == {files[i]["sha256"] for i in (0, 1, 3, 4)}
    for held in (used, needed, *last):
        held.release()
    cache.hold(remote, **files[2])
    assert len(cached(tmp_path / "cache")) == 3
    assert mapped.tolist() == [0] * BYTES
    assert {path.name.removesuffix(".lock") for path in (tmp_path / "cache").iterdir()} == cached(tmp_path / "cache")


def test_a_file_is_in_use_until_its_holder_is_forgotten(remote, tmp_path):
    files, cache = [put(remote, f"f{i}", i) for i in range(2)], FileCache(tmp_path / "cache", BYTES)
    held = cache.hold(remote, **files[0])
    assert cache.hold(remote, **files[1], within_limit=True) is None
    del held
    assert cache.hold(remote, **files[1], within_limit=True) is not None
    assert cached(tmp_path / "cache") == {files[1]["sha256"]}


def test_bytes_that_went_wrong_on_their_way_are_fetched_again(remote, tmp_path):
    file = put(remote, "f")
    remote.spoil = lambda name, data: b"x" + data[1:] if remote.reads()[name] == 1 else data
    assert FileCache(tmp_path / "cache").hold(remote, **file).path.read_bytes() == bytes(BYTES)
    assert remote.reads() == {"f": 2}


@pytest.mark.parametrize("spoil", [lambda name, data: data[:-1], lambda name, data: b"x" + data[1:], lambda name, data: b""])
def test_a_file_that_is_not_what_was_written_is_named_and_never_kept(remote, tmp_path, spoil):
    file, remote.spoil = put(remote, "f"), spoil
    with pytest.raises(StorageError, match="far://far/f: not what was written"):
        FileCache(tmp_path / "cache").hold(remote, **file)
    assert not cached(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".tmp-*"))
    remote.spoil = None
    assert FileCache(tmp_path / "cache").hold(remote, **file).path.read_bytes() == bytes(BYTES)


def test_a_damaged_file_is_given_up_without_waiting_for_who_uses_it(remote, tmp_path):
    file, cache = put(remote, "f"), FileCache(tmp_path / "cache")
    user = cache.hold(remote, **file)
    mapped = np.memmap(user.path, np.uint8, "r")
    user.path.write_bytes(b"\1" * BYTES)
    again = cache.hold(remote, **file)
    assert again.fetched
    assert again.path.read_bytes() == bytes(BYTES)
    assert remote.reads() == {"f": 2}
    assert mapped.tolist() == [1] * BYTES  # who had it mapped sees what was written there


def lend(cache: FileCache, name: str, data: bytes, **wanted: Any) -> Path:
    return cache.lend(key_of(name), f"far://{name}", lambda: iter([data[:10], data[10:]]), **{"size": len(data), **wanted})


def test_what_is_lent_is_known_by_its_version_and_stays_for_a_while(tmp_path, monkeypatch):
    cache = FileCache(tmp_path / "cache", BYTES)
    one = lend(cache, "one", bytes(BYTES))
    two = lend(cache, "two", b"\2" * BYTES)  # beyond the limit: the first is in use
    assert (one.read_bytes(), two.read_bytes()) == (bytes(BYTES), b"\2" * BYTES)
    assert lend(cache, "one", b"never asked for" * BYTES, size=BYTES) == one
    monkeypatch.setattr(filecache, "LENT_S", -1.0)
    lend(cache, "three", b"\3" * BYTES)
    lend(cache, "four", b"\4" * BYTES)
    assert cached(tmp_path / "cache") == {key_of("four")}


def test_what_is_lent_is_checked_each_time_that_it_was_written_to(tmp_path):
    cache, right = FileCache(tmp_path / "cache"), bytes(BYTES)
    sha256 = hashlib.sha256(right).hexdigest()
    lend(cache, "one", right).write_bytes(b"\1" * BYTES)
    assert lend(cache, "one", right, sha256=sha256).read_bytes() == right
    lend(cache, "one", right).write_bytes(b"short")
    assert lend(cache, "one", right).read_bytes() == right
    for wrong in (b"\1" * BYTES, right[1:], right + b"x"):
        with pytest.raises(StorageError, match="far://two: not what was written"):
            lend(cache, "two", wrong, sha256=sha256, size=BYTES)
    assert cached(tmp_path / "cache") == {key_of("one")}


@pytest.mark.parametrize("key", ["../" + "0" * 61, "0" * 63, "A" * 64, "", "/etc/passwd"])
def test_a_checksum_that_is_none_names_no_file(remote, tmp_path, key):
    with pytest.raises(StorageError, match="64 hexadecimal digits"):
        FileCache(tmp_path / "cache").hold(remote, "f", sha256=key, size=1)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_somebody_else_is_refused(remote, monkeypatch):
    file = put(remote, "f")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(StorageError, match="belongs to another user"):
        FileCache(remote.root).hold(remote, **file)


def test_locks_are_let_go_of_when_a_fetch_fails(remote, tmp_path):
    file, cache = put(remote, "f"), FileCache(tmp_path / "cache")
    remote.delete("f")
    with pytest.raises(StorageError, match="missing"):
        cache.hold(remote, **file)
    lock = os.open(tmp_path / "cache" / f"{file['sha256']}.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(lock)
