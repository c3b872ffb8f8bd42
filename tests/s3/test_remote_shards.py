"""Shards on a real S3 server: four processes of one node fetch each once, a second run fetches none, and a fault on the way spoils nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gangs import gang
from shardtoys import ids_read, make_feed, make_store, tokens_of

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.filecache import FileCache
from tunefleet.cluster.storage import open_storage
from tunefleet.cluster.storages.s3 import S3
from tunefleet.cluster.storages.s3client import Patience
from tunefleet.data.packing import Limits
from tunefleet.data.settings import Cache
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream

pytestmark = [pytest.mark.s3, pytest.mark.fault]
LENGTHS = [50] * 64
RANKS, SHARDS = 4, 16
QUICK = Patience(attempts=4, first_pause_s=0.01, longest_pause_s=0.02, connect_timeout_s=1.0, read_timeout_s=0.5)


@pytest.fixture
def address(s3_address: str, tmp_path: Path) -> str:
    """A store on the server."""
    made = make_store(tmp_path / "made", LENGTHS, shard_bytes=50 * 5 * 4)
    assert len(made.index.splits["train"].shards) == SHARDS
    storage = open_storage(s3_address)
    for path in sorted((tmp_path / "made").iterdir(), key=lambda path: path.name == "index.json"):
        storage.put(path.name, path.read_bytes())
    return s3_address


def stream_of(address: str, folder: str, rank: int = 0, ranks: int = 1) -> Stream:
    feed = make_feed(Store.open(address, Cache(folder=folder)), 8)
    return Stream(feed, kind="bucket", limits=Limits(rows=2), rank=rank, ranks=ranks)


def read_epochs(address: str, folder: str) -> list[list[int]]:
    """What a rank reads in two epochs."""
    stream = stream_of(address, folder, int(os.environ["RANK"]), RANKS)
    each = stream.steps_per_epoch
    return [[row for step in range(each * e, each * (e + 1)) for row in ids_read(stream.take(step))] for e in range(2)]


def test_four_ranks_of_a_node_fetch_each_file_once_and_another_run_none(s3_proxy, address, tmp_path):
    folder = str(tmp_path / "cache")
    found = gang(RANKS, read_epochs, address, folder)
    for epoch in range(2):
        assert sorted(row for ids in found for row in ids[epoch]) == list(range(len(LENGTHS)))
    assert [s3_proxy.count("GET", f"train-{number:05d}.arrow") for number in range(SHARDS)] == [1] * SHARDS
    assert s3_proxy.count("GET", "lengths-train.arrow") == 1
    s3_proxy.clear()
    stream = stream_of(address, folder)
    assert sum(len(ids_read(stream.take(step))) for step in range(stream.steps_per_epoch)) == len(LENGTHS)
    assert s3_proxy.count("GET", ".arrow") == 0


@pytest.mark.parametrize("kind", ["500", "503", "stall", "short", "reset"])
def test_a_fault_on_the_way_of_a_shard_is_got_over(s3_proxy, address, tmp_path, kind):
    plain = S3.at(address)
    split = Store.at(S3(plain.bucket, plain.prefix, QUICK), Cache(folder=str(tmp_path / "cache"))).split("train")
    assert split.rows
    fault = s3_proxy.fault(kind, times=2, method="GET", path="train-00003.arrow")
    for record in split.records(range(len(LENGTHS))):
        assert record.columns["ids"].tolist() == tokens_of(record.id, 50).tolist()
    assert fault.hits == 2


@pytest.mark.parametrize("kind", ["500", "stall", "short", "403"])
def test_a_fault_that_stays_is_an_error_that_names_the_shard(s3_proxy, address, tmp_path, kind):
    plain = S3.at(address)
    split = Store.at(S3(plain.bucket, plain.prefix, QUICK), Cache(folder=str(tmp_path / "cache"))).split("train")
    s3_proxy.fault(kind, method="GET", path="train-00003.arrow")
    assert split.record(0).id == 0
    with pytest.raises(StorageError, match=r"train-00003\.arrow"):
        split.verify()
    s3_proxy.clear()
    split.verify()


def test_a_shard_that_is_cut_flipped_or_gone_on_the_server_is_named(address, tmp_path):
    storage = open_storage(address)
    good = storage.read("train-00003.arrow")
    cache = Cache(folder=str(tmp_path / "cache"))
    for wrong in (good[:-8], good[:100] + bytes([good[100] ^ 1]) + good[101:], good + b"more", None):
        storage.delete("train-00003.arrow") if wrong is None else storage.put("train-00003.arrow", wrong)
        with pytest.raises(StorageError, match=r"train-00003\.arrow"):
            Store.open(address, cache).split("train").verify()
    assert not [path for path in Path(cache.folder).iterdir() if path.name.startswith(".tmp-")]
    storage.put("train-00003.arrow", good)
    Store.open(address, cache).split("train").verify()


def test_a_large_file_comes_in_blocks_each_once(s3_proxy, s3_address, tmp_path):
    data = bytes(range(256)) * (40 << 12)
    stored = open_storage(s3_address).put("large", data)
    s3_proxy.clear()
    held = FileCache(tmp_path / "cache").hold(open_storage(s3_address), "large", sha256=stored.sha256, size=stored.bytes)
    assert held is not None
    assert held.path.read_bytes() == data
    assert s3_proxy.count("GET", "large") == 3
    assert s3_proxy.count() == 3
