"""Exactly once: whatever the number of workers, wherever they are killed and however many go on, an epoch has every example as often as its share says.

A thousand cases of (rows, shards, sources, weights, temperature, replay, window, size of a step in examples or tokens, micro-batches, workers, kill points,
other numbers of workers, steps left out on purpose). No process and no file: all of it is a function of integers. What a killed group had done beyond its
last checkpoint is done again by the next one, and must be the same.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest

from tunefleet.data.ahead import ReadAhead
from tunefleet.data.cursor import Cursor
from tunefleet.data.feed import Feed, shared
from tunefleet.data.layout import Record
from tunefleet.data.packing import Limits
from tunefleet.data.settings import Data
from tunefleet.data.shards import SourceRows
from tunefleet.data.steps import StepSize
from tunefleet.data.stream import Stream

GROUPS, CASES = 20, 50  # a thousand together


class Table:
    """What the order knows of the rows of a split: how many stand in each shard, of which source, and how long they are."""

    def __init__(self, chance: random.Random, sources: int) -> None:
        counts = [chance.randint(1, 24) for _ in range(sources)]
        cuts = [sorted({0, count, *(chance.randint(0, count) for _ in range(chance.randint(0, 3)))}) for count in counts]
        shards = [np.diff(cut).tolist() for cut in cuts]
        self.shard_rows = [rows for own in shards for rows in own]
        ends, shard_ends = [0, *accumulate(counts)], [0, *accumulate(len(own) for own in shards)]
        places = zip(pairwise(ends), pairwise(shard_ends), strict=True)
        self.sources = [SourceRows(f"source {i}", range(*ids), range(*own)) for i, (ids, own) in enumerate(places)]
        self.rows, self.window, self.shards, self.fingerprint = sum(counts), chance.randint(1, 5), None, "f" * 64
        self.lengths = np.asarray([chance.randint(1, 40) for _ in range(self.rows)], np.int32)
        shard_ends_by_row = [0, *accumulate(self.shard_rows)]
        self.shard_tokens = [int(self.lengths[a:b].sum()) for a, b in pairwise(shard_ends_by_row)]

    def record(self, row: int) -> Record:
        return Record(row, {})

    def pick(self, ids: np.ndarray) -> list[Record]:
        return [Record(row, {}) for row in ids.tolist()]


@dataclass(frozen=True)
class Case:
    """A run: what it reads, in which steps, and how it is divided."""

    own: Table
    replayed: Table | None
    data: Data
    size: StepSize
    seed: int
    kind: Any
    limits: Limits
    skipped: tuple[tuple[int, int], ...]

    def feed(self) -> Feed:
        return shared(self.own, self.replayed, self.data, self.size, self.seed)  # type: ignore[arg-type]

    def streams(self, ranks: int, skipped: tuple[tuple[int, int], ...] | None = None) -> list[Stream]:
        """The streams of a group of workers that have just been started: they know nothing of any before them."""
        feed = self.feed()
        left_out = self.skipped if skipped is None else skipped
        return [Stream(feed, kind=self.kind, limits=self.limits, rank=rank, ranks=ranks, skipped=left_out) for rank in range(ranks)]


def case_of(chance: random.Random) -> Case:
    own = Table(chance, chance.randint(1, 4))
    plain, replays = chance.random() < 0.3, chance.random() < 0.3
    weights = [1.0 if plain else chance.choice([0.1, 0.5, 1.0, 1.7, 3.0]) for _ in own.sources]
    section: dict[str, Any] = {"train": [{"path": "none", "weight": weight} for weight in weights]}
    section["mixture"] = {"temperature": 1.0 if plain else chance.choice([0.5, 1.0, 2.0, None])}
    if replays:
        section["replay"] = {"store": "none", "ratio": chance.choice([0.05, 0.3, 0.7])}
    edges = sorted(chance.sample(range(20), 4))
    return Case(
        own=own,
        replayed=Table(chance, 1) if replays else None,
        data=Data.model_validate(section),
        size=StepSize(chance.randint(1, 24), None) if chance.random() < 0.6 else StepSize(None, chance.randint(40, 400)),
        seed=chance.randrange(2**63),
        kind=chance.choice(["bucket", "pack", "pad"]),
        limits=Limits(chance.randint(1, 8), None) if chance.random() < 0.5 else Limits(None, chance.randint(1, 200)),
        skipped=((edges[0], edges[1]), (edges[2], edges[3])) if chance.random() < 0.3 else (),
    )


def used(group: list[Stream], step: int) -> list[int]:
    """The examples that carry loss in a step, over all ranks, sorted. Every rank runs equally many rounds, and none is empty."""
    taken = [reader.take(step) for reader in group]
    assert len({len(rounds) for rounds in taken}) == 1
    assert all(r.records for rounds in taken for r in rounds)
    return sorted(record.id for rounds in taken for r in rounds if r.real for record in r.records)


def ledger_of(case: Case, chance: random.Random, first: int, behind: int) -> dict[int, list[int]]:
    """What each step from ``first`` to ``behind`` has used, through one to three groups of workers that are killed and go on at a checkpoint."""
    ledger: dict[int, list[int]] = {}
    checkpoint = first
    for life in range(lives := chance.randint(1, 3)):
        group = case.streams(chance.randint(1, 5))
        cursor = Cursor.from_json(json.loads(json.dumps(group[0].cursor(checkpoint).to_json())))
        assert cursor.step == checkpoint
        killed_at = behind if life == lives - 1 else chance.randint(checkpoint, behind)
        for step in range(checkpoint, killed_at):
            found = used(group, step)
            assert ledger.setdefault(step, found) == found, "a step that is done again is the same step, for any number of workers"
        checkpoint = chance.randint(checkpoint, killed_at)
    return ledger


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_example_is_used_as_often_as_its_share_says(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReadAhead, "at", lambda *_: None)  # there is nothing to open
    for number in range(CASES):
        chance = random.Random(group * CASES + number)
        case, epoch = case_of(chance), chance.choice([0, 1, 7])
        (plan,) = case.streams(1, skipped=())
        planned = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        left_out = [step for step in planned if any(start <= step < end for start, end in case.skipped)]
        first = planned.start - sum(min(end, planned.start) - min(start, planned.start) for start, end in case.skipped)
        ledger = ledger_of(case, chance, first, first + len(planned) - len(left_out))
        wanted = [sorted(plan.ids(step).tolist()) for step in planned if step not in left_out]
        assert list(ledger.values()) == wanted
        seen = Counter(row for rows in [*wanted, *(plan.ids(step).tolist() for step in left_out)] for row in rows)
        for share in case.feed().shares:
            often = [seen.pop(row, 0) for row in share.ids]
            assert sum(often) == share.quota, "shares are exact"
            assert max(often) - min(often) <= 1, "no row is used twice more often than another"
            if share.quota == len(share.ids):
                assert set(often) == {1}
        assert not seen
