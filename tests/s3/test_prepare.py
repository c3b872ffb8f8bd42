"""Preparation straight onto S3: the same store as in a folder, its versions listed there, and added rows tokenised alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from preparations import check_the_verb, three_versions

from tunefleet.cluster.storage import open_storage

pytestmark = pytest.mark.s3


def test_versions_on_s3_are_those_of_a_folder(s3_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, here = three_versions(tmp_path, s3_address), three_versions(tmp_path, str(tmp_path / "shards"))
    assert [one.version for one in there] == [one.version for one in here]
    for one, other in zip(there, here, strict=True):
        assert one.counts == other.counts
        files = open_storage(other.store).list()
        assert open_storage(one.store).list() == files
        for name in (name for name in files if name.endswith((".arrow", ".jsonl"))):
            assert open_storage(one.store).read(name) == open_storage(other.store).read(name)
    check_the_verb(s3_address, there, capsys)


def test_a_store_on_s3_is_found_and_blocks_that_stand_are_not_made_again(s3_address: str, tmp_path: Path) -> None:
    first = three_versions(tmp_path, s3_address)
    again = three_versions(tmp_path, s3_address)
    assert [one.created for one in again] == [False] * 3
    (index,) = (name for name in open_storage(first[1].store).list() if name == "index.json")
    open_storage(first[1].store).delete(index)
    anew = three_versions(tmp_path, s3_address)
    assert [(one.created, one.blocks - one.found) for one in anew] == [(False, 0), (True, 0), (False, 0)]
