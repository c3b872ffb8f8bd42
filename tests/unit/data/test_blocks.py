"""Blocks: together they are the file, and a change of the file changes the blocks that it is in and few others."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storage import open_storage
from tunefleet.data import blocks as blocks_module
from tunefleet.data.blocks import Sizes, read_block, scan
from tunefleet.data.rows import read_rows
from tunefleet.data.settings import Source

SMALL = Sizes(least=60, mean=120, most=400)


def cut(path: Path, sizes: Sizes = SMALL, **settings):
    source = Source(path=str(path), **settings)
    return source, scan(source, str(path), sizes, open_storage(path.parent / "store"))


def rows_of(found) -> list[tuple]:
    return [(row.path, row.line, dict(row.values), row.problem) for row in found]


def check_tiles(path: Path, **settings) -> int:
    """The rows of all blocks are those of the file, with their lines; returns how many blocks there are."""
    source, found = cut(path, **settings)
    assert [row for block in found.blocks for row in rows_of(read_block(source, block))] == rows_of(read_rows(source))
    return len(found.blocks)


lines = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30), max_size=40)


@settings(max_examples=40, deadline=None)
@given(texts=lines, chunk=st.integers(1, 50), end=st.sampled_from(["", "\n", "\n\n"]))
def test_blocks_of_json_lines_are_the_file(tmp_path_factory, texts, chunk, end):
    folder = tmp_path_factory.mktemp("rows")
    before, blocks_module._CHUNK_BYTES = blocks_module._CHUNK_BYTES, chunk
    try:
        (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) if len(text) % 5 else text for text in texts) + end)
        check_tiles(folder / "a.jsonl")
    finally:
        blocks_module._CHUNK_BYTES = before


@settings(max_examples=40, deadline=None)
@given(texts=lines, chunk=st.integers(1, 50), separator=st.sampled_from(["<|end|>", "\n\n", "é", "aba"]))
def test_blocks_of_documents_are_the_file(tmp_path_factory, texts, chunk, separator):
    folder = tmp_path_factory.mktemp("rows")
    before, blocks_module._CHUNK_BYTES = blocks_module._CHUNK_BYTES, chunk
    try:
        (folder / "a.txt").write_bytes(separator.join(text + "\n ab" * (len(text) % 3) for text in texts).encode())
        check_tiles(folder / "a.txt", separator=separator)
    finally:
        blocks_module._CHUNK_BYTES = before


def test_a_document_that_is_longer_than_a_block_and_one_without_a_separator_are_whole(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 5000 + "<|endoftext|>" + "y" * 3000)
    assert check_tiles(tmp_path / "a.txt") == 2
    (tmp_path / "b.txt").write_text("x" * 5000)
    assert check_tiles(tmp_path / "b.txt", separator="") == 1


def test_parquet_is_cut_at_its_row_groups_and_what_cannot_be_cut_is_one_block(tmp_path):
    rows = [{"text": f"row {i} " * 5} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=30)
    assert check_tiles(tmp_path / "a.parquet") == 4
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"one\ntwo {i}"\n' for i in range(100)))
    assert [check_tiles(tmp_path / name) for name in ("a.jsonl.gz", "a.json", "a.csv")] == [1, 1, 1]


def test_a_change_of_the_rows_changes_few_blocks(tmp_path):
    rows = [json.dumps({"text": f"{i} " + "word " * random.Random(i).randrange(20)}) for i in range(1000)]
    path = tmp_path / "a.jsonl"
    contents = {}
    for name, changed in {
        "before": rows,
        "inserted": [*rows[:500], '{"text": "new"}', *rows[500:]],
        "removed": [*rows[:300], *rows[301:]],
        "added": [*rows, '{"text": "new"}'],
        "moved": rows[500:] + rows[:500],
    }.items():
        path.write_text("\n".join(changed) + "\n")
        contents[name] = {block.content for block in cut(path)[1].blocks}
        assert check_tiles(path) > 200
    for name in ("inserted", "removed", "added", "moved"):
        assert len(contents[name] - contents["before"]) <= 3, name


def test_sizes_hold_but_for_rows_that_are_longer(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "w" * random.Random(i).randrange(300)}) + "\n" for i in range(500)))
    sizes = [block.bytes for block in cut(path)[1].blocks]
    assert min(sizes[:-1]) >= SMALL.least
    assert max(sizes) <= SMALL.most + 320
    assert SMALL.mean / 2 < sum(sizes) / len(sizes) < SMALL.mean * 3


def test_a_file_that_has_not_changed_is_not_read_again_and_one_that_has_is(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 40)
    _, first = cut(path)
    with monkeypatch.context() as patch:
        patch.setattr(blocks_module, "_cut", None)
        assert cut(path)[1] == first
    path.write_text('{"text": "b"}\n' * 41)
    assert cut(path)[1].content != first.content


def test_a_block_that_is_no_longer_there_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 40)
    source, found = cut(path)
    path.write_text('{"text": "b"}\n' * 40)
    with pytest.raises(DataError, match="changed while it was prepared"):
        list(read_block(source, found.blocks[0]))
