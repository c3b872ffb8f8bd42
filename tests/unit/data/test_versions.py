"""A version is its rows, whatever their order and files; two versions differ in the rows that one has and the other has not."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storage import open_storage
from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import prepare
from tunefleet.data.settings import Data
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
    folder, tokenizer = tmp_path_factory.mktemp("rows"), tiny_tokenizer("bytes")
    lines = [json.dumps({"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."}) + "\n" for i in range(52)]

    def made(*files):
        for number, part in enumerate(files):
            (folder / f"{number}.jsonl").write_text("".join(part))
        data = Data(train=[{"path": str(folder / f"{n}.jsonl")} for n in range(len(files))], store=str(folder / "shards"), holdout=0.2, max_length=200)
        return prepare(data, ANSWERS, tokenizer)

    return str(folder / "shards"), [made(lines[:50]), made(lines[20:50], lines[:20]), made(lines[1:])]


def test_the_same_rows_are_the_same_version_wherever_they_stand(store):
    _, (first, moved, changed) = store
    assert first.version == moved.version != changed.version
    assert first.fingerprint != moved.fingerprint


def test_the_verb_lists_shows_and_compares(store, capsys):
    address, (first, moved, changed) = store
    assert main(["data", "list", address, "--json"]) == 0
    assert [one["fingerprint"] for one in json.loads(capsys.readouterr().out)] == [first.fingerprint, moved.fingerprint, changed.fingerprint]
    assert main(["data", "show", address, changed.fingerprint[:8], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["counts"]) == (changed.version, changed.counts)
    assert main(["data", "diff", address, first.version, changed.version, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["added"], found["removed"]) == (49, 2, 1)
    assert [place.rpartition("/")[2] for place in found["added_rows"]] == ["0.jsonl:50", "0.jsonl:51"]
    for words in (["list", address], ["show", address, first.version[:6]], ["diff", address, first.version, changed.version]):
        assert main(["data", *words]) == 0
        assert capsys.readouterr().out


def test_a_version_that_is_none_is_refused_with_those_that_there_are(store):
    address, (first, *_) = store
    with pytest.raises(DataError, match="no such version") as caught:
        found_version(open_storage(address), "zzz")
    assert first.version in caught.value.want
    assert main(["data", "show", address, "zzz"]) == 2
    assert main(["data", "show", address]) == 2
    assert len(listed(open_storage(address))) == 3
