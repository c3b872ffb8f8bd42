"""What a run's rows come to: the costliest micro-batch, steps and tokens; from the index of its store where one stands, else from what the run file says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.storage import is_remote, open_storage
from tunefleet.trainers.plan.dry import Shape

if TYPE_CHECKING:
    from tunefleet.data.packing import Kind
    from tunefleet.data.versions import Listed
    from tunefleet.trainers.run import RunFile

_COUNTED_BYTES = 1 << 30  # files up to here are read through for their number of lines


@dataclass(frozen=True)
class Rows:
    """``epoch_rows`` and ``tokens_a_row`` are None where they cannot be known cheaply; ``shards`` are bytes on disk, ``window`` those in use at once."""

    shape: Shape
    epoch_rows: int | None
    tokens_a_row: float | None
    steps: int | None
    tokens: float | None
    shards: int | None
    window: int | None
    assumed: tuple[str, ...]


def rows_of(run: RunFile, kind: Kind) -> Rows:
    """From the newest store of these files, this layout and this length; without one, every row is taken for as long as it may be."""
    found = prepared(run)
    return _from_store(run, kind, found) if found is not None else _guessed(run, kind)


def prepared(run: RunFile) -> Listed | None:
    """The newest store of the run's files, layout and length in its folder of stores; contents are not compared."""
    from tunefleet.data.prepare import parts_of
    from tunefleet.data.versions import listed
    from tunefleet.trainers.objective import make_objective

    try:
        wanted = {Path(str(file)).name for part in parts_of(run.data) for file in part.files}
        stores, _ = listed(open_storage(run.data.store))
    except TunefleetError:
        return None
    layout = make_objective(run.objective, 0).layout.name
    fits = [
        one
        for one in stores
        if one.index.meta["max_length"] == run.data.max_length
        and one.index.layout.name == layout
        and {Path(file).name for source in one.index.meta["sources"] for file in source["files"]} == wanted
    ]
    return fits[-1] if fits else None


def _from_store(run: RunFile, kind: Kind, found: Listed) -> Rows:
    import numpy as np

    from tunefleet.data.feed import feed_of
    from tunefleet.data.packing import costliest, divide
    from tunefleet.data.store import Store

    training, ranks = run.training, run.scaling.num_workers
    feed = feed_of(Store.open(found.store.address, run.data.cache), run.data, training.step_size(), training.seed)
    lengths, limits = feed.rows.lengths, training.limits()
    worst = costliest(lengths, feed.steps.most_rows, kind=kind, limits=limits)
    supervised = tuple(int(n) for n in lengths[worst])
    assumed = [f"rows: {feed.course.rows:,} of {found.store.address}, version {found.version} (prepared before; the rows' files were not compared)"]
    if is_remote(found.store.address):
        assumed.append("supervised: every token, since shards are not fetched for a plan")
    else:
        supervised = tuple(max(1, int(np.asarray(record.columns["supervised"]).sum())) for record in feed.rows.records(worst.tolist()))
    first = feed.steps.range(0)
    ids = feed.course.at(first.epoch, first.start, first.stop)
    division = divide(lengths[ids].astype(np.int64), ranks, kind=kind, rows=limits.rows, tokens=limits.tokens)
    steps = training.max_steps or math.ceil((training.num_train_epochs or 0) * feed.steps.per_epoch)
    mean = float(lengths.mean())
    return Rows(
        Shape(tuple(int(n) for n in lengths[worst]), supervised, max(map(len, division)), kind == "pack"),
        feed.course.rows,
        mean,
        steps,
        steps / feed.steps.per_epoch * feed.course.rows * mean,
        found.bytes,
        _window_bytes(found),
        tuple(assumed),
    )


def _window_bytes(found: Listed) -> int:
    shards = [shard.bytes for split in found.index.splits.values() for shard in split.shards]
    return sum(sorted(shards, reverse=True)[: found.index.window + 1])


def _guessed(run: RunFile, kind: Kind) -> Rows:
    training, longest, ranks = run.training, run.data.max_length, run.scaling.num_workers
    size, limits = training.step_size(), training.limits()
    step_rows = size.examples or -(-(size.tokens or 1) // longest)
    micro = min(limits.rows or step_rows, max(1, (limits.tokens or longest * step_rows) // longest), step_rows)
    rounds = max(1, -(-step_rows // (micro * ranks)))
    counted = lines_of(run)
    assumed = [f"rows: nothing is prepared yet, so every row is taken for {longest:,} tokens (data.max_length), all supervised"]
    trained = None
    if counted is not None:
        share = 0.0 if isinstance(run.data.holdout, list) else run.data.holdout
        trained = round(counted * (1 - share))
        assumed.append(f"rows: {counted:,} lines in the files of data.train, {trained:,} of them to train on")
    steps = training.max_steps
    if steps is None and trained is not None:
        steps = math.ceil((training.num_train_epochs or 0) * math.ceil(trained / step_rows))
    tokens = None if steps is None else float(steps) * step_rows * longest
    return Rows(Shape((longest,) * micro, (longest,) * micro, rounds, kind == "pack"), trained, float(longest), steps, tokens, None, None, tuple(assumed))


def lines_of(run: RunFile) -> int | None:
    """Rows of the training files, where they are local files with a row a line that are quickly read through."""
    from tunefleet.data.rows import source_files

    total = 0
    for source in run.data.train:
        for file in source_files(source):
            path = Path(str(file))
            if path.suffix != ".jsonl" or not path.is_file() or path.stat().st_size > _COUNTED_BYTES:
                return None
            with path.open("rb") as lines:
                total += sum(1 for line in lines if line.strip())
    return total
