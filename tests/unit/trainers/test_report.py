"""The run report: it says what is so in every state of a run, its parts sum, it tells no secret, and it never stands in a run's way."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from reports import BEGAN, EVIL, RUN, event, opening, run_folder

from tunefleet.cluster.errors import OutputError, WorkerError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.output import claim
from tunefleet.trainers.report.gather import gather
from tunefleet.trainers.report.standing import comparison, result, standing, verdict
from tunefleet.trainers.report.timing import spent
from tunefleet.trainers.report.warnings import warnings
from tunefleet.trainers.report.write import report, report_at_end, write_report
from tunefleet.trainers.run import RunFile


def read(folder: Path, after: float = 100.0) -> Any:
    return gather(open_storage(folder), BEGAN + after)


def page(folder: Path, after: float = 100.0) -> str:
    return report(read(folder, after))


@pytest.mark.parametrize(
    ("change", "tone", "lead"),
    [
        (-0.5, "good", "Better than the base model: held-out loss 2.00 instead of 2.50"),
        (0.5, "bad", "Worse than the base"),
        (0.01, "plain", "No clear difference"),
    ],
)
def test_the_verdict_is_what_the_interval_says(tmp_path: Path, change: float, tone: str, lead: str) -> None:
    found = verdict(read(run_folder(tmp_path / "out", change=change)))
    assert found.tone == tone
    assert found.said.startswith(lead)
    assert "95% interval" in found.why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tuned": {"loss": None}}, "the model diverged"),
        ({"tuned": {"loss": None}, "base": {"loss": None}}, "No held-out example counts for"),
        ({"tuned": {"loss": None}, "failed": {"loss": "ValueError: not today"}}, "could not be computed: ValueError: not today"),
        ({"rows_won": {"loss": {"won": 150, "lost": 40, "tied": 10}}, "rows": 10_000}, "on the same 200 of 10,000 held-out examples"),
    ],
)
def test_what_cannot_be_said_is_told_by_its_cause_and_so_is_what_it_rests_on(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run = read(run_folder(tmp_path / "out"))
    found = comparison(run, {**result(run), **change})
    assert found is not None
    assert said in f"{found.said} {found.why}"


def test_a_set_that_got_worse_is_named_in_the_verdict(tmp_path: Path) -> None:
    found = verdict(read(run_folder(tmp_path / "out", sets=("sums", "stories"))))
    assert found.tone == "warn"
    assert found.said.endswith("but worse on stories.")


def test_a_run_that_goes_on_is_told_from_a_killed_and_from_a_failed_one(tmp_path: Path) -> None:
    going = run_folder(tmp_path / "going", steps=20, events=opening(), done=None)
    assert standing(read(going, after=60)).kind == "going"
    assert standing(read(going, after=6000)).kind == "silent"
    why = "WorkerError: rank 1 was killed"
    failed = run_folder(tmp_path / "failed", steps=20, events=[*opening(), event(50, "stopped", phase="stopped", why=why)], done=None)
    assert verdict(read(failed)).said == f"Stopped at step 20 of 60: {why}"
    assert verdict(read(failed)).tone == "bad"
    assert "Better than the base" not in verdict(read(failed)).said


@pytest.mark.parametrize("missing", ["metrics.jsonl", "events.jsonl", "done.json", "evaluation"])
def test_a_report_is_made_of_what_is_there(tmp_path: Path, missing: str) -> None:
    import shutil

    folder = run_folder(tmp_path / "out")
    gone = folder / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert "<h1" in page(folder)


def test_a_file_that_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "out")
    (folder / "metrics.jsonl").write_text("no json\n")
    html = page(folder)
    assert "Could not be read" in html
    assert "Better than the base" in html


def test_only_the_run_file_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "run.yaml").write_text("name: toy\n")
    assert "No word that it ended" in page(folder)


def test_the_parts_of_the_time_sum_to_the_wall_time(tmp_path: Path) -> None:
    run = read(run_folder(tmp_path / "out"))
    assert sum(spent(run).values()) == pytest.approx(92)
    assert spent(run) == ledger(run.events)
    widths = [float(found) for found in re.findall(r'<rect x="[\d.]+%" y="0" width="([\d.]+)%" height="26"', report(run))]
    assert sum(widths) == pytest.approx(100, abs=0.1)


def test_the_sources_of_the_data_report_are_shown_and_those_of_another_version_are_said(tmp_path: Path) -> None:
    run = read(run_folder(tmp_path / "out"))
    assert [one.name for one in run.sources] == ["train"]
    assert "tokens a row" in report(run)
    other = [*opening(), event(7, "prepared", counts={}, sources=[{"name": "train"}])]
    assert any("another version" in what for what in read(run_folder(tmp_path / "other", events=other)).unread)


def test_samples_are_those_of_the_weights_that_the_verdict_is_about(tmp_path: Path) -> None:
    best = {"step": 60, "weights": "checkpoints/step-00000030/manifest.json", "exported": None, "stopped": "no better loss"}
    prompts = {step: [{"prompt": "p", "base": "b", "tuned": f"answer of {step}"}] for step in (30, 60)}
    html = page(run_folder(tmp_path / "out", done=best, samples=prompts))
    assert html.index("answer of 30") < html.index("answer of 60")
    assert "weights of step 30" in html


def test_every_kind_of_trouble_is_among_the_warnings(tmp_path: Path) -> None:
    trouble = [
        event(41, "step_skipped", step=7, grad_norm="nan"),
        event(42, "evaluation_dropped", step=10, for_step=20),
        event(43, "evaluation_failed", step=30, error="a metric raised"),
        event(44, "group_failed", phase="restarting", kind="died", cause="rank 1 was killed", restart=True, reason="1 of 3 restarts used"),
        event(45, "checkpoint_skipped", checkpoint="checkpoints/step-00000020", why="a file has another checksum"),
        event(45, "metric_failed", step=30, metric="mine", error="ValueError: no word"),
        event(45, "suite_failed", suite="suite.yaml", error="StorageError: gone"),
        event(46, "something_new_failed", text="of a kind that this version does not know"),
    ]
    counts = {**opening()[2], "counts": {"rows": 100, "leakage": 4, "truncated": 20}}
    found = [one.said for one in warnings(read(run_folder(tmp_path / "out", events=[*opening(), counts, *trouble])))]
    for words in (
        "1 step skipped",
        "1 evaluation dropped",
        "a metric raised",
        "rank 1 was killed",
        "step-00000020",
        "Something new failed",
        "The metric mine could not be computed",
        "suite.yaml could not be scored: StorageError: gone",
        "whose prompt is also held out, so that the held-out numbers flatter the model: 4",
        "20% of the rows",
    ):
        assert any(words in said for said in found), words


def test_rows_and_generations_stay_text(tmp_path: Path) -> None:
    prompts = [{"prompt": EVIL, "reference": EVIL, "base": EVIL, "tuned": None}]
    events = [*opening(), event(50, "stopped", phase="stopped", why=EVIL), event(51, "decision", text=EVIL)]
    html = page(run_folder(tmp_path / "out", run={**RUN, "name": EVIL}, samples={30: prompts, 60: prompts}, events=events))
    assert "<script" not in html
    assert "<img" not in html
    assert "<script>document.title" in unescape(html)


def test_no_secret_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFLEET_CANARY", "canary-environment")
    signed = "https://bucket/rows.jsonl?X-Amz-Signature=canary-signature&part=1"
    run = {
        **RUN,
        "data": {"train": [{"path": "s3://user:canary-password@host/rows"}, {"path": signed}]},
        "extra": {"api_key": "canary-key", "header": "Bearer canary-bearer"},
    }
    events = [*opening(), event(50, "stopped", phase="stopped", why="s3://me:canary-event@host refused hf_canary0123456789abcdef")]
    html = page(run_folder(tmp_path / "out", run=run, events=events, done=None))
    assert "canary" not in html
    assert "***" in html
    assert "part=1" in html


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no run's output"):
        write_report(open_storage(tmp_path))


def test_a_long_run_stays_below_a_megabyte(tmp_path: Path) -> None:
    steps = 100_000
    prompts = [{"prompt": "p" * 6000, "reference": None, "base": "b" * 6000, "tuned": "t" * 6000}] * 14
    many = [event(30 + i, "step_skipped", step=i, grad_norm="nan") for i in range(2000)]
    samples = dict.fromkeys(range(10, 90, 10), prompts)
    folder = run_folder(tmp_path / "out", steps=steps, samples=samples, events=[*opening(), *many], evaluated=range(1000, steps + 1, 1000))
    assert len(page(folder).encode()) < 1_000_000


def claimed(tmp_path: Path) -> RunFile:
    value = {"model": {"name_or_path": "m"}, "data": {"train": [{"path": "x"}]}, "training": {"max_steps": 100}, "output": str(tmp_path / "out")}
    return RunFile.model_validate(value)


def test_a_run_that_fails_leaves_a_report_that_says_why(tmp_path: Path) -> None:
    run, said = claimed(tmp_path), []
    with pytest.raises(WorkerError), claim(run, resume=False, overwrite=False, at_end=lambda storage: report_at_end(storage, said.append)):
        raise WorkerError("rank 1 was killed", got="SIGKILL", want="a worker that lives", fix="look")
    assert "rank 1 was killed" in (tmp_path / "out" / "report.html").read_text()
    assert said == [f"report: {tmp_path / 'out' / 'report.html'}"]


def test_a_report_that_cannot_be_written_does_not_fail_the_run_and_is_said(tmp_path: Path) -> None:
    run, said = claimed(tmp_path), []
    with claim(run, resume=False, overwrite=False, at_end=lambda storage: report_at_end(storage, said.append)):
        (tmp_path / "out" / "report.html").mkdir()
    assert said[0].startswith("note: the report could not be written")
    assert read(tmp_path / "out").last("report_failed")
