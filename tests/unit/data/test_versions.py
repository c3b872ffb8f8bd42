"""A version is its rows, whatever their order and files; two versions differ in the rows that one has and the other has not."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparations import check_the_verb, three_versions
from runs import events, make_stage, small_run
from shardtoys import edit_index

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storage import open_storage
from tunefleet.data.versions import Rows, difference, found_version, listed, version_of
from tunefleet.tuning.cli import main

hashes = st.lists(st.integers(0, 12), max_size=30)


def rows(content) -> Rows:
    return Rows(np.asarray(content, np.uint64), {}, np.zeros(len(content), bool))


@given(before=hashes, after=hashes)
def test_a_difference_is_that_of_bags(before, after):
    found = difference(rows(before), rows(after))
    assert Counter(after[i] for i in found.added) == Counter(after) - Counter(before)
    assert Counter(before[i] for i in found.removed) == Counter(before) - Counter(after)
    assert found.same == (Counter(before) & Counter(after)).total()


@given(content=hashes, seed=st.integers(0, 99))
def test_a_version_has_no_order_and_knows_which_rows_are_held_out(content, seed):
    content = np.asarray(content, np.uint64)
    held = np.arange(len(content)) % 3 == 0
    order = np.random.default_rng(seed).permutation(len(content))
    assert version_of(content, held) == version_of(content[order], held[order])
    if len(set(content.tolist())) == len(content) > 0:
        assert version_of(content, held) != version_of(content, ~held)
    if len(content):
        assert version_of(content, held) != version_of(np.append(content, content[:1]), np.append(held, held[:1]))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three preparations: rows, the same in two files and another order, and with two rows more and one less."""
    folder = tmp_path_factory.mktemp("rows")
    return str(folder / "shards"), three_versions(folder, str(folder / "shards"))


def test_the_same_rows_are_the_same_version_wherever_they_stand(store):
    _, (first, moved, changed) = store
    assert first.version == moved.version != changed.version
    assert first.fingerprint != moved.fingerprint


def test_the_verb_lists_shows_and_compares(store, capsys):
    check_the_verb(*store, capsys)


def test_one_row_less_and_two_more_are_named_by_file_and_line(store, capsys):
    address, (first, _, changed) = store
    assert main(["data", "diff", address, first.fingerprint, changed.fingerprint, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [place.rpartition("/")[2] for place in found["added_rows"]] == ["0.jsonl:50", "0.jsonl:51"]
    assert [place.rpartition("/")[2] for place in found["removed_rows"]] == ["0.jsonl:1"]


def test_a_version_that_is_none_is_refused_with_those_that_there_are(store):
    address, (first, *_) = store
    with pytest.raises(DataError, match="no such version") as caught:
        found_version(open_storage(address), "zzz")
    assert first.version in caught.value.want
    with pytest.raises(DataError, match="begins several"):
        found_version(open_storage(address), "")
    assert main(["data", "show", address, "zzz"]) == 2
    assert main(["data", "show", address]) == 2
    assert len(listed(open_storage(address))[0]) == 3


def test_a_store_that_cannot_be_read_hides_no_other(store, tmp_path, capsys):
    address, (first, moved, changed) = store
    copy = shutil.copytree(address, tmp_path / "copy")
    edit_index(copy / Path(moved.store).name, lambda index: index["counts"].update(rows=1), seal=False)
    assert main(["data", "list", str(copy), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [one["fingerprint"] for one in json.loads(out)] == [first.fingerprint, changed.fingerprint]
    assert Path(moved.store).name in err


def test_where_nothing_was_prepared_the_list_is_empty_and_says_so(tmp_path, capsys):
    assert main(["data", "list", str(tmp_path)]) == 0
    assert "nothing was prepared there" in capsys.readouterr().err
    assert main(["data", "list", "--json", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_records_the_version_that_it_ate(tmp_path):
    run = small_run(tmp_path)
    make_stage(run)
    (version,), _ = listed(open_storage(run.data.store))
    (told,) = [event for event in events(run) if event["event"] == "prepared"]
    assert (told["data_version"], told["fingerprint"]) == (version.version, version.fingerprint)
