"""What a person sees of a run: every event that the console knows is one that is written, and a failure is one line."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from tunefleet.trainers import console as module
from tunefleet.trainers.console import SAID, RunConsole, comparison_table, describe

SOURCES = [path.read_text() for path in Path(module.__file__).resolve().parent.rglob("*.py") if path.name != "console.py"]


@pytest.mark.parametrize("event", sorted(SAID))
def test_every_event_that_is_said_is_written_somewhere(event):
    assert any(f'"{event}"' in source for source in SOURCES)


def test_a_failure_of_the_workers_is_one_line_with_its_cause():
    failed = {"event": "group_failed", "kind": "died", "ranks": [1], "cause": "its process was killed", "restart": True, "reason": "failure 1 of 3"}
    said = describe({**failed, "trace": "Traceback\n  many lines", "time": 0.0, "attempt": 1, "phase": "restarting"})
    assert said == "workers died: its process was killed; starting again, failure 1 of 3"


def test_lines_of_a_run_are_shown_as_they_come():
    seen = io.StringIO()
    with RunConsole(Console(file=seen, width=200)) as console:
        console.begin("mine", 2)
        console.line("metrics.jsonl", {"step": 2, "loss": 1.25})
        console.line("events.jsonl", {"event": "early_stopping", "step": 2, "metric": "loss"})
        console.line("events.jsonl", {"event": "checkpoint_started", "step": 2})
        console.line("events.jsonl", {"event": "evaluation_finished", "step": 2, "tuned": {"loss": 1.0}, "base": {"loss": 2.0}})
        console.line("events.jsonl", {"event": "decision", "text": "chosen for you"})
    shown = seen.getvalue().splitlines()
    assert shown[0] == "mine: 2 steps"
    assert "step 2/2" in shown[1]
    assert shown[2:] == ["early stopping: step 2, metric loss", "held-out at step 2: loss 1.0000 (base 2.0000)", "note: chosen for you"]


def test_what_a_suite_found_is_said_with_what_became_of_general_sets():
    losses = {"tuned": {"loss": 3.2}, "base": {"loss": 1.3}}
    said = describe({"event": "suite_scored", "suite": "s.yaml", "tuned": {"loss": 1.0}, "base": {"loss": 2.0}, "general": {"stories": losses}})
    assert said == "the suite's held-out sets: loss 1.0000 (base 2.0000); stories (general): loss 3.2000 (base 1.3000)"


def test_the_table_of_a_suite_tells_general_sets_and_what_was_measured_by_the_clock_from_the_rest():
    part = {"rows": 9, "tuned": {"loss": {"value": 1.0, "low": 0.9, "high": 1.1}, "latency": {"value": 0.5, "low": None, "high": None}}}
    part |= {"base": {"loss": {"value": 2.0}, "latency": {"value": 0.4}}, "difference": {"loss": {"value": -1.0, "low": -1.2, "high": -0.8}}}
    texts = {**part, "general": True, "difference": {"loss": {"value": 1.0, "low": 0.8, "high": 1.2}}}
    found = {"step": None, "suite": "mine", "sets": {"own": part, "texts": texts}, "better": {"loss": "min", "latency": "min"}}
    seen = io.StringIO()
    Console(file=seen, width=120).print(comparison_table(found))
    lines = [line for line in seen.getvalue().splitlines() if "own" in line or "texts" in line]
    assert ["measured" in line for line in lines] == [False, True, False, True]
    assert [line.split()[-2] for line in lines if "loss" in line] == ["better", "worse"]
    assert "-1.2000 to -0.8000" in lines[0]
    assert ["(general)" in line for line in lines] == [False, False, True, True]
    assert "held-out rows, suite mine" in seen.getvalue()
    assert "None" not in seen.getvalue()
