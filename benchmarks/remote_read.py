"""Remote shards: four processes of one node read a store on a real S3 server, and the same store from a folder, in turns.

    python benchmarks/remote_read.py          two minutes; writes benchmarks/results/<date>-remote-read.json

The server is OpenStack Swift on loopback (tests/s3server.py), behind a proxy that counts requests. The first epoch fetches; the later ones find every shard
in the cache of the node. Each process takes its rank's rounds of steps of 64 rows and hands them over as tensors of int64 ids and masks, batches of 8.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from recording import machine, save, show, spread

from tunefleet.cluster.storage import open_storage
from tunefleet.data.layout import ANSWERS, Encoded, Record
from tunefleet.data.picked import padded
from tunefleet.data.settings import Data
from tunefleet.data.shards import INDEX, Columns, Index, ShardWriter, write_index
from tunefleet.data.store import Store

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import s3proxy
import s3server

TOKENS, BATCH, STEP, RANKS = 512, 8, 64, 4


def make_store(folder: Path, rows: int, shard_bytes: int) -> None:
    """A store of made-up rows."""
    chance = np.random.default_rng(0)
    writer = ShardWriter(folder, "train", ANSWERS, shard_bytes=shard_bytes)
    for _ in range(rows):
        ids, mask = chance.integers(0, 32_000, TOKENS, np.int32), (chance.random(TOKENS) < 0.5).astype(np.uint8)
        writer.add(Encoded({"ids": ids, "supervised": mask}, TOKENS, int(mask.sum())))
    write_index(folder, Index(fingerprint="f" * 64, layout=Columns.of(ANSWERS), splits={"train": writer.close()}))


def upload(folder: Path, address: str) -> None:
    """Put a store on the server, its index last."""
    storage = open_storage(address)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == INDEX):
        storage.put_file(path.name, path)


def reader(pipe: Connection, store: str, cache: str, rank: int) -> None:
    """A rank: for every epoch that it is told, reads its rounds and says how many rows they were, and what they cost of the processor."""
    from tunefleet.data.feed import feed_of
    from tunefleet.data.packing import Limits
    from tunefleet.data.steps import StepSize
    from tunefleet.data.stream import Stream

    data = Data.model_validate({"train": [{"path": "made up"}], "cache": {"folder": cache}})
    feed = feed_of(Store.open(store, data.cache), data, StepSize(STEP, None), 0)
    stream = Stream(feed, kind="bucket", limits=Limits(rows=BATCH), rank=rank, ranks=RANKS)
    handed_over([Record(0, {"ids": np.zeros(1, np.int32), "supervised": np.zeros(1, np.uint8)})])  # torch is imported now
    pipe.send(feed.rows.rows)
    while (epoch := pipe.recv()) is not None:
        rows, began = 0, time.process_time()
        for step in range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch):
            rows += sum(handed_over(rounds.records) for rounds in stream.take(step) if rounds.real)
        pipe.send((rows, time.process_time() - began))


def handed_over(records: Sequence[Record]) -> int:
    """Make tensors of a micro-batch; how many rows they hold."""
    import torch

    for name in ("ids", "supervised"):
        torch.from_numpy(padded(records, name, 0)[0])
    return len(records)


class Epoch(NamedTuple):
    """Rows, seconds from the first rank's start to the last one's end, and seconds of the processor over all ranks."""

    rows: int
    seconds: float
    cpu_s: float


class Node:
    """Four ranks that read one store."""

    def __init__(self, store: str, cache: Path) -> None:
        context = mp.get_context("spawn")
        self.pipes = []
        for rank in range(RANKS):
            here, there = context.Pipe()
            context.Process(target=reader, args=(there, store, str(cache), rank), daemon=True).start()
            self.pipes.append(here)
        for pipe in self.pipes:
            pipe.recv()  # it is ready

    def epoch(self, number: int) -> Epoch:
        """All ranks read an epoch."""
        began = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(number)
        rows, cpu_s = zip(*(pipe.recv() for pipe in self.pipes), strict=True)
        return Epoch(sum(rows), time.perf_counter() - began, sum(cpu_s))

    def close(self) -> None:
        """End them."""
        for pipe in self.pipes:
            pipe.send(None)


def measure(root: Path, rows: int, shard_bytes: int, turns: int) -> dict[str, Any]:
    """Everything: the store, the server, the first epoch, then turns of both."""
    make_store(root / "local", rows, shard_bytes)
    server = s3server.start(root / "swift")
    os.environ.update(server.variables())
    proxy = s3proxy.start("127.0.0.1", server.port)
    try:
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False).mkdir("bench")
        upload(root / "local", "s3://bench/store")
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        near, far = Node(str(root / "local"), root / "unused"), Node("s3://bench/store", root / "cache")
        shards = [shard.name for shard in Store.open(root / "local").index.splits["train"].shards]
        first = far.epoch(0)
        assert first.rows == near.epoch(0).rows == rows
        gets = [proxy.count("GET", name) for name in shards]
        proxy.clear()
        read: dict[str, list[Epoch]] = {"local": [], "remote": []}
        for turn in range(1, turns + 1):
            for name, node in (("local", near), ("remote", far)) if turn % 2 else (("remote", far), ("local", near)):
                read[name].append(node.epoch(turn))
        later = sum(proxy.count("GET", name) for name in shards)
        near.close()
        far.close()
    finally:
        proxy.stop()
        server.stop()
    assert all(epoch.rows == rows for epochs in read.values() for epoch in epochs)
    pairs = list(zip(read["local"], read["remote"], strict=True))
    return {
        "work": {"rows": rows, "tokens_per_row": TOKENS, "shards": len(shards), "shard_bytes": shard_bytes, "ranks": RANKS, "turns": turns},
        "gets_per_shard_first_epoch": {"least": min(gets), "most": max(gets)},
        "gets_of_shards_later": later,
        "first_epoch_rows_per_second": rows / first.seconds,
        "rows_per_second": {name: spread([epoch.rows / epoch.seconds for epoch in epochs]) for name, epochs in read.items()},
        "remote_over_local": spread([here.seconds / there.seconds for here, there in pairs]),
        "cpu_remote_over_local": spread([there.cpu_s / here.cpu_s for here, there in pairs]),
    }


def main() -> None:
    """Measure, write down, show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000, help="rows of 512 tokens, 2.5 KB each")
    options.add_argument("--shard-bytes", type=int, default=8 << 20, help="size of a shard; up to 16 MiB it is one request")
    options.add_argument("--turns", type=int, default=6, help="epochs of each, after the first")
    chosen = options.parse_args()
    began = machine()
    with TemporaryDirectory(prefix="remote-read-") as root:
        (Path(root) / "swift").mkdir()
        figures = measure(Path(root), chosen.rows, chosen.shard_bytes, chosen.turns)
    path = save("remote-read", figures, began)
    rates = {"remote, first epoch": dict.fromkeys(("median", "low", "high"), figures["first_epoch_rows_per_second"])} | {
        f"{name}, later epochs": values for name, values in figures["rows_per_second"].items()
    }
    lines = [[name, *(f"{value:,.0f}" for value in found.values())] for name, found in rates.items()]
    show(f"rows a second, four processes ({path.name})", ["reader", "median", "low", "high"], lines)
    print(f"requests for a shard in the first epoch: {figures['gets_per_shard_first_epoch']}, later: {figures['gets_of_shards_later']}")
    print(f"remote over local, later epochs: {figures['remote_over_local']}")
    print(f"processor time, remote over local: {figures['cpu_remote_over_local']}")


if __name__ == "__main__":
    main()
