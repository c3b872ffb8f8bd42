"""The order of the rows is a permutation for every epoch, the same for ever, and needs a window of shards at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunefleet.data.mixing import GOLDEN, mixed
from tunefleet.data.order import Order, hashes

shard_rows = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
seeds = st.integers(0, 2**64 - 1)
windows = st.integers(1, 6)
epochs = st.integers(0, 1000)


@given(shard_rows, seeds, windows, epochs)
def test_every_epoch_reads_every_row_once(rows, seed, window, epoch):
    order = Order(rows, seed, window)
    assert sorted(order.at(epoch, 0, order.rows).tolist()) == list(range(sum(rows)))


@given(shard_rows, seeds, windows, epochs, st.data())
def test_a_part_of_an_epoch_is_that_part_of_the_whole(rows, seed, window, epoch, data):
    order = Order(rows, seed, window)
    whole = order.at(epoch, 0, order.rows)
    start = data.draw(st.integers(0, order.rows))
    stop = data.draw(st.integers(start, order.rows))
    fresh = Order(rows, seed, window)  # nothing was read before: this is what a resumed run sees
    np.testing.assert_array_equal(fresh.at(epoch, start, stop), whole[start:stop])


@given(shard_rows, seeds, windows, epochs)
def test_no_reader_needs_more_than_a_window_of_shards_and_comes_back_to_none(rows, seed, window, epoch):
    order = Order(rows, seed, window)
    shard_of = np.repeat(np.arange(len(rows)), rows)[order.at(epoch, 0, order.rows)]
    first = {s: int(np.flatnonzero(shard_of == s)[0]) for s in set(shard_of.tolist())}
    last = {s: int(np.flatnonzero(shard_of == s)[-1]) for s in first}
    for position in range(order.rows):
        assert sum(first[s] <= position <= last[s] for s in first) <= window


def test_epochs_and_seeds_give_different_orders_and_different_windows():
    rows = [50] * 8
    orders = {tuple(Order(rows, seed, 2).at(epoch, 0, 400).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    windows = {frozenset((Order(rows, 0, 2).at(epoch, 0, 100) // 50).tolist()) for epoch in range(20)}
    assert len(windows) > 5


def test_the_hash_is_splitmix64_as_published():
    """The generator's first outputs from state 0 are the function's values at multiples of its increment."""
    states = np.arange(1, 4, dtype=np.uint64) * GOLDEN
    assert [hex(int(v)) for v in mixed(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_an_order_that_was_once_given_stays_for_ever():
    """A stored run would read other examples after a resume if these numbers changed: they never may."""
    assert Order([7, 5, 6], seed=3, window=2).at(0, 0, 18).tolist() == [15, 10, 13, 7, 11, 16, 14, 17, 9, 8, 12, 2, 0, 3, 5, 4, 1, 6]
    assert Order([7, 5, 6], seed=3, window=2).at(1, 0, 18).tolist() == [13, 9, 7, 17, 8, 16, 11, 14, 10, 15, 12, 0, 3, 2, 5, 4, 1, 6]
    assert Order([1000] * 40, seed=2**63 + 11, window=4).at(9, 20_000, 20_006).tolist() == [32139, 32566, 32932, 28695, 32868, 32302]


def test_no_two_rows_share_a_key():
    keys = hashes(12, 3, 2, np.arange(100_000, dtype=np.int64))
    assert len(np.unique(keys)) == len(keys)


@pytest.mark.parametrize("window", [1, 3])
def test_every_row_comes_first_equally_often(window):
    """Chi-square over 1,200 seeds and 6 rows; 25.7 would be exceeded once in ten thousand."""
    firsts = np.bincount([int(Order([2, 2, 2], seed, window).at(0, 0, 1)[0]) for seed in range(1200)], minlength=6)
    assert float(((firsts - 200) ** 2 / 200).sum()) < 25.7


def test_the_end_of_ten_billion_rows_is_reached_without_looking_at_the_rest():
    order = Order([10_000] * 1_000_000, seed=0, window=2)  # all of them would be 80 GB of ids
    ids = order.at(5, order.rows - 20_000, order.rows)
    assert len(set((ids // 10_000).tolist())) <= 2
    assert len(np.unique(ids)) == 20_000


@settings(max_examples=20)
@given(seeds)
def test_neighbours_in_a_file_are_not_neighbours_in_the_order(seed):
    ids = Order([5000], seed, 1).at(0, 0, 5000)
    assert int((np.abs(np.diff(ids)) == 1).sum()) < 15  # about 2 are expected
