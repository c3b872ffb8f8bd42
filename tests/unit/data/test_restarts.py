"""Preparation block by block: what was done is not done again, whoever did it, and memory does not grow with the rows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer

from tunefleet.cluster.errors import StorageError
from tunefleet.data import blocks, blockwork
from tunefleet.data.blocks import Sizes
from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import Limits, prepare
from tunefleet.data.settings import Data, Source
from tunefleet.data.store import Store

LIMITS = Limits(Sizes(least=300, mean=600, most=3000), shard=4000)
KILLED = """
import os, sys
from tiny_tokenizers import tiny_tokenizer
from test_restarts import LIMITS, settings
from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import prepare
seen = []
def stop(advance):
    seen.append(advance)
    if len(seen) == 4:
        os.kill(os.getpid(), 9)
prepare(settings(sys.argv[1], sys.argv[2]), ANSWERS, tiny_tokenizer("bytes"), limits=LIMITS, on_progress=stop)
"""


def settings(rows: str, store: str, **more) -> Data:
    return Data(**({"train": [{"path": rows}], "store": store, "holdout": 0.2, "max_length": 200} | more))


def write_rows(path: Path, numbers) -> str:
    path.write_text("".join(json.dumps({"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."}) + "\n" for i in numbers))
    return str(path)


def files_of(store: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(store).iterdir()}


def texts(store: str, tokenizer) -> list[str]:
    split = Store.open(store).split("train")
    return [tokenizer.decode(record.columns["ids"].tolist()) for record in split.records(range(split.rows))]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer("bytes")


def test_a_preparer_that_is_killed_leaves_what_it_did_and_the_next_one_goes_on(tmp_path, tokenizer):
    rows, here = write_rows(tmp_path / "a.jsonl", range(100)), Path(__file__).parent
    paths = [str(here), str(here.parents[1]), str(here.parents[2] / "src")]
    child = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{KILLED}", rows, str(tmp_path / "killed")], check=False)
    assert child.returncode == -9
    again = prepare(settings(rows, str(tmp_path / "killed")), ANSWERS, tokenizer, limits=LIMITS)
    whole = prepare(settings(rows, str(tmp_path / "whole")), ANSWERS, tokenizer, limits=LIMITS)
    assert (again.found, whole.found) == (4, 0)
    assert again.blocks == whole.blocks > 8
    assert files_of(again.store) == files_of(whole.store)
    assert len(Store.open(whole.store).split("train").shard_rows) > 1


def test_how_the_work_is_divided_changes_no_row(tmp_path, tokenizer):
    rows = write_rows(tmp_path / "a.jsonl", range(100))
    stores = [prepare(settings(rows, str(tmp_path / name)), ANSWERS, tokenizer, limits=limits) for name, limits in (("blocks", LIMITS), ("one", None))]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert stores[0].counts == stores[1].counts
    assert texts(stores[0].store, tokenizer) == texts(stores[1].store, tokenizer)
    assert files_of(stores[0].store)["rows-holdout.jsonl"] == files_of(stores[1].store)["rows-holdout.jsonl"]
    assert files_of(stores[0].store)["rows.arrow"] == files_of(stores[1].store)["rows.arrow"]


def test_added_rows_alone_are_tokenised(tmp_path, tokenizer):
    """Those of a file of their own to the row; those within a file with the rows of their block: 600 bytes of some 60 each here, 2 MB as it stands."""
    data = settings(write_rows(tmp_path / "a.jsonl", range(100)), str(tmp_path / "shards"))
    assert prepare(data, ANSWERS, tokenizer, limits=LIMITS).tokenised == 100

    also = data.model_copy(update={"train": [*data.train, Source(path=write_rows(tmp_path / "b.jsonl", range(200, 221)))]})
    assert prepare(also, ANSWERS, tokenizer, limits=LIMITS).tokenised == 21
    assert prepare(also, ANSWERS, tokenizer, limits=LIMITS).tokenised == 0

    write_rows(tmp_path / "a.jsonl", [*range(50), 1000, *range(50, 120)])
    more = prepare(data, ANSWERS, tokenizer, limits=LIMITS)
    assert more.counts["rows"] == 121
    assert 21 <= more.tokenised <= 21 + 30
    assert 0 < more.blocks - more.found <= 6
    whole = prepare(settings(str(tmp_path / "a.jsonl"), str(tmp_path / "anew")), ANSWERS, tokenizer, limits=LIMITS)
    assert files_of(more.store) == files_of(whole.store)


def test_a_file_that_cannot_be_cut_is_gone_on_with_inside(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(blockwork, "BATCH_ROWS", 10)
    monkeypatch.setattr(blockwork, "PIECE_BYTES", 3000)
    (tmp_path / "a.csv").write_text("prompt,completion\n" + "".join(f"What is {i} plus three?,It is {i + 3}.\n" for i in range(100)))
    data = settings(str(tmp_path / "a.csv"), str(tmp_path / "shards"))
    calls = []
    honest = blockwork.write_piece
    monkeypatch.setattr(blockwork, "write_piece", lambda *of: (calls.append(of), honest(*of), 1 / (3 - len(calls))))
    with pytest.raises(ZeroDivisionError):
        prepare(data, ANSWERS, tokenizer)
    monkeypatch.setattr(blockwork, "write_piece", lambda *of: (calls.append(of), honest(*of)))
    prepared = prepare(data, ANSWERS, tokenizer)
    assert len(calls) == len(list((tmp_path / "shards" / "blocks").rglob("*.facts"))) > 4
    anew = prepare(settings(str(tmp_path / "a.csv"), str(tmp_path / "anew")), ANSWERS, tokenizer)
    assert files_of(prepared.store) == files_of(anew.store)


@pytest.mark.parametrize("kind", ["facts", "arrow", "jsonl"])
def test_a_piece_that_was_altered_is_never_used(tmp_path, tokenizer, kind):
    data = settings(write_rows(tmp_path / "a.jsonl", range(100)), str(tmp_path / "shards"))
    first = prepare(data, ANSWERS, tokenizer, limits=LIMITS)
    before = files_of(first.store)
    piece = next(path for path in sorted((tmp_path / "shards" / "blocks").rglob(f"*.{kind}")) if path.stat().st_size)
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    (Path(first.store) / "index.json").unlink()
    if kind == "facts":
        again = prepare(data, ANSWERS, tokenizer, limits=LIMITS)
        assert again.found == again.blocks - 1
        assert files_of(again.store) == before
    else:
        with pytest.raises(StorageError, match="not what was written"):
            prepare(data, ANSWERS, tokenizer, limits=LIMITS)


def test_memory_does_not_grow_with_the_rows(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(blocks, "_CHUNK_BYTES", 50_000)

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"{i:05d} " * 200, "completion": f"It is {i:05d}. " * 100}) + "\n" for i in range(rows)))
        data = settings(str(path), str(tmp_path / "shards"), max_length=8000)
        tracemalloc.start()
        prepare(data, ANSWERS, tokenizer, limits=Limits(Sizes(60_000, 60_000, 60_000), shard=150_000))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is imported and kept once
    few, many = peak(80), peak(300)
    assert many - few < 220 * 2000, "more is held of a row than its facts"  # of 2.4 kB of text and 12 kB of tokens a row; a block has facts of 10 kB
