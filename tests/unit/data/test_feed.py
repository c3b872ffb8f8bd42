"""What a run reads: its own rows, those of an earlier version behind them, and an epoch that is shared as its file says."""

import numpy as np
import pytest
from shardtoys import make_feed, make_store, tokens_of

from tunefleet.cluster.errors import DataError
from tunefleet.data.mixture import Mixture
from tunefleet.data.order import Order
from tunefleet.data.packing import Limits
from tunefleet.data.stream import Stream


def test_sources_of_weight_one_are_read_in_the_plain_order(tmp_path):
    feed = make_feed(make_store(tmp_path, [5] * 20, sources=(0, 8)), 4)
    assert isinstance(feed.course, Order)
    assert feed.decisions() == []


def test_a_source_that_gave_no_row_keeps_the_weights_of_the_others_in_place(tmp_path):
    store = make_store(tmp_path, [5] * 20, sources=(0, 8, 8))
    assert [(share.name, share.quota) for share in make_feed(store, 4, weights=[1.0, 9.0, 0.5]).shares] == [("source-0", 8), ("source-2", 6)]


def test_the_shares_of_an_epoch_are_said(tmp_path):
    (said,) = make_feed(make_store(tmp_path, [5] * 20, sources=(0, 8)), 4, weights=[2.0, 1.0]).decisions()
    assert said == "data.mixture: an epoch has 28 examples: source-0 16 (57.1%; 2.00 passes), source-1 12 (42.9%; 1.00 passes)"


@pytest.mark.parametrize("size", [{"examples": 6}, {"tokens": 90}])
def test_replayed_rows_are_a_share_of_every_step_and_hold_their_own_tokens(tmp_path, size):
    earlier = make_store(tmp_path / "earlier", [11] * 40, fingerprint="e" * 64)
    store = make_store(tmp_path / "now", [7] * 30)
    feed = make_feed(store, **size, replay={"store": str(tmp_path / "earlier"), "ratio": 0.25})
    assert isinstance(feed.course, Mixture)
    assert [(share.name, share.ids, share.quota) for share in feed.shares] == [("train", range(30), 30), ("replay", range(30, 70), 10)]
    assert feed.rows.fingerprint not in (store.fingerprint, earlier.fingerprint)
    stream = Stream(feed, kind="bucket", limits=Limits(rows=4), rank=0, ranks=1)
    seen = []
    for step in range(4 * stream.steps_per_epoch):
        records = [record for r in stream.take(step) for record in r.records]
        assert 1 <= sum(record.id >= 30 for record in records) <= 3
        seen += [record.id for record in records]
        for record in records:
            old = record.id >= 30
            np.testing.assert_array_equal(record.columns["ids"], tokens_of(record.id - 30 if old else record.id, 11 if old else 7))
    assert sorted(seen) == sorted(4 * [*range(30)] + [*range(30, 70)]), "four epochs replay all of the forty, once"


@pytest.mark.parametrize(("ours", "theirs"), [({"tokenizer": {"encoder": "a"}}, {"tokenizer": {"encoder": "b"}}), ({"labels": ["no"]}, {"labels": ["yes"]})])
def test_rows_with_other_tokens_are_not_replayed(tmp_path, ours, theirs):
    make_store(tmp_path / "earlier", [5] * 4, meta=theirs)
    with pytest.raises(DataError, match=r"data.replay.store: its rows have other"):
        make_feed(make_store(tmp_path / "now", [7] * 3, meta=ours), 2, replay={"store": str(tmp_path / "earlier"), "ratio": 0.5})
