"""The rows that ship are those that their script makes, and hold what the examples need."""

import json
import runpy
from pathlib import Path

import pytest

ROWS = Path(__file__).parents[3] / "examples" / "rows"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    runpy.run_path(str(ROWS / "make_quickstart.py"))["main"](folder)
    return folder


def test_the_script_makes_the_rows_that_ship(made):
    for path in sorted(made.iterdir()):
        assert path.read_bytes() == (ROWS / path.name).read_bytes(), f"run {ROWS.name}/make_quickstart.py and commit {path.name}"
    assert {path.name for path in ROWS.glob("*.*")} == {"make_quickstart.py", *(path.name for path in made.iterdir())}


def test_every_question_is_asked_once_and_every_fact_in_several_ways():
    rows = [json.loads(line) for line in (ROWS / "quickstart.jsonl").read_text().splitlines()]
    assert 600 <= len(rows) <= 1000
    assert len({row["prompt"] for row in rows}) == len(rows)
    lives = [row["completion"] for row in rows if row["completion"] == "Mira lives in Oakham."]
    assert len(lives) >= 4


def test_the_suite_that_ships_can_be_scored(monkeypatch):
    from tunefleet.trainers.evaluation.suite import load_suite

    monkeypatch.chdir(ROWS.parents[1])
    assert [held.general for held in load_suite("examples/suite.yaml").sets.values()] == [False, True]
