"""A step is divided over ranks without losing or doubling an example, within the limits, evenly, and with little padding."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.data.order import Order
from tunefleet.data.packing import ATTENTION_LENGTH, FORWARD_TOKENS, Limits, costliest, divide, row_cost

INPUT = Path(__file__).parents[2] / "inputs" / "gsm8k_lengths.txt"
GSM8K = np.asarray([int(word) for line in INPUT.read_text().splitlines() if not line.startswith("#") for word in line.split()])  # real rows, cut at 512 tokens

step_lengths = st.lists(st.integers(1, 700), min_size=1, max_size=70)
some_ranks = st.integers(1, 9)
kinds = st.sampled_from(["bucket", "pack", "pad"])
limits = st.one_of(
    st.builds(Limits, rows=st.integers(1, 16), tokens=st.none()),
    st.builds(Limits, rows=st.none(), tokens=st.integers(1, 4000)),
    st.builds(Limits, rows=st.integers(1, 16), tokens=st.integers(1, 4000)),
)


def gsm8k_steps(step: int, count: int = 10**9) -> list[np.ndarray]:
    """The lengths of the first steps of a shuffled epoch."""
    order = Order([len(GSM8K)], 0, 1)
    starts = range(0, len(GSM8K), step)[:count]
    return [GSM8K[order.at(0, start, min(start + step, len(GSM8K)))] for start in starts]


def waste(step: int, ranks: int, kind="bucket", **limit) -> float:
    """1 - useful / computed tokens over an epoch; a rank without work computes the shortest row."""
    useful = computed = 0
    for lengths in gsm8k_steps(step):
        useful += int(lengths.sum())
        for part in (part for rank in divide(lengths, ranks, kind=kind, **limit) for part in rank):
            rows = lengths[part] if part else lengths.min(keepdims=True)
            computed += int(rows.sum() if kind == "pack" else len(rows) * rows.max())
    return 1 - useful / computed


@given(step_lengths, some_ranks, kinds, limits)
def test_every_example_stands_in_exactly_one_micro_batch(lengths, ranks, kind, limit):
    division = divide(lengths, ranks, kind=kind, **limit._asdict())
    assert sorted(i for rank in division for part in rank for i in part) == list(range(len(lengths)))


@given(step_lengths, some_ranks, kinds, limits)
def test_every_rank_runs_equally_many_rounds_and_misses_at_most_the_last(lengths, ranks, kind, limit):
    division = divide(lengths, ranks, kind=kind, **limit._asdict())
    assert len(division) == ranks
    assert len({len(rank) for rank in division}) == 1
    assert all(part for rank in division for part in rank[:-1])
    if kind != "bucket" and len(lengths) >= ranks * len(division[0]):
        assert all(part for rank in division for part in rank)


@given(step_lengths, some_ranks, st.sampled_from(["bucket", "pad"]), limits)
def test_no_micro_batch_exceeds_its_limits(lengths, ranks, kind, limit):
    for part in (part for rank in divide(lengths, ranks, kind=kind, **limit._asdict()) for part in rank):
        assert len(part) <= (limit.rows or math.inf)
        assert len(part) <= 1 or len(part) * max(lengths[i] for i in part) <= (limit.tokens or math.inf)


@given(step_lengths, some_ranks, st.sampled_from(["pack", "pad"]), st.integers(1, 16))
def test_there_are_no_more_rounds_than_the_limit_asks_for(lengths, ranks, kind, rows):
    fewest = -(-len(lengths) // rows)
    assert len(divide(lengths, ranks, kind=kind, rows=rows)[0]) == -(-fewest // ranks)


@given(step_lengths, some_ranks, limits)
def test_the_division_depends_on_nothing_but_its_arguments(lengths, ranks, limit):
    once = divide(lengths, ranks, kind="bucket", **limit._asdict())
    assert once == divide(np.asarray(lengths, np.int32), ranks, kind="bucket", **limit._asdict())


@given(step_lengths, some_ranks, limits)
def test_pad_keeps_the_order_of_the_set_round_by_round(lengths, ranks, limit):
    division = divide(lengths, ranks, kind="pad", **limit._asdict())
    assert [i for parts in zip(*division, strict=True) for part in parts for i in part] == list(range(len(lengths)))


@given(step_lengths, some_ranks, st.integers(1, 16))
def test_pad_gives_micro_batches_of_nearly_equal_rows(lengths, ranks, rows):
    sizes = [len(part) for rank in divide(lengths, ranks, kind="pad", rows=rows) for part in rank if part]
    fair = math.ceil(len(lengths) / len(sizes))
    assert max(sizes) == fair


@given(step_lengths, some_ranks, limits)
def test_bucket_sorts_by_length(lengths, ranks, limit):
    parts = [sorted(lengths[i] for i in part) for rank in divide(lengths, ranks, kind="bucket", **limit._asdict()) for part in rank if part]
    parts.sort()
    assert all(before[-1] <= after[0] for before, after in pairwise(parts))


@given(st.lists(st.integers(1, 600), min_size=1, max_size=9), st.integers(1, 3), st.integers(1, 4))
def test_no_other_way_of_cutting_into_rounds_is_cheaper(lengths, ranks, rows):
    """A round of w rows has ceil(w / ranks) a rank, and costs every rank that many of its longest, and a forward."""
    unit = row_cost(np.asarray(sorted(lengths, reverse=True))).tolist()

    def cheapest(start: int) -> int:
        if start >= len(unit):
            return 0
        whole = range(ranks, ranks * rows + 1, ranks)
        return min(width * unit[start] + ranks * FORWARD_TOKENS * ATTENTION_LENGTH + cheapest(start + width) for width in whole)

    division = divide(lengths, ranks, kind="bucket", rows=rows)
    asked = 0
    for parts in zip(*division, strict=True):
        most, longest = max(map(len, parts)), max(lengths[i] for part in parts for i in part)
        assert min(map(len, parts)) >= most - 1
        asked += ranks * (most * int(row_cost(np.asarray([longest]))[0]) + FORWARD_TOKENS * ATTENTION_LENGTH)
    assert asked == cheapest(0)


@pytest.mark.parametrize(
    ("step", "rows", "ranks", "most"), [(64, 8, 2, 0.03), (64, 4, 2, 0.025), (64, 2, 2, 0.01), (8, 8, 1, 0.11), (8, 8, 2, 0.05), (256, 8, 8, 0.01)]
)
def test_waste_of_buckets_on_the_rows_of_gsm8k(step, rows, ranks, most):
    assert waste(step, ranks, rows=rows) < most


@pytest.mark.parametrize("limit", [{"rows": 8}, {"rows": 4}, {"tokens": 2048}])
@pytest.mark.parametrize("ranks", [2, 3])
def test_waste_of_packs_on_the_rows_of_gsm8k(ranks, limit):
    assert waste(64, ranks, kind="pack", **limit) < 0.01


def test_bucket_wastes_a_fifth_of_what_padding_in_order_does():
    assert waste(64, 2, rows=8) * 5 < waste(64, 2, rows=8, kind="pad")


@pytest.mark.parametrize(("ranks", "step", "limit"), [(2, 64, Limits(rows=8)), (3, 64, Limits(rows=8)), (4, 64, Limits(rows=4)), (8, 256, Limits(tokens=2048))])
def test_ranks_get_nearly_equal_work(ranks, step, limit):
    worst = []
    for lengths in gsm8k_steps(step, 30)[:-1]:
        work = [
            sum(len(part) * int(row_cost(lengths[part]).max()) for part in rank if part) for rank in divide(lengths, ranks, kind="bucket", **limit._asdict())
        ]
        worst.append(max(work) / (sum(work) / ranks))
    assert sum(worst) / len(worst) < 1.05


@given(step_lengths, some_ranks, limits)
def test_pack_bounds_real_tokens_and_rows(lengths, ranks, limit):
    for part in (part for rank in divide(lengths, ranks, kind="pack", **limit._asdict()) for part in rank):
        assert len(part) <= (limit.rows or math.inf)
        assert len(part) <= 1 or sum(lengths[i] for i in part) <= (limit.tokens or math.inf)


@given(step_lengths, some_ranks, st.integers(1, 4000))
def test_pack_is_at_most_one_and_a_half_times_as_many_micro_batches_as_tokens_need(lengths, ranks, tokens):
    """Longest first needs 11/9 of the best (Johnson 1973); beside it a multiple of the ranks, and each long row its own."""
    count = len(divide(lengths, ranks, kind="pack", tokens=tokens)[0]) * ranks
    alone = sum(length > tokens / 2 for length in lengths)
    assert count <= max(2 * -(-sum(min(length, tokens) for length in lengths) // tokens), alone + 1) + ranks


def test_pack_spreads_the_work_more_evenly_than_bucket():
    worst = {"pack": 0.0, "bucket": 0.0}
    for lengths in gsm8k_steps(64, 30):
        cost = row_cost(lengths)
        for kind in worst:
            work = [sum(int(cost[part].sum()) for part in rank) for rank in divide(lengths, 2, kind=kind, rows=8)]
            worst[kind] += max(work) / sum(work) * 2 - 1
    assert worst["pack"] < 0.3 * worst["bucket"]
    assert worst["pack"] / 30 < 0.01


@given(step_lengths, st.integers(1, 80), st.sampled_from(["bucket", "pack"]), limits)
def test_the_rows_of_the_dry_run_are_the_longest_that_fit_its_micro_batch(lengths, most_rows, kind, limit):
    ids = costliest(np.asarray(lengths, np.int32), most_rows, kind=kind, limits=limit).tolist()
    found = [lengths[i] for i in ids]
    assert len(set(ids)) == len(ids) <= min(most_rows, limit.rows or math.inf, len(lengths))
    assert found == sorted((length for length in lengths if length <= found[0]), reverse=True)[: len(found)]
    assert kind == "bucket" or found[0] == max(lengths)
