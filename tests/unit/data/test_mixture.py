"""Sources share an epoch exactly, every position is one example, and no row is used twice more often than another of its source."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunefleet.data.mixture import Mixture, Part, quotas

source_rows = st.lists(st.integers(1, 60), min_size=1, max_size=6)
weight = st.sampled_from([0.05, 0.3, 0.5, 1.0, 2.0, 3.3])
temperatures = st.sampled_from([0.5, 1.0, 2.0, 5.0, None])


@st.composite
def mixtures(draw):
    """(mixture, rows of each source, examples of each in an epoch)."""
    rows = draw(source_rows)
    weights = draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    seed, window = draw(st.integers(0, 2**64 - 1)), draw(st.integers(1, 9))
    found = quotas(rows, weights, temperature=draw(temperatures), seed=seed)
    cuts = [sorted(draw(st.sets(st.integers(1, n), max_size=4)) | {0, n}) for n in rows]
    lengths = [np.random.default_rng(n).integers(1, 30, n).astype(np.int32) for n in rows]
    parts = [Part(np.diff(cut).tolist(), sum(rows[:s]), found[s], lengths[s]) for s, cut in enumerate(cuts)]
    return lambda: Mixture(parts, seed, window), rows, found, np.concatenate(lengths)


@given(source_rows, st.data(), temperatures, st.integers(0, 2**64 - 1))
def test_shares_are_rounded_down_or_up_and_fill_the_epoch(rows, data, temperature, seed):
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    found = quotas(rows, weights, temperature=temperature, seed=seed)
    powers = [w * n ** (1 / temperature if temperature else 0) for w, n in zip(weights, rows, strict=True)]
    total = max(1, math.floor(sum(round(100 * w) * n for w, n in zip(weights, rows, strict=True)) / 100 + 0.5))
    assert sum(found) == total
    assert all(abs(quota - total * power / sum(powers)) < 1 + 1e-9 for quota, power in zip(found, powers, strict=True))


def test_weights_are_passes_and_no_temperature_makes_them_shares():
    assert quotas([100, 50], [1.0, 1.0]) == [100, 50]
    assert quotas([100, 50], [1.0, 2.0]) == [100, 100]
    assert quotas([10, 10], [0.7, 0.3]) == [7, 3]
    assert quotas([1000, 10], [3.0, 1.0], temperature=None) in ([2257, 753], [2258, 752])
    assert quotas([900, 100], [1.0, 1.0], temperature=2.0) == [750, 250]


def test_replay_comes_on_top():
    assert quotas([90], [1.0], replay=0.1) == [90, 10]
    assert quotas([30, 60], [1.0, 1.0], replay=0.25) == [30, 60, 30]


def test_the_rest_goes_to_each_source_as_often_as_its_share_says():
    """Three equal sources, 1,000 seeds, one example left over each time: binomial, five standard deviations."""
    found = np.asarray([quotas([10, 10, 11], [1.0, 1.0, 1.0], temperature=None, seed=seed) for seed in range(1000)])
    assert set(found.sum(1).tolist()) == {31}
    assert np.all(np.abs((found - 10).sum(0) - 1000 / 3) < 5 * math.sqrt(1000 * 2 / 9))


@given(mixtures())
def test_every_epoch_has_its_exact_shares_and_no_row_twice_more_often_than_another(made):
    make, rows, found, _ = made
    mixture, total = make(), Counter()
    for epoch in range(4):
        ids = mixture.at(epoch, 0, mixture.rows).tolist()
        uses = Counter(ids)
        total.update(uses)
        for s, quota in enumerate(found):
            own = range(sum(rows[:s]), sum(rows[: s + 1]))
            for counted in (uses, total):
                often = [counted[i] for i in own]
                assert max(often) - min(often) <= 1
            assert sum(uses[i] for i in own) == quota
        assert len(ids) == sum(found)


@given(mixtures())
def test_a_pass_ends_before_the_next_begins(made):
    make, rows, found, _ = made
    ids = make().at(2, 0, sum(found))
    for s, quota in enumerate(found):
        own = ids[(ids >= sum(rows[:s])) & (ids < sum(rows[: s + 1]))].tolist()
        passes = [own[i : i + rows[s]] for i in range(0, quota, rows[s])]
        assert all(len(set(one)) == len(one) for one in passes)


@given(mixtures(), st.integers(0, 6), st.data())
def test_a_part_of_an_epoch_is_that_part_of_the_whole(made, epoch, data):
    make, _, found, lengths = made
    whole = make().at(epoch, 0, sum(found))
    start = data.draw(st.integers(0, sum(found)))
    stop = data.draw(st.integers(start, sum(found)))
    fresh = make()
    np.testing.assert_array_equal(fresh.at(epoch, start, stop), whole[start:stop])
    assert fresh.tokens_before(epoch, stop) == int(lengths[whole[:stop]].sum())


@given(mixtures(), st.integers(0, 6))
def test_every_beginning_of_an_epoch_has_the_shares_too(made, epoch):
    make, rows, found, _ = made
    mixture = make()
    ids = mixture.at(epoch, 0, mixture.rows)
    for s, quota in enumerate(found):
        own = np.cumsum((ids >= sum(rows[:s])) & (ids < sum(rows[: s + 1])))
        assert np.all(np.abs(own - np.arange(1, len(ids) + 1) * quota / len(ids)) < 2 + len(found) / 2)


@given(mixtures())
def test_bounds_of_an_epochs_tokens_hold(made):
    make, _, found, lengths = made
    mean, least, most = make().epoch_tokens()
    tokens = [int(lengths[make().at(epoch, 0, sum(found))].sum()) for epoch in range(3)]
    assert least <= mean <= most
    assert all(least <= t <= most for t in tokens)


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1))
def test_passes_and_epochs_have_orders_of_their_own(seed):
    mixture = Mixture([Part([500, 500], 0, 2500)], seed, 2)
    epochs = [mixture.at(epoch, 0, 2500) for epoch in range(3)]
    orders = [tuple(ids[a : a + 1000].tolist()) for ids in epochs for a in (0, 1000)] + [tuple(ids[2000:].tolist()) for ids in epochs]
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("sources", [2, 3])
def test_few_shards_are_needed_at_a_time(sources):
    """A rest of a tenth of a source touches a tenth of its shards, not all of them."""
    mixture = Mixture([Part([100] * 50, 5000 * s, 500) for s in range(sources)], 0, 4)
    ids = mixture.at(3, 0, mixture.rows)
    assert len(set((ids // 100).tolist())) <= sources * (5 + 2 * 2)


def test_an_order_that_was_once_given_stays_for_ever():
    """A stored run would read other examples after a resume if these numbers changed: they never may."""
    mixture = Mixture([Part([7, 5], 0, 18), Part([4], 12, 2), Part([6, 6], 16, 12)], 3, 4)
    assert mixture.at(1, 0, 32).tolist() == [
        *(18, 3, 2, 20, 5, 17, 0, 4, 16, 1, 19, 6, 15, 8, 21, 11),
        *(27, 10, 9, 25, 7, 23, 5, 3, 24, 2, 22, 4, 12, 0, 26, 1),
    ]
    assert quotas([123, 45, 6], [1.0, 0.7, 3.0], temperature=3.0, seed=5) == [66, 34, 73]
