"""The page of an evaluation says what its numbers say, for every state of them, and nothing that rows hold becomes part of it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from reports import BEGAN, EVIL, looked_into, run_folder

from tunefleet.cluster.axes import short
from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.evaluation.files import SUITE, write_result
from tunefleet.trainers.report.details import MOST
from tunefleet.trainers.report.evaluationpage import evaluation_page, refuse_no_page, write_evaluation_page
from tunefleet.trainers.report.gather import gather
from tunefleet.trainers.report.write import report


def test_the_page_says_what_was_found() -> None:
    found = looked_into({})
    html = unescape(evaluation_page(found, BEGAN))
    assert "The gate is not passed: 2 of 5 checks fail: regression of loss (label: red), forgetting of loss (stories)." in html
    assert "Better than the base model" in html
    assert "It forgot: loss on stories" in html
    assert "in loss on rows that it was trained on" in html
    told = {one["name"]: one["outcome"]["loss"] for one in found["slices"] if one["by"] == "label"}
    assert told == {"red": "worse", "blue": "better", "green": "better"}
    assert html.count(">worse</td>") == sum(outcome == "worse" for one in found["slices"] for outcome in one["outcome"].values())
    assert f"{found['comparisons']['number']} comparisons" in html
    assert f"loss: {found['rows_won']['loss']['won']} examples better" in html


def test_a_metric_that_raised_and_the_suite_are_named() -> None:
    html = evaluation_page({**looked_into({}), "failed": {"mine": f"ValueError: {EVIL}"}, "suite": "sums and stories"}, BEGAN)
    assert "mine could not be computed: ValueError" in html
    assert "<script" not in html
    assert "on the suite sums and stories." in html


def test_hostile_words_stay_words() -> None:
    html = evaluation_page(looked_into(dict.fromkeys(("source", "label", "set", "text"), EVIL)), BEGAN)
    assert "<script" not in html
    assert "<img" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;document.title" in html


def test_a_page_is_made_of_what_is_there() -> None:
    whole = looked_into({}, gate=False)
    assert "Gate" not in evaluation_page(whole, BEGAN)
    for missing in ("slices", "regressions", "gap", "rows_won", "better"):
        assert "<h1" in evaluation_page({name: part for name, part in whole.items() if name != missing}, BEGAN)
    alone = unescape(evaluation_page({**whole, "step": None, "regressions": {"loss": []}}, BEGAN))
    assert "The tuned model and the base model scored" in alone
    assert "On none is the tuned model worse." in alone


def test_the_report_of_a_run_shows_the_same_parts(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "out")
    write_result(open_storage(folder), looked_into({}, gate=False))
    html = report(gather(open_storage(folder), BEGAN + 100))
    assert all(f">{title}</h2>" in html for title in ("Slices", "Forgetting and overfitting", "Largest regressions"))
    assert "but worse on stories" in html


def test_the_report_of_a_run_shows_what_its_suite_found(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "out")
    open_storage(folder).put(SUITE, json.dumps({**looked_into({}, gate=False), "suite": "daily"}).encode())
    html = report(gather(open_storage(folder), BEGAN + 100))
    assert ">Suite daily</h2>" in html
    assert "It forgot: loss on stories" in html
    open_storage(folder).put(SUITE, b"[]")
    assert "Could not be read" in report(gather(open_storage(folder), BEGAN + 100))


def test_a_page_is_written_where_it_is_asked_for_and_refused_before_where_it_cannot_be(tmp_path: Path) -> None:
    address = str(tmp_path / "pages" / "verdict.html")
    refuse_no_page(address)
    assert write_evaluation_page(looked_into({}), address) == address
    assert Path(address).read_text().startswith("<!doctype html>")
    for wrong in (str(tmp_path), str(tmp_path / "verdict.json")):
        with pytest.raises(SettingsError, match="this is no page"):
            refuse_no_page(wrong)


def cells(html: str, title: str) -> list[list[str]]:
    """The rows of the first table of a title, its head first."""
    held = html[html.index(f"<caption>{title}</caption>") :]
    rows = re.findall(r"<tr>(.*?)</tr>", held[: held.index("</table>")])
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_what_metrics_say_beside_their_values_is_shown_of_both_models() -> None:
    found = looked_into({"text": "yes"})
    html = evaluation_page(found, BEGAN)
    told = {name: found["sets"]["holdout"]["details"][name] for name in ("label_f1", "calibration_error", "latency")}
    for name in ("label f1", "calibration error", "latency"):
        assert f"<summary>More of {name}" in html
    assert cells(html, "holdout")[0] == ["", "base", "tuned"]
    assert cells(html, "holdout")[1] == ["no label", *(str(told["label_f1"][model]["no_label"]) for model in ("base", "tuned"))]
    head, row = cells(html, "holdout: labels")
    assert head == ["", "f1, base", "f1, tuned", "precision", "recall, base", "recall, tuned", "rows"]
    assert row[:3] == ["yes", *(short(told["label_f1"][model]["labels"]["yes"]["f1"]) for model in ("base", "tuned"))]
    drawn = html[html.index("holdout: how sure, and how often right") :]
    assert drawn[: drawn.index("</figure>")].count("<circle") >= sum(len(told["calibration_error"][model]["bins"]) for model in ("base", "tuned"))
    assert f"<td>{short(told['latency']['tuned']['answer_s']['p95'])}</td>".replace("<td>", '<td class="number">') in html


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"bins": []},
        {"bins": [1, EVIL]},
        {"bins": None, "a": {"b": {}}},
        {"a": {"b": {"c": {"d": {"e": {EVIL: EVIL}}}}}},
        {EVIL: [EVIL, {EVIL: 1}], "x": True},
    ],
)
def test_what_a_metric_of_the_users_own_says_is_shown_whatever_it_is(said: dict[str, object]) -> None:
    whole = looked_into({})
    for both in ({"tuned": said, "base": {}}, {"tuned": {"a": 1.5, "bins": "none"}, "base": said}):
        whole["sets"]["holdout"]["details"]["loss"] = both
        html = evaluation_page(whole, BEGAN)
        assert "<summary>More of loss" in html
        assert "<script" not in html
        assert ("document.title" in unescape(html)) == ("script" in str(said))


def test_of_very_many_labels_the_first_are_shown_and_the_others_are_counted() -> None:
    whole = looked_into({})
    labels = {f"label {number}": {"f1": number / 1000} for number in range(MOST + 50)}
    whole["sets"]["holdout"]["details"]["label_f1"] = {"tuned": {"labels": labels}, "base": {"labels": labels}}
    html = evaluation_page(whole, BEGAN)
    assert len(cells(html, "holdout: labels")) == MOST + 1
    assert "And 50 more" in html
