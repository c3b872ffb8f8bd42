"""Preparation: the TinyStories rows many times over, tokenised and written as Arrow, on a warm cluster and by `datasets`.

    python benchmarks/data_prepare.py             six minutes; writes benchmarks/results/<date>-data-prepare.json

Every copy of a story ends with its number, so that no two rows are equal: equal blocks would be tokenised once, and the figure would mean nothing. Both cut
stories into examples of 512 tokens with a mask, from the same JSON lines. Ours also hashes, sketches and judges the rows, with the policies that a run file
has by itself, splits off a held-out share, and leaves a store that stands by checksums (also without the search for near duplicates, of which each story has
a hundred here); `datasets` loads the file and maps it with two processes. With --ray-data the same blocks are also done through Ray Data, in place of Ray
tasks.

Memory is the largest sum over all processes of a tree (driver, raylet, workers) of what they hold alone (PSS), for few and for many rows. Each figure is of
processes of its own, which have done the few rows once before: what a library loads at its first row is not counted as growth.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recording import machine, save, show, spread

from tunefleet.cluster.session import connect
from tunefleet.cluster.tasks import Cluster, Tasks
from tunefleet.data.layout import TEXT
from tunefleet.data.prepare import Limits, prepare
from tunefleet.data.settings import Data

SHARED = Path("/work/shared")
LENGTH = 512
SHARD_BYTES = 8 << 20  # a core holds a shard: small ones, so that the few rows of the memory figure fill one for every core too
OURS, THEIRS, NO_SEARCH = "tunefleet", "datasets.map(num_proc=2)", "tunefleet, near duplicates off"
Contestant = Callable[[Path, Path], int]
"""Takes the rows and an empty folder; returns how many rows it prepared."""


def write_rows(path: Path, copies: int) -> Path:
    """The stories, ``copies`` times, every row different."""
    text = (SHARED / "data/text/tinystories_1728.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    with path.open("w", encoding="utf-8") as file:
        for copy in range(copies):
            file.writelines(json.dumps({"text": f"{story} ({copy})"}) + "\n" for story in stories)
    return path


def tokenizer() -> Any:
    """That of the real model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(SHARED / "models/stories260K"), model_max_length=1 << 30)


def ours(tasks: Tasks, near: str = "warn") -> Contestant:
    """``tunefleet prepare`` with the work done by ``tasks``."""

    def run(rows: Path, folder: Path) -> int:
        quality = {"near_duplicates": near, "near_leakage": near}
        data = Data(train=[{"path": str(rows)}], store=str(folder), holdout=0.1, max_length=LENGTH, quality=quality)
        return prepare(data, TEXT, tokenizer(), cluster=lambda: nullcontext(tasks), limits=Limits(alone=0, shard=SHARD_BYTES)).counts["rows"]

    return run


class RayData:
    """The same work through a Ray Data pipeline: a row of the data set is a block of ours."""

    cores = 2

    def run(self, function: Any, common: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See Tasks."""
        import pickle

        import ray

        ray.data.DataContext.get_current().enable_progress_bars = False
        shared = ray.put((function, common))

        def done(row: dict[str, Any]) -> dict[str, Any]:
            does, with_common = ray.get(shared)
            return {"number": row["number"], "result": pickle.dumps(does(with_common, pickle.loads(row["item"])))}

        if not items:
            return
        rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
        for row in ray.data.from_items(rows, override_num_blocks=len(rows)).map(done, num_cpus=1).iter_rows():
            yield row["number"], pickle.loads(row["result"])


def theirs(rows: Path, folder: Path) -> int:
    """`datasets`: load the lines, map with two processes."""
    import datasets

    datasets.disable_progress_bars()
    used = tokenizer()

    def cut(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        pieces = [ids[at : at + LENGTH] for ids in used(batch["text"])["input_ids"] for at in range(0, max(len(ids) - 1, 1), LENGTH - 1)]
        return {"ids": pieces, "supervised": [[0] + [1] * (len(piece) - 1) for piece in pieces]}

    features = datasets.Features({"ids": datasets.List(datasets.Value("int32")), "supervised": datasets.List(datasets.Value("uint8"))})
    loaded = datasets.load_dataset("json", data_files=str(rows), cache_dir=str(folder), split="train")
    loaded.map(cut, batched=True, num_proc=2, remove_columns=["text"], features=features)
    return len(loaded)


@contextmanager
def watched_memory() -> Iterator[list[float]]:
    """The largest memory so far, in MB, of this process and its descendants."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            peak[0] = max(peak[0], tree_memory() / 1e6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def tree_memory() -> int:
    """Bytes that this process and its descendants hold, shared pages divided among those that share them."""
    import os

    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(map(held_alone, mine))


def held_alone(pid: int) -> int:
    """The proportional set size of a process, without what it maps of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def timed(contestant: Contestant, rows: Path, root: Path) -> float:
    """Rows a second."""
    folder = root / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    began = time.perf_counter()
    count = contestant(rows, folder)
    took = time.perf_counter() - began
    shutil.rmtree(folder)
    return count / took


def peak_of(name: str, few: Path, rows: Path, root: Path) -> float:
    """The peak of memory in MB of a contestant with these rows, in processes of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(_peak_here, name, few, rows, root).result()


def _peak_here(name: str, few: Path, rows: Path, root: Path) -> float:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    contestant = contestants()[name]
    with connect(cpus_needed=2) if name != THEIRS else nullcontext():
        timed(contestant, few, root)
        with watched_memory() as peak:
            timed(contestant, rows, root)
    return peak[0]


def contestants() -> dict[str, Contestant]:
    """Everyone, by name."""
    return {OURS: ours(Cluster()), THEIRS: theirs, NO_SEARCH: ours(Cluster(), near="off")}


def main() -> None:
    """Prepare in turns, and write down rates and peaks."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--copies", type=int, default=100, help="how often the 1,728 stories are repeated")
    options.add_argument("--rounds", type=int, default=2, help="turns of everyone")
    options.add_argument("--few", type=int, default=5, help="copies of the small case of the memory figure")
    options.add_argument("--ray-data", action="store_true", help="also the same blocks through Ray Data, with a tenth of the copies")
    chosen = options.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    began = machine()
    with TemporaryDirectory(prefix="data-prepare-") as name:
        root = Path(name)
        many, few = write_rows(root / "many.jsonl", chosen.copies), write_rows(root / "few.jsonl", chosen.few)
        rates: dict[str, list[float]] = {name: [] for name in contestants()}
        with connect(cpus_needed=2):
            for contestant in contestants().values():  # warms up
                timed(contestant, few, root)
            for _ in range(chosen.rounds):
                for name, contestant in contestants().items():
                    rates[name].append(timed(contestant, many, root))
            pipelines = compared(write_rows(root / "tenth.jsonl", max(chosen.copies // 10, 1)), root) if chosen.ray_data else {}
        peaks = {name: {size: peak_of(name, few, rows, root) for size, rows in (("few", few), ("all", many))} for name in contestants()}
    table = {name: {"rows_per_second": spread(found), "peak_mb": peaks[name]["all"], "peak_mb_few": peaks[name]["few"]} for name, found in rates.items()}
    work = {"rows": 1728 * chosen.copies, "rows_few": 1728 * chosen.few, "rounds": chosen.rounds, "tokens_per_example": LENGTH}
    path = save("data-prepare", {"work": work, "results": table, "ray_data_rows_per_second": pipelines}, began)
    cells = [
        [name, *(f"{f['rows_per_second'][k]:,.0f}" for k in ("median", "low", "high")), f"{f['peak_mb_few']:,.0f}", f"{f['peak_mb']:,.0f}"]
        for name, f in table.items()
    ]
    show(f"rows a second, peak MB of few and of all rows ({path.name})", ["who", "median", "low", "high", "few", "all"], cells)
    if pipelines:
        show("the same blocks, a tenth of the rows", ["through", "rows a second"], [[name, f"{rate:,.0f}"] for name, rate in pipelines.items()])


def compared(rows: Path, root: Path) -> dict[str, float]:
    """Ray tasks and Ray Data on the same blocks, two turns each, the better one."""
    contestants = {"Ray tasks": ours(Cluster()), "Ray Data": ours(RayData())}
    rates = {name: [timed(contestant, rows, root) for _ in range(2)] for name, contestant in contestants.items()}
    return {name: max(found) for name, found in rates.items()}


if __name__ == "__main__":
    main()
