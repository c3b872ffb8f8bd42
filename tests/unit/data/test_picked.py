"""Rows that are gathered into a matrix are the rows that are read one by one, wherever they stand in their shards."""

import random

import numpy as np
import pytest
from shardtoys import make_store

from tunefleet.data.feed import Joined
from tunefleet.data.picked import Picked, padded


@pytest.mark.parametrize("shard_bytes", [1, 200, 1000, 1 << 20])
@pytest.mark.parametrize("longest", [1, 9, 60])
def test_a_matrix_of_picked_rows_is_that_of_the_rows_read_one_by_one(tmp_path, shard_bytes, longest):
    chance = random.Random(longest)
    rows = make_store(tmp_path, [chance.randint(1, longest) for _ in range(50)], shard_bytes=shard_bytes).split("train")
    for _ in range(40):
        ids = np.asarray([chance.randrange(50) for _ in range(chance.randint(1, 12))])
        picked, one_by_one = rows.pick(ids), rows.records(ids.tolist())
        assert [record.id for record in picked] == ids.tolist()
        for column, fill in (("ids", -3), ("supervised", 0)):
            for found, expected in zip(padded(picked, column, fill), padded(one_by_one, column, fill), strict=True):
                assert found.dtype == np.int64
                np.testing.assert_array_equal(found, expected)


def test_a_part_of_picked_rows_is_picked_rows(tmp_path):
    picked = make_store(tmp_path, [5, 2, 7, 4]).split("train").pick(np.asarray([3, 0, 2]))
    part = picked[1:]
    assert isinstance(part, Picked)
    assert [record.id for record in part] == [0, 2]
    assert padded(part, "ids", 0)[1].tolist() == [5, 7]
    assert picked[-1].id == 2


def test_a_matrix_is_a_copy(tmp_path):
    picked = make_store(tmp_path, [5, 5]).split("train").pick(np.asarray([0]))
    before = picked[0].columns["ids"].copy()
    padded(picked, "ids", 0)[0][:] = -1
    np.testing.assert_array_equal(picked[0].columns["ids"], before)


def test_rows_of_several_splits_are_gathered_as_one(tmp_path):
    chance = random.Random(0)
    splits = [make_store(tmp_path / str(n), [chance.randint(1, 30) for _ in range(20)], shard_bytes=300).split("train") for n in range(3)]
    joined = Joined(splits)
    for _ in range(20):
        ids = np.asarray([chance.randrange(60) for _ in range(9)])
        one_by_one = [splits[i // 20].record(i % 20) for i in ids.tolist()]
        picked = joined.pick(ids)
        assert [record.id for record in picked] == ids.tolist()
        for found, expected in zip(padded(picked, "ids", -1), padded(one_by_one, "ids", -1), strict=True):
            np.testing.assert_array_equal(found, expected)
