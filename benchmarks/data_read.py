"""Reading speed: rows of 512 tokens, shuffled, in batches of 8 as int64 tensors, one process, from files in the page cache.

    python3.11 -m venv peers && peers/bin/pip install -r benchmarks/data_read.txt       an environment of its own; mind its torchvision (see mosaic below)
    PYTHONPATH=src peers/bin/python benchmarks/data_read.py                             2 minutes; writes benchmarks/results/<date>-data-read.json

Everyone reads the same rows and hands over the same thing, batch after batch: a tensor (8, 512). Turns alternate, so that a slow spell of the machine meets
all. Two more of ours stand outside of the comparison: ``64 rows at once`` gathers less at once, and ``a training step`` does more than the others do: 64 rows
divided into micro-batches of like lengths, each as the four matrices that a loss needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recording import machine, save, show, spread

TOKENS, BATCH, STEP = 512, 8, 64
AT_ONCE = 256  # rows that ours and nobody else gathers at once, since its order is known ahead; the batches are cut out of them
OURS, BARE, MOSAIC, LITDATA, DATASETS = "tunefleet", "bare memory-mapped gather", "mosaicml-streaming", "litdata", "HF datasets, DataLoader"
GOALS = {BARE: 0.8, MOSAIC: 25.0, LITDATA: 1.2, DATASETS: 2.0}
Contestant = Callable[[int], Iterator[torch.Tensor]]
"""Takes the number of an epoch; yields its batches."""


def ours(folder: Path, ids: np.ndarray) -> dict[str, Contestant]:
    """Shards, order and rows of tunefleet, as its stream reads them."""
    from tunefleet.data.feed import feed_of
    from tunefleet.data.layout import ANSWERS, Encoded
    from tunefleet.data.packing import Limits
    from tunefleet.data.picked import padded
    from tunefleet.data.settings import Data
    from tunefleet.data.shards import Columns, Index, ShardWriter, write_index
    from tunefleet.data.steps import StepSize
    from tunefleet.data.store import Store
    from tunefleet.data.stream import Stream
    from tunefleet.trainers.batches import token_batch

    writer = ShardWriter(folder, "train", ANSWERS)
    for row in ids:
        writer.add(Encoded({"ids": row, "supervised": np.ones(TOKENS, np.uint8)}, TOKENS, TOKENS))
    write_index(folder, Index(fingerprint="benchmark", layout=Columns.of(ANSWERS), splits={"train": writer.close()}))
    store = Store.open(folder)
    store.split("train").verify()
    feed = feed_of(store, Data.model_validate({"train": [{"path": "none"}]}), StepSize(STEP, None), 0)
    stream = Stream(feed, kind="bucket", limits=Limits(rows=BATCH), rank=0, ranks=1)

    def batches(epoch: int, at_once: int = AT_ONCE) -> Iterator[torch.Tensor]:
        for start in range(0, feed.course.rows, at_once):
            rows = feed.rows.pick(feed.course.at(epoch, start, min(start + at_once, feed.course.rows)))
            yield from torch.from_numpy(padded(rows, "ids", 0)[0]).split(BATCH)

    def steps(epoch: int) -> Iterator[torch.Tensor]:
        for step in range(epoch * stream.steps_per_epoch, (epoch + 1) * stream.steps_per_epoch):
            for made in stream.take(step):
                yield token_batch(made.records, 0)["input_ids"]

    return {OURS: batches, "tunefleet, 64 rows at once": partial(batches, at_once=STEP), "tunefleet, a training step": steps}


def bare(folder: Path, ids: np.ndarray) -> dict[str, Contestant]:
    """The floor: one matrix in a file, gathered by a random permutation. It can only hold rows of one length, and checks nothing."""
    np.save(folder / "ids.npy", ids)
    mapped = np.load(folder / "ids.npy", mmap_mode="r")

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        order = np.random.default_rng(epoch).permutation(len(ids))
        for start in range(0, len(order), BATCH):
            yield torch.from_numpy(mapped[order[start : start + BATCH]].astype(np.int64))

    return {BARE: batches}


def mosaic(folder: Path, ids: np.ndarray) -> dict[str, Contestant]:
    """MDS shards and its own loader. It imports torchvision, whose wheel on PyPI is built for CUDA: beside a CPU torch its operators are named here."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
        library.define(schema)
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    with MDSWriter(out=str(folder), columns={"ids": f"ndarray:int32:{TOKENS}"}) as writer:
        for row in ids:
            writer.write({"ids": row})
    rows: Any = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        for batch in StreamingDataLoader(rows, batch_size=BATCH):
            yield batch["ids"].long()

    return {MOSAIC: batches}


def litdata(folder: Path, ids: np.ndarray) -> dict[str, Contestant]:
    """Chunks of tokens and its own loader, with the item loader that it has for tokens."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes="64MB", item_loader=TokensLoader(TOKENS))
    for number, row in enumerate(ids):
        cache._add_item(number, torch.from_numpy(row))
    cache.done()
    cache.merge(1)
    rows: Any = StreamingDataset(str(folder), item_loader=TokensLoader(TOKENS), shuffle=True)

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        for batch in StreamingDataLoader(rows, batch_size=BATCH):
            yield batch.long()

    return {LITDATA: batches}


def hf_datasets(folder: Path, ids: np.ndarray) -> dict[str, Contestant]:
    """Hugging Face datasets, saved and loaded again, in a DataLoader of torch."""
    import datasets
    from torch.utils.data import DataLoader

    datasets.disable_progress_bars()
    features = datasets.Features({"ids": datasets.List(datasets.Value("int32"))})
    made = datasets.Dataset.from_generator(lambda: ({"ids": row} for row in ids), features=features, cache_dir=str(folder))
    made.save_to_disk(str(folder / "saved"))
    rows: Any = datasets.load_from_disk(str(folder / "saved")).with_format("torch")

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        for batch in DataLoader(rows, batch_size=BATCH, shuffle=True):
            yield batch["ids"]

    return {DATASETS: batches}


def rate(contestant: Contestant, epoch: int, seconds: float) -> float:
    """Rows a second over at most so many seconds of an epoch; the first batch (opening, shuffling) counts."""
    rows, began = 0, perf_counter()
    for batch in contestant(epoch):
        if batch.dtype is not torch.int64 or batch.shape[1] != TOKENS:
            raise AssertionError(f"this is no batch of rows: {batch.dtype} of shape {tuple(batch.shape)}")
        rows += len(batch)
        if perf_counter() - began > seconds:
            break
    return rows / (perf_counter() - began)


def main() -> None:
    """Let everyone read in turns, and write down the medians."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000, help="rows of 512 tokens, 2 KB each")
    options.add_argument("--rounds", type=int, default=7, help="turns of everyone")
    options.add_argument("--seconds", type=float, default=2.0, help="longest turn")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    began = machine()
    ids = np.random.default_rng(0).integers(0, 32_000, (chosen.rows, TOKENS), np.int32)
    contestants: dict[str, Contestant] = {}
    with TemporaryDirectory(prefix="data-read-") as root:
        for number, make in enumerate((ours, bare, mosaic, litdata, hf_datasets)):
            folder = Path(root, str(number))
            folder.mkdir()
            contestants |= make(folder, ids)
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(chosen.rounds + 1):
            for name, contestant in contestants.items():
                measured = rate(contestant, turn, chosen.seconds)
                if turn:  # the first is for warming up
                    rates[name].append(measured)
    figures = {name: spread(values) for name, values in rates.items()}
    ratios = {name: figures[OURS]["median"] / figures[name]["median"] for name in GOALS}
    work = {"rows": chosen.rows, "tokens_per_row": TOKENS, "batch": BATCH, "rounds": chosen.rounds, "rows_at_once": AT_ONCE}
    path = save("data-read", {"work": work, "rows_per_second": figures, "ratio_of_medians": ratios, "goals": GOALS}, began)
    lines = []
    for name, found in figures.items():
        said = [f"{ratios[name]:.2f}", f">= {GOALS[name]} {'met' if ratios[name] >= GOALS[name] else 'missed'}"] if name in GOALS else ["", ""]
        lines.append([name, *(f"{found[key]:,.0f}" for key in ("median", "low", "high")), *said])
    show(f"rows a second ({path.name})", ["reader", "median", "low", "high", "ours / it", "goal"], lines)


if __name__ == "__main__":
    main()
