"""A remote store is read as a local one is: each file fetched once a node, ahead of use, let go of behind it, and nothing of a wrong one is ever used."""

from pathlib import Path

import numpy as np
import pytest
from processes import until
from remotes import Remote
from shardtoys import ids_read, make_store, tokens_of

from tunefleet.cluster.errors import SettingsError, StorageError
from tunefleet.cluster.filecache import FileCache
from tunefleet.data.ahead import ReadAhead, coming
from tunefleet.data.feed import Feed
from tunefleet.data.order import Order
from tunefleet.data.packing import Limits
from tunefleet.data.settings import Cache
from tunefleet.data.shards import INDEX
from tunefleet.data.steps import ByExamples
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream

LENGTHS = [10] * 40  # two rows a shard
SHARDS = 20


@pytest.fixture
def remote(tmp_path):
    make_store(tmp_path / "far", LENGTHS, shard_bytes=100)
    return Remote(tmp_path / "far", tmp_path / "log")


def split_of(remote: Remote, folder: Path, limit: int | None = None):
    return Store.at(remote, Cache(folder=str(folder), limit=limit)).split("train")


def stream_of(split, rank: int = 0, ranks: int = 1) -> Stream:
    feed = Feed(split, Order(split.shard_rows, 0, split.window), ByExamples(split.rows, 4), ())
    return Stream(feed, kind="bucket", limits=Limits(rows=2), rank=rank, ranks=ranks)


def shard_reads(remote: Remote) -> list[int]:
    return sorted(count for name, count in remote.reads().items() if name.startswith("train-"))


def test_rows_of_a_remote_store_are_those_that_were_written(remote, tmp_path):
    split = split_of(remote, tmp_path / "cache")
    assert split.lengths.tolist() == LENGTHS
    for record in split.records(range(len(LENGTHS))):
        assert record.columns["ids"].tolist() == tokens_of(record.id, LENGTHS[record.id]).tolist()
    assert set(remote.reads().values()) == {1}
    again = split_of(remote, tmp_path / "cache")
    again.verify()
    assert {name for name, count in remote.reads().items() if count > 1} == {INDEX}


def test_readers_of_one_node_fetch_each_shard_once_over_two_epochs(remote, tmp_path):
    streams = [stream_of(split_of(remote, tmp_path / "cache"), rank, 4) for rank in range(4)]
    seen: list[list[int]] = [[], []]
    for step in range(2 * streams[0].steps_per_epoch):
        for stream in streams:
            seen[step // stream.steps_per_epoch] += ids_read(stream.take(step))
    assert [sorted(ids) for ids in seen] == [list(range(len(LENGTHS)))] * 2
    assert shard_reads(remote) == [1] * SHARDS
    assert remote.reads()["lengths-train.arrow"] == 1


def test_shards_are_fetched_before_they_are_needed(remote, tmp_path):
    split = split_of(remote, tmp_path / "cache")
    order = Order(split.shard_rows, 0, split.window)
    needed = coming(order, split.shard_rows, 0, 0, split.window * 2)
    ReadAhead(split.shards, split.shard_rows, order, split.window).at(0, 0)
    until(lambda: {f"train-{number:05d}.arrow" for number in needed} <= set(remote.reads()))


@pytest.mark.parametrize("position", [0, 1, 17, 39])
def test_what_comes_is_the_shards_of_the_next_rows_over_the_end_of_an_epoch_too(position):
    rows = [3, 1, 5, 4, 7, 2, 9, 9]
    order = Order(rows, 5, 2)
    ends = np.cumsum(rows)
    ids = np.concatenate([order.at(epoch, 0, 40) for epoch in range(3)])[position : position + 60]
    assert coming(order, rows, 0, position, 60) == list(dict.fromkeys(np.searchsorted(ends, ids, side="right").tolist()))


def test_a_cache_of_a_window_and_one_shard_is_enough_and_a_smaller_one_is_refused(remote, tmp_path):
    sizes = sorted((shard.bytes for shard in Store.at(remote).index.splits["train"].shards), reverse=True)
    limit, lengths = sum(sizes[:3]), (tmp_path / "far" / "lengths-train.arrow").stat().st_size
    with pytest.raises(SettingsError, match=r"data\.cache\.limit"):
        split_of(remote, tmp_path / "cache", limit - 1)
    stream = stream_of(split_of(remote, tmp_path / "cache", limit))
    for step in range(2 * stream.steps_per_epoch):
        assert len(ids_read(stream.take(step))) == 4
        held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*") if len(path.name) == 64)
        assert held <= lengths + 6 * sizes[0]  # where a step reaches into the next window: that one, its own, one more, and one on its way
    assert max(shard_reads(remote)) <= 2  # once an epoch: nothing goes while rows of it are still to come


def test_shards_stay_open_while_there_is_room_and_are_let_go_of_when_another_run_fills_the_cache(remote, tmp_path):
    total = sum(shard.bytes for shard in Store.at(remote).index.splits["train"].shards)
    split, cache = split_of(remote, tmp_path / "cache", 2 * total), FileCache(tmp_path / "cache", 2 * total)
    others = [remote.put(name, bytes([number]) * size) for number, (name, size) in enumerate([("one", total), ("two", 1)])]
    split.verify()

    def fits(number: int) -> bool:
        stored = others[number]
        return cache.hold(remote, stored.name, sha256=stored.sha256, size=stored.bytes, within_limit=True) is not None

    split.shards.let_go([0])
    assert not fits(0)  # lengths and all shards are in use
    needed = cache.hold(remote, "one", sha256=others[0].sha256, size=others[0].bytes)
    assert not fits(1)
    split.shards.let_go([0])
    assert fits(1)
    needed.release()


def test_a_mapped_row_stays_as_it_is_when_its_shard_leaves_the_cache(remote, tmp_path):
    split = split_of(remote, tmp_path / "cache")
    record = split.record(0)
    split.shards.let_go([])
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert record.columns["ids"].tolist() == tokens_of(0, 10).tolist()


def test_a_shard_that_was_damaged_in_the_cache_is_fetched_again(remote, tmp_path):
    split_of(remote, tmp_path / "cache").record(0)
    shard = Store.at(remote).index.splits["train"].shards[0]
    kept = tmp_path / "cache" / shard.sha256
    kept.write_bytes(b"\0" + kept.read_bytes()[1:])
    assert split_of(remote, tmp_path / "cache").record(0).columns["ids"].tolist() == tokens_of(0, 10).tolist()
    assert remote.reads()[shard.name] == 2


def test_an_error_ahead_of_use_is_raised_at_use_and_names_the_shard(remote, tmp_path):
    split = split_of(remote, tmp_path / "cache")
    order = Order(split.shard_rows, 0, split.window)
    first, *_, last = coming(order, split.shard_rows, 0, 0, len(LENGTHS))
    remote.delete(f"train-{last:05d}.arrow")
    stream = stream_of(split)
    assert ids_read(stream.take(0))
    with pytest.raises(StorageError, match=f"train-{last:05d}"):
        [ids_read(stream.take(step)) for step in range(stream.steps_per_epoch)]
    assert first != last
