"""Rows come out of every kind of file alike, each with its line, and a bad one never takes the others with it."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunefleet.cluster.errors import DataError
from tunefleet.data.rows import read_rows, source_files
from tunefleet.data.settings import Source
from tunefleet.data.sources import plain_text

ROWS = [{"question": "One?", "answer": "1, or\n“eins”"}, {"question": "Two?", "answer": '2 "zwei"\ttwo'}, {"question": "Three?", "answer": "3"}]


def write_csv(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write(folder: Path, name: str) -> Path:
    path = folder / name
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    match name:
        case "list.json":
            path.write_text(json.dumps(ROWS, indent=1))
        case "data.json":
            path.write_text(json.dumps({"version": "1", "data": ROWS, "licence": None}, indent=1))
        case "named.json":
            path.write_text(json.dumps({f"row-{i}": row for i, row in enumerate(ROWS)}, indent=1))
        case "lines.json" | "rows.jsonl" | "rows.ndjson":
            path.write_text(lines, encoding="utf-8")
        case "marked.jsonl":
            path.write_text("\ufeff" + lines, encoding="utf-8")
        case "rows.jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "rows.csv" | "rows.tsv":
            write_csv(path, "," if name.endswith("csv") else "\t")
        case "rows.parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


KINDS = [
    "list.json",
    "data.json",
    "named.json",
    "lines.json",
    "rows.jsonl",
    "rows.ndjson",
    "marked.jsonl",
    "rows.jsonl.gz",
    "rows.csv",
    "rows.tsv",
    "rows.parquet",
]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    found = list(read_rows(Source(path=str(write(tmp_path, name)))))
    assert [dict(row.values) for row in found] == ROWS
    assert not any(row.problem for row in found)


@pytest.mark.parametrize("name", ["list.json", "named.json", "data.json", "rows.jsonl", "rows.csv"])
def test_a_row_knows_the_line_where_it_begins(tmp_path, name):
    path = write(tmp_path, name)
    lines = path.read_text(encoding="utf-8").split("\n")
    for row in read_rows(Source(path=str(path))):
        assert row.where == f"{path}:{row.line}"
        begins = lines[row.line - 1 :]
        assert row.values["question"] in "\n".join(begins[:2])
        assert "{" in begins[0] or name == "rows.csv"


def test_columns_are_renamed_and_a_row_without_them_says_so(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"frage": "a", "answer": "b"}\n{"farge": "a"}\n')
    first, second = read_rows(Source(path=str(path), columns={"question": "frage"}))
    assert first.values == {"question": "a", "answer": "b"}
    assert second.problem == "no column frage to rename; did you mean farge?"


def test_names_may_be_swapped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1, "b": 2}\n')
    (row,) = read_rows(Source(path=str(path), columns={"a": "b", "b": "a"}))
    assert row.values == {"a": 2, "b": 1}


def test_bad_rows_are_reported_with_their_line_and_the_others_stay(tmp_path):
    path = tmp_path / "rows.jsonl"
    bad = [b'{"text": "\xff\xfe"}', b"not json", b"[1, 2]", b'{"text": "a\\u0000b"}', b'{"text": {"deep": ["\\ud800"]}}', b'{"text": "torn']
    path.write_bytes(b'{"text": "first"}\n' + b"\n".join(bad) + b'\n\n{"text": "last"}\n')
    found = list(read_rows(Source(path=str(path))))
    assert [row.line for row in found if row.problem] == [2, 3, 4, 5, 6, 7]
    assert [row.values["text"] for row in found if not row.problem] == ["first", "last"]
    problems = [row.problem for row in found if row.problem]
    for problem, words in zip(problems, ["not UTF-8", "not JSON", "list, not an object", "NUL", "surrogate", "not JSON"], strict=True):
        assert words in problem


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"text,x\ngood,1\nb\xffd,2\n"), ("a.json", b'[{"text": "good"}, {"text": "b\xffd"}]')])
def test_bytes_that_are_not_utf8_spoil_only_their_row(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    good, bad = read_rows(Source(path=str(tmp_path / name)))
    assert not good.problem
    assert "not UTF-8" in bad.problem


def test_a_line_of_four_megabytes_is_a_row(tmp_path):
    text = "word " * 800_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "a.csv").write_text(f"text\n{text}\n")
    assert [len(row.values["text"]) for row in read_rows(Source(path=str(tmp_path)))] == [len(text), len(text)]


def test_a_row_with_other_fields_than_the_header_is_a_problem(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    assert [(row.line, row.problem[:8]) for row in read_rows(Source(path=str(tmp_path / "a.csv")))] == [(2, ""), (3, "1 fields"), (4, "3 fields"), (6, "")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "a,a\n1,2\n", "no header"),
        ("a.csv", 'a,b\n"1,2\n', "broken quotes"),
        ("a.json", '{"a": 1, "b": 2}', "no list of rows"),
        ("a.json", "17", "neither a list nor an object"),
        ("a.json", '[{"a": 1}', "expected"),
        ("a.json", '[{"a": 1}] more', "behind the end"),
        ("a.parquet", "no parquet", "as Parquet"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(Source(path=str(tmp_path / name))))
    assert words in str(caught.value)
    assert name in caught.value.what


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("a.json", "a.jsonl", "a.txt"):
        (tmp_path / name).write_text("\n \n")
        assert list(read_rows(Source(path=str(tmp_path / name)))) == []


def test_folders_and_globs_are_read_in_order_without_hidden_files(tmp_path):
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "notes.md", "sub/c.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{{"text": "{name}"}}\n')
    assert [row.values["text"] for row in read_rows(Source(path=str(tmp_path)))] == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert [row.values["text"] for row in read_rows(Source(path=str(tmp_path / "*.jsonl")))] == ["a.jsonl", "b.jsonl"]


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="no such file") as caught:
        source_files(Source(path=str(tmp_path / "trian.jsonl")))
    assert caught.value.fix == "did you mean train.jsonl?"
    with pytest.raises(DataError, match="no such file"):
        source_files(Source(path=str(tmp_path / "nowhere" / "train.jsonl")))
    (tmp_path / "rows.docx").write_text("")
    with pytest.raises(DataError, match="unknown kind"):
        source_files(Source(path=str(tmp_path / "rows.docx")))


def test_a_relative_path_stays_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    (row,) = read_rows(Source(path="rows.jsonl"))
    assert row.where == "rows.jsonl:1"


pieces = st.lists(st.sampled_from(["word", " ", "\n", "ab", "<|end|>", "<|", "|>", "<|en", "é", "日"]), max_size=30).map("".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=pieces, size=st.integers(1, 20), separator=st.sampled_from(["<|end|>", "\n\n", "ab", "b"]))
def test_documents_are_split_alike_however_the_file_is_read(tmp_path, monkeypatch, text, size, separator):
    monkeypatch.setattr(plain_text, "CHUNK_CHARACTERS", size)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    found = list(read_rows(Source(path=str(tmp_path / "a.txt"), separator=separator)))
    assert [row.values["text"] for row in found] == [part.strip() for part in text.split(separator) if part.strip()]
    for row in found:
        assert row.values["text"].split("\n")[0] in "\n".join(text.split("\n")[row.line - 1 :]).split(separator + "\0")[0]


@pytest.mark.fault
@pytest.mark.parametrize("places", range(1, 13))
def test_a_parquet_file_with_an_extension_type_is_refused_before_it_is_built(tmp_path, places):
    sentinel = tmp_path / "sentinel"

    class Running(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.int64(), "tests.running")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            sentinel.touch()
            return cls()

    path = tmp_path / ("r" * places + ".parquet")
    column = pa.ExtensionArray.from_storage(Running(), pa.array([1, 2]))
    pq.write_table(pa.table({"t" * places: ["a", "b"], "odd": column}), path)  # the name shifts what follows it in the file's footer
    sentinel.unlink(missing_ok=True)
    pa.register_extension_type(Running())
    try:
        with pytest.raises(DataError, match="extension type"):
            list(read_rows(Source(path=str(path))))
        assert not sentinel.exists()
        pq.read_metadata(path)
        assert sentinel.exists()  # the file is one that would have run
    finally:
        pa.unregister_extension_type("tests.running")
