"""What a rank reads: its records hold their own tokens, no micro-batch costs more than the dry run's, idle rounds weigh nothing, skipped steps are not read.

That every example is used once, through kills and other numbers of workers, is in test_exactly_once.py.
"""

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from shardtoys import make_feed, make_store

from tunefleet.data.packing import Limits, row_cost
from tunefleet.data.store import Store
from tunefleet.data.stream import Stream


@pytest.fixture(scope="module")
def store_of(tmp_path_factory: pytest.TempPathFactory):
    """Stores of 1 to 60 rows of 1 to 4 sources in 1 to some tens of shards, by number."""
    root: Path = tmp_path_factory.mktemp("stores")

    @cache
    def build(number: int) -> Store:
        chance = random.Random(number)
        lengths = [chance.randint(2, 40) for _ in range(chance.randint(1, 60))]
        sources = sorted({0, *(chance.randrange(len(lengths)) for _ in range(chance.randint(0, 3)))})
        return make_store(root / str(number), lengths, shard_bytes=chance.choice([1, 300, 1000, 1 << 20]), sources=sources, window=chance.randint(1, 5))

    return build


def streams(store: Store, ranks: int, **choices) -> list[Stream]:
    """One a rank, each with an order of its own, as in processes of their own."""
    feed = {name: choices.pop(name) for name in ("examples", "tokens", "weights", "seed", "mixture", "replay") if name in choices}
    return [Stream(make_feed(store, **feed), rank=rank, ranks=ranks, **choices) for rank in range(ranks)]


def choices_of(chance: random.Random, sources: int) -> dict:
    by_rows, by_examples, plain = chance.random() < 0.5, chance.random() < 0.6, chance.random() < 0.4
    return {
        "seed": chance.randrange(2**63),
        "examples": chance.randint(1, 24) if by_examples else None,
        "tokens": None if by_examples else chance.randint(40, 400),
        "weights": [1.0 if plain else chance.choice([0.1, 0.5, 1.0, 1.7, 3.0]) for _ in range(sources)],
        "mixture": {"temperature": 1.0 if plain else chance.choice([0.5, 1.0, 2.0, None])},
        "limits": Limits(chance.randint(1, 8), None) if by_rows else Limits(None, chance.randint(1, 200)),
        "kind": chance.choice(["bucket", "pack", "pad"]),
    }


@pytest.mark.parametrize("number", range(5))
def test_no_micro_batch_costs_more_than_the_one_of_the_dry_run(store_of, number):
    store, chance = store_of(number), random.Random(number)
    for _ in range(20):
        choices = choices_of(chance, len(store.split("train").sources))
        (reader,) = streams(store, 1, **choices)

        def cost(records, choices=choices):
            costs = row_cost(np.asarray([len(r.columns["ids"]) for r in records]))
            return int(costs.sum()) if choices["kind"] == "pack" else len(records) * int(costs.max())

        bound = cost(reader.costliest())
        assert all(cost(r.records) <= bound for step in range(2 * reader.steps_per_epoch) for r in reader.take(step))


def test_the_dry_run_takes_the_longest_rows_where_rows_are_limited(store_of):
    store = store_of(3)
    (reader,) = streams(store, 1, examples=16, kind="bucket", limits=Limits(rows=4))
    assert sorted(len(r.columns["ids"]) for r in reader.costliest()) == sorted(store.split("train").lengths.tolist())[-4:]


def test_a_rank_without_work_gets_the_shortest_record_and_it_is_not_real(tmp_path):
    readers = streams(make_store(tmp_path, [9, 4, 7]), 5, examples=3, kind="bucket", limits=Limits(rows=8))
    rounds = [reader.take(0)[0] for reader in readers]
    assert [r.real for r in rounds].count(True) == 3
    assert {tuple(record.id for record in r.records) for r in rounds if not r.real} == {(1,)}


def test_skipped_steps_are_never_read_and_all_others_are(store_of):
    choices = {"examples": 3, "kind": "bucket", "limits": Limits(rows=8)}
    (plain,), (skipping,) = streams(store_of(2), 1, **choices), streams(store_of(2), 1, **choices, skipped=((1, 3), (6, 7)))
    wanted = [step for step in range(12) if step not in (1, 2, 6)]
    assert [skipping.digest(step) for step in range(len(wanted))] == [plain.digest(step) for step in wanted]
    assert skipping.cursor(4).skipped == ((1, 3), (6, 7))
    assert skipping.cursor(4).position == plain.cursor(6 + 1).position


def test_the_epoch_grows_by_the_share_of_rows_that_are_read(tmp_path):
    (reader,) = streams(make_store(tmp_path, [5] * 10), 1, examples=4, kind="pack", limits=Limits(rows=8))
    assert [reader.epoch(step) for step in range(5)] == [0, 0.4, 0.8, 1, 1.4]
