"""Reading speed: rows of 512 tokens in shuffled batches of 8, one process, from memory-mapped files in the page cache.

    python benchmarks/data_read.py            a minute and a half; writes benchmarks/results/<date>-data-read.json

Everyone reads the same rows and hands over the same thing, a batch of token ids and a batch of masks, (8, 512) each, as arrays of their own. ``records`` and
``take`` are what the training loop itself asks for: views of a step's rows, nothing copied yet, for ``take`` grouped by length and divided over ranks.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from recording import machine, save, show, spread

from tunefleet.data.feed import feed_of
from tunefleet.data.layout import ANSWERS, Encoded
from tunefleet.data.packing import Limits
from tunefleet.data.settings import Data
from tunefleet.data.shards import Columns, Index, ShardWriter, write_index
from tunefleet.data.steps import StepSize
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream

TOKENS, BATCH, STEP = 512, 8, 64
Contestant = Callable[[int], Iterator[int]]
"""Takes the number of an epoch; yields how many rows were handed over, batch after batch."""


def made_rows(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and masks, (rows, 512)."""
    chance = np.random.default_rng(0)
    return chance.integers(0, 32_000, (rows, TOKENS), np.int32), (chance.random((rows, TOKENS)) < 0.5).astype(np.uint8)


def ours(folder: Path, ids: np.ndarray, masks: np.ndarray) -> dict[str, Contestant]:
    """Shards, order and stream of tunefleet."""
    writer = ShardWriter(folder, "train", ANSWERS)
    for row, mask in zip(ids, masks, strict=True):
        writer.add(Encoded({"ids": row, "supervised": mask}, len(row), int(mask.sum())))
    write_index(folder, Index(fingerprint="benchmark", layout=Columns.of(ANSWERS), splits={"train": writer.close()}))
    store = Store.open(folder)
    split = store.split("train")
    split.verify()
    feed = feed_of(store, Data.model_validate({"train": [{"path": "none"}]}), StepSize(STEP, None), 0)
    order = feed.course
    stream = Stream(feed, kind="bucket", limits=Limits(rows=BATCH), rank=0, ranks=1)

    def records(epoch: int) -> Iterator[int]:
        for start in range(0, split.rows, BATCH):
            yield len(split.records(order.at(epoch, start, min(start + BATCH, split.rows)).tolist()))

    def batches(epoch: int) -> Iterator[int]:
        for start in range(0, split.rows, BATCH):
            found = split.records(order.at(epoch, start, min(start + BATCH, split.rows)).tolist())
            np.stack([r.columns["ids"] for r in found])
            np.stack([r.columns["supervised"] for r in found])
            yield len(found)

    def take(epoch: int) -> Iterator[int]:
        for step in range(stream.steps_per_epoch):
            yield sum(len(r.records) for r in stream.take(epoch * stream.steps_per_epoch + step))

    return {"tunefleet, batches": batches, "tunefleet, records": records, "tunefleet, take (steps of 64)": take}


def bare(folder: Path, ids: np.ndarray, masks: np.ndarray) -> dict[str, Contestant]:
    """The floor: one matrix in a file, gathered by a random permutation. It can only hold rows of one length."""
    np.save(folder / "ids.npy", ids)
    np.save(folder / "masks.npy", masks)
    mapped_ids, mapped_masks = (np.load(folder / name, mmap_mode="r") for name in ("ids.npy", "masks.npy"))

    def batches(epoch: int) -> Iterator[int]:
        order = np.random.default_rng(epoch).permutation(len(ids))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            yield len(mapped_ids[part]) + 0 * len(mapped_masks[part])

    return {"bare memory-mapped gather": batches}


def peers(folder: Path, ids: np.ndarray, masks: np.ndarray) -> dict[str, Contestant]:
    """Hugging Face datasets, saved and loaded again, shuffled by its own index; alone, and under a DataLoader in the same process."""
    import datasets
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()
    features = datasets.Features({"ids": datasets.List(datasets.Value("int32")), "supervised": datasets.List(datasets.Value("uint8"))})
    made = datasets.Dataset.from_generator(
        lambda: ({"ids": a, "supervised": b} for a, b in zip(ids, masks, strict=True)), features=features, cache_dir=str(folder)
    )
    made.save_to_disk(str(folder / "saved"))
    loaded = datasets.load_from_disk(str(folder / "saved"))

    def batches(epoch: int) -> Iterator[int]:
        for batch in loaded.shuffle(seed=epoch, keep_in_memory=True).with_format("numpy").iter(batch_size=BATCH):
            yield len(batch["ids"])

    def through_loader(epoch: int) -> Iterator[int]:
        shuffled: Any = loaded.with_format("torch")
        for batch in DataLoader(shuffled, batch_size=BATCH, shuffle=True):
            yield len(batch["ids"])

    return {"datasets, batches": batches, "datasets, DataLoader": through_loader}


def rate(contestant: Contestant, epoch: int, seconds: float) -> float:
    """Rows a second over at most so many seconds of an epoch; the first batch (opening, shuffling) counts."""
    rows, began = 0, time.perf_counter()
    for handed in contestant(epoch):
        rows += handed
        if time.perf_counter() - began > seconds:
            break
    return rows / (time.perf_counter() - began)


def main() -> None:
    """Let everyone read in turns, and write down the medians."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000, help="rows of 512 tokens, 2.5 KB each")
    options.add_argument("--rounds", type=int, default=7, help="turns of everyone")
    options.add_argument("--seconds", type=float, default=2.0, help="longest turn")
    chosen = options.parse_args()
    began = machine()
    with TemporaryDirectory(prefix="data-read-") as root:
        folders = [Path(root) / name for name in ("ours", "bare", "peers")]
        for folder in folders:
            folder.mkdir()
        ids, masks = made_rows(chosen.rows)
        contestants = ours(folders[0], ids, masks) | bare(folders[1], ids, masks) | peers(folders[2], ids, masks)
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(chosen.rounds + 1):
            for name, contestant in contestants.items():
                measured = rate(contestant, turn, chosen.seconds)
                if turn:  # the first is for warming up
                    rates[name].append(measured)
    figures = {name: spread(values) for name, values in rates.items()}
    work = {"rows": chosen.rows, "tokens_per_row": TOKENS, "batch": BATCH, "rounds": chosen.rounds, "threads": os.environ.get("OMP_NUM_THREADS", "default")}
    path = save("data-read", {"work": work, "rows_per_second": figures}, began)
    show(
        f"rows a second ({path.name})",
        ["reader", "median", "low", "high"],
        [[n, *(f"{f[k]:,.0f}" for k in ("median", "low", "high"))] for n, f in figures.items()],
    )


if __name__ == "__main__":
    main()
