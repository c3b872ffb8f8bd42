"""Steps cover an epoch without gap, are never empty, and are found by looking at a few windows, wherever they stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.data.mixture import Mixture, Part
from tunefleet.data.order import Order
from tunefleet.data.steps import ByExamples, ByTokens, StepSize, steps_of

shard_rows = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


def lengths_of(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 30, rows).astype(np.int32)


def course_of(shards, lengths, seed, window, quota):
    return Mixture([Part(shards, 0, quota, lengths)], seed, window) if quota else Order(shards, seed, window, lengths)


@given(st.integers(1, 500), st.integers(1, 50), st.integers(0, 200))
def test_steps_of_examples_cover_each_epoch_without_gap_and_drop_nothing(rows, batch, epoch):
    steps = ByExamples(rows, batch)
    assert steps.per_epoch == -(-rows // batch)
    ranges = [steps.range(epoch * steps.per_epoch + i) for i in range(steps.per_epoch)]
    assert {r.epoch for r in ranges} == {epoch}
    assert [r.start for r in ranges] == list(range(0, rows, batch))
    assert [r.stop for r in ranges] == [*(r.start for r in ranges[1:]), rows]


@given(shard_rows, st.integers(0, 99), st.integers(1, 4), st.integers(0, 60), st.integers(1, 200), st.integers(0, 5))
def test_steps_of_tokens_cover_each_epoch_without_gap_and_are_alike(shards, seed, window, quota, budget, epoch):
    lengths = lengths_of(sum(shards), seed)
    course = course_of(shards, lengths, seed, window, quota)
    steps = ByTokens(course, lengths, budget)
    ranges = [steps.range(epoch * steps.per_epoch + i) for i in range(steps.per_epoch)]
    assert [ranges[0].start, *(r.stop for r in ranges)] == [*(r.start for r in ranges), course.rows]
    assert all(0 < r.stop - r.start <= steps.most_rows for r in ranges)
    tokens = [int(lengths[course.at(*r)].sum()) for r in ranges]
    assert all(abs(found - sum(tokens) / len(tokens)) < lengths.max() for found in tokens)
    if not quota and budget >= 2 * lengths.max():
        assert steps.per_epoch == -(-int(lengths.sum()) // budget), "as few steps as the budget allows"


@given(shard_rows, st.integers(0, 99), st.integers(0, 60), st.data())
def test_a_step_is_found_without_having_looked_at_another(shards, seed, quota, data):
    lengths = lengths_of(sum(shards), seed)

    def steps():
        return ByTokens(course_of(shards, lengths, seed, 2, quota), lengths, 60)

    whole = steps()
    step = data.draw(st.integers(0, 3 * whole.per_epoch))
    ranges = [whole.range(i) for i in range(step + 1)]
    assert steps().range(step) == ranges[-1]


@pytest.mark.parametrize("size", [StepSize(64, None), StepSize(None, 16_384)], ids=["examples", "tokens"])
@pytest.mark.parametrize("parts", [1, 2])
def test_resuming_anywhere_costs_the_same_for_ten_million_rows_as_for_ten_thousand(parts, size, monkeypatch):
    """Counted in rows that are hashed: a window's worth, a few times, at 1%, 50% and 99% of an epoch. benchmarks/resume.py takes the time."""
    from tunefleet.data import order

    def hashed(rows: int, share: float) -> int:
        lengths = np.random.default_rng(0).integers(50, 500, rows).astype(np.int32)
        shards = [1000] * (rows // 1000)
        half = len(shards) // 2
        mixed = [Part(shards[:half], 0, rows // 3, lengths[: rows // 2]), Part(shards[half:], rows // 2, rows, lengths[rows // 2 :])]
        course = Order(shards, 0, 4, lengths) if parts == 1 else Mixture(mixed, 0, 4)
        steps = steps_of(course, lengths, size)
        seen, hashes = [], order.hashes

        def count(*args):
            if len(args[3]) != len(shards):  # the order of the shards themselves is part of the index
                seen.append(len(args[3]))
            return hashes(*args)

        with monkeypatch.context() as patch:
            patch.setattr(order, "hashes", count)
            course.at(*steps.range(int(steps.per_epoch * share)))
        return sum(seen)

    few = max(hashed(10_000, share) for share in (0.01, 0.5, 0.99))
    many = max(hashed(10_000_000, share) for share in (0.01, 0.5, 0.99))
    assert 0 < many <= 4 * few
    assert many < 100_000
