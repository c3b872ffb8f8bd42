"""Kinds of source: whatever file rows stand in, they come out alike, few at a time, and nothing in a file is trusted before it was looked through."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.cluster.plugins import kinds
from tunefleet.data.origin import SOURCES, make_origin
from tunefleet.data.rows import read_rows, source_files
from tunefleet.data.settings import Source

ROWS = [{"prompt": f"p{i}", "completion": f"c{i} é日"} for i in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(path: Path | str, **more) -> list[dict]:
    found = list(read_rows(Source(path=str(path), **more)))
    assert not any(row.problem for row in found)
    return [dict(row.values) for row in found]


def write_arrow(path: Path, table: pa.Table, *, stream: bool = False) -> Path:
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    return path


def zst(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize("kind", kinds(SOURCES))
def test_no_two_kinds_read_the_same_files(kind):
    own = make_origin(kind).suffixes
    assert not any(suffix in make_origin(other).suffixes for other in kinds(SOURCES) if other != kind for suffix in own)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_compressed_lines_are_lines(tmp_path, suffix):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}[suffix]
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    (tmp_path / f"rows.jsonl.{suffix}").write_bytes(pack(LINES[:half]) + pack(LINES[half:]))  # several members in one file, as parallel packers write it
    assert read(tmp_path) == ROWS


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
def test_a_compressed_file_that_ends_too_early_is_an_error_with_file_and_line(tmp_path, suffix):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst}[suffix]
    path = tmp_path / f"rows.jsonl.{suffix}"
    path.write_bytes(pack(LINES)[:-20])
    with pytest.raises(DataError, match=r"rows\.jsonl\..*:\d+: the file cannot be read to its end"):
        list(read_rows(Source(path=str(path))))


@pytest.mark.parametrize("kind", ["file", "stream", "feather", "lz4"])
def test_arrow_files_and_streams_give_the_same_rows(tmp_path, kind):
    table = pa.Table.from_pylist(ROWS)
    if kind in ("file", "stream"):
        write_arrow(tmp_path / "rows.arrow", table, stream=kind == "stream")
    else:
        feather.write_feather(table, tmp_path / "rows.feather", compression="lz4" if kind == "lz4" else "uncompressed")
    assert read(tmp_path) == ROWS
    assert [row.line for row in read_rows(Source(path=str(tmp_path)))] == list(range(1, 51))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.arrow", "rows.parquet", "rows.jsonl.zst"])
def test_any_address_of_fsspec_is_read_like_a_file(tmp_path, name):
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    (tmp_path / "rows.jsonl.zst").write_bytes(zst(LINES))
    write_arrow(tmp_path / "rows.arrow", pa.Table.from_pylist(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/{tmp_path.name}/{name}", (tmp_path / name).read_bytes())
    assert read(f"memory://{tmp_path.name}/{name}") == ROWS
    assert read(f"memory://{tmp_path.name}/") == ROWS


def test_what_datasets_saved_is_read_as_it_was_meant(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"]), "extra": datasets.Json()})
    rows = {"text": ["a", "b", "c"], "label": [1, 0, 1], "extra": [{"x": 1}, ["y"], None]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": saved, "test": saved.select([2])}).save_to_disk(tmp_path / "two")
    saved.to_parquet(tmp_path / "rows.parquet")
    want = [{"text": "a", "label": "good", "extra": {"x": 1}}, {"text": "b", "label": "bad", "extra": ["y"]}, {"text": "c", "label": "good", "extra": None}]
    assert read(tmp_path / "one") == want
    assert read(tmp_path / "two") == want
    assert read(tmp_path / "two", split="test") == want[2:]
    assert read(tmp_path / "rows.parquet") == want
    with pytest.raises(DataError, match="no such split") as caught:
        source_files(Source(path=str(tmp_path / "two"), split="tset"))
    assert caught.value.fix == "did you mean test?"


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", ".hidden.arrow", "sub/rows.arrow"])
def test_a_saved_data_set_that_names_files_outside_of_its_folder_is_refused(tmp_path, name):
    write_arrow(tmp_path / "secret.arrow", pa.Table.from_pylist(ROWS))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="outside of its folder"):
        list(read_rows(Source(path=str(tmp_path / "set"))))


def test_keys_that_a_column_of_objects_gave_to_every_row_are_taken_out(tmp_path):
    turns = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}]]
    pq.write_table(pa.Table.from_pylist([{"messages": row, "note": None} for row in turns]), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [
        {"messages": [{"role": "user", "content": "a"}], "note": None},
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}], "note": None},
    ]


def test_text_in_an_arrow_column_that_is_no_utf8_spoils_only_its_row(tmp_path):
    data = pa.array([b"good", b"b\xffd", b"fine"])
    column = pa.StringArray.from_buffers(3, data.buffers()[1], data.buffers()[2])
    write_arrow(tmp_path / "rows.arrow", pa.table({"text": column}))
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    for name in ("rows.arrow", "rows.parquet"):
        found = list(read_rows(Source(path=str(tmp_path / name))))
        assert [row.line for row in found if row.problem] == [2]
        assert "not UTF-8" in found[1].problem
        assert [row.values["text"] for row in found if not row.problem] == ["good", "fine"]


def test_a_column_of_a_type_that_is_no_row_is_refused_by_name(tmp_path):
    write_arrow(tmp_path / "rows.arrow", pa.table({"ok": ["a"], "odd": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}))
    with pytest.raises(DataError, match="the column odd cannot be read"):
        read(tmp_path / "rows.arrow")


class Running(pa.ExtensionType):
    """A type that leaves a file behind when a schema that holds it is built."""

    sentinel: Path

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.running")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        cls.sentinel.touch()
        return cls()


@pytest.fixture
def trap(tmp_path):
    Running.sentinel = tmp_path / "sentinel"
    pa.register_extension_type(Running())
    Running.sentinel.unlink(missing_ok=True)
    yield Running.sentinel
    pa.unregister_extension_type("tests.running")


def _deep(column: pa.Array, shape: str) -> pa.Array:
    field = pa.field("inner", column.type)
    if shape == "list":
        return pa.ListArray.from_arrays([0, 1, 2], column)
    return column if shape == "flat" else pa.StructArray.from_arrays([column], fields=[field])


@pytest.mark.parametrize("shape", ["flat", "list", "struct"])
@pytest.mark.parametrize("name", ["rows.arrow", "rows.arrows", "rows.parquet"])
def test_an_extension_type_is_refused_before_its_code_runs(tmp_path, trap, name, shape):
    odd = pa.ExtensionArray.from_storage(Running(), pa.array([1, 2]))
    harmless = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", "1"]))
    table = pa.table({"text": ["a", "b"], "fine": harmless, "odd": _deep(odd, shape)})
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    else:
        write_arrow(path, table, stream=name.endswith("s"))
    trap.unlink(missing_ok=True)
    with pytest.raises(DataError, match="extension type, which may run code") as caught:
        list(read_rows(Source(path=str(path))))
    assert "tests.running" in caught.value.got
    assert not trap.exists()
    if name.endswith(".parquet"):
        pq.read_metadata(path)
    else:
        (pa.ipc.open_stream if name.endswith("s") else pa.ipc.open_file)(str(path))
    assert trap.exists()  # the file is one that would have run


@pytest.mark.parametrize("place", range(8, 320, 7))
def test_a_schema_with_any_byte_changed_is_read_or_refused_and_never_crashes(tmp_path, place):
    path = write_arrow(tmp_path / "rows.arrow", pa.table({"a": ["x"], "b": [1]}))
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    with suppress(DataError):  # anything else that pyarrow may raise fails the test
        list(read_rows(Source(path=str(path))))


def test_a_large_row_group_is_not_held_whole(tmp_path):
    rows = 40_000
    table = pa.table({"text": pa.array([f"{i:09d}" * 120 for i in range(rows)])})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=rows, use_dictionary=False, compression="none")
    size = table.nbytes
    del table
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    for count, _ in enumerate(read_rows(Source(path=str(tmp_path / "rows.parquet")))):
        most = max(most, pool.bytes_allocated() - before) if count % 100 == 0 else most
    assert count == rows - 1
    assert size > 40_000_000
    assert most < size / 3


def test_a_file_without_a_header_gets_its_columns_from_the_run_file(tmp_path):
    (tmp_path / "rows.tsv").write_text("a fine film\t1\na dull one\t0\n")
    assert read(tmp_path / "rows.tsv", header=["text", "label"]) == [{"text": "a fine film", "label": "1"}, {"text": "a dull one", "label": "0"}]
    assert [row.line for row in read_rows(Source(path=str(tmp_path / "rows.tsv"), header=["text", "label"]))] == [1, 2]
    with pytest.raises(DataError, match="names no columns"):
        read(tmp_path / "rows.tsv", header=["text", "text"])


@pytest.mark.parametrize(("name", "head"), [("rows.jsonl", ""), ("rows.csv", "text\r\n"), ("rows.txt", "")])
def test_marks_and_carriage_returns_change_no_line_number(tmp_path, name, head):
    rows = ['{"text": "one"}', '{"text": "two"}'] if name == "rows.jsonl" else ["one", "two"]
    between = "\r\n<|endoftext|>\r\n" if name == "rows.txt" else "\r\n\r\n"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (head + rows[0] + between + rows[1] + "\r\n").encode())
    first = 2 if head else 1
    assert [(row.line, row.values["text"]) for row in read_rows(Source(path=str(tmp_path / name)))] == [(first, "one"), (first + 2, "two")]


def test_an_own_kind_of_source_is_one_module(tmp_path, monkeypatch):
    (tmp_path / "ownlab").mkdir()
    (tmp_path / "ownlab" / "trec.py").write_text(
        "from typing import ClassVar, Literal\n"
        "from tunefleet.cluster.settings import Settings\n"
        "from tunefleet.data.files import find_files, open_text\n"
        "class Trec:\n"
        "    class Config(Settings):\n"
        "        kind: Literal['ownlab.trec'] = 'ownlab.trec'\n"
        "    suffixes: ClassVar = ()\n"
        "    def __init__(self, config): self.config = config\n"
        "    def addresses(self, source): return find_files(source.path, ('.label',))\n"
        "    def read(self, source, address):\n"
        "        with open_text(address) as lines:\n"
        "            for number, line in enumerate(lines, start=1):\n"
        "                label, _, text = line.strip().partition(' ')\n"
        "                yield number, {'text': text, 'label': label}, ''\n"
    )
    (tmp_path / "train.label").write_text("NUM:dist How far is it?\nLOC:city Which one?\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read(tmp_path / "train.label", kind="ownlab.trec")[1] == {"text": "Which one?", "label": "LOC:city"}
    with pytest.raises(SettingsError, match="unknown kind in sources"):
        source_files(Source(path=str(tmp_path / "train.label"), kind="parqet"))
