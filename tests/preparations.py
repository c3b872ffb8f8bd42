"""Preparations to compare, in a folder or on S3, and what the verb `data` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer

from tunefleet.data.layout import ANSWERS
from tunefleet.data.prepare import Prepared, prepare
from tunefleet.data.settings import Data
from tunefleet.tuning.cli import main

ROWS = 52


def three_versions(folder: Path, store: str) -> list[Prepared]:
    """Fifty rows; the same in two files and in another order; and with two rows more and one less."""
    tokenizer = tiny_tokenizer("bytes")
    lines = [json.dumps({"prompt": f"What is {i} plus three?", "completion": f"It is {i + 3}."}) + "\n" for i in range(ROWS)]

    def made(*files: list[str]) -> Prepared:
        for number, part in enumerate(files):
            (folder / f"{number}.jsonl").write_text("".join(part))
        data = Data(train=[{"path": str(folder / f"{n}.jsonl")} for n in range(len(files))], store=store, holdout=0.2, max_length=200)
        return prepare(data, ANSWERS, tokenizer)

    return [made(lines[:50]), made(lines[20:50], lines[:20]), made(lines[1:])]


def check_the_verb(address: str, versions: list[Prepared], capsys: pytest.CaptureFixture[str]) -> None:
    """List, show and diff, for programs and for people."""
    first, moved, changed = versions
    assert main(["data", "list", address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ours = [(made.fingerprint, made.store) for made in versions]
    assert sorted((one["fingerprint"], one["store"]) for one in found) == sorted(ours)  # by time, which S3 tells in whole seconds
    assert main(["data", "show", address, changed.fingerprint[:8], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["counts"], shown["report"]) == (changed.version, changed.counts, changed.report)
    assert main(["data", "diff", address, first.version, changed.version, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert (compared["same"], compared["added"], compared["removed"]) == (49, 2, 1)
    assert main(["data", "diff", address, first.fingerprint, moved.fingerprint, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] == 50
    for words in (["list", address], ["show", address, first.version[:6]], ["diff", address, first.version, changed.version]):
        assert main(["data", *words]) == 0
        assert first.version in capsys.readouterr().out
