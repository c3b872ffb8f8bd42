"""The examples that the tuned model does worst on against its base: what was asked, what the row says, and both answers or losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.axes import count, short
from tunefleet.cluster.markup import Markup, element, join
from tunefleet.cluster.page import Section, fold, paragraph, section, texts
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import result
from tunefleet.trainers.report.wording import finite, metric_name, metric_unit

OPEN = 3  # cases of the first metric that are shown at once; the rest when asked for


def regressions(run: Gathered) -> Section | None:
    """The section, or None where nothing was compared row by row."""
    evaluation = result(run)
    found = evaluation.get("regressions")
    if not found:
        return None
    return section("Largest regressions", *(_metric(name, cases, evaluation, is_open=i == 0) for i, (name, cases) in enumerate(found.items())), about=ABOUT)


ABOUT = "Single examples, the worst first: whatever the sums say, these are what the tuned model does worse than its base."


def _metric(name: str, cases: list[Mapping[str, Any]], evaluation: Mapping[str, Any], *, is_open: bool) -> Markup:
    won = evaluation.get("rows_won", {}).get(name, {})
    better = count(won.get("won", 0), "example")
    told = f"By {metric_name(name)}: {better} better, {won.get('lost', 0):,} worse, {won.get('tied', 0):,} the same."
    if not cases:
        return paragraph(f"{told} On none is the tuned model worse.")
    shown = [_case(name, case) for case in cases]
    if not is_open:
        return fold(f"By {metric_name(name)}", paragraph(told), *shown, aside=f"{len(cases)} examples")
    more = fold("More of them", *shown[OPEN:], aside=f"{len(cases) - OPEN} examples") if len(shown) > OPEN else None
    return join(paragraph(told), *shown[:OPEN], more)


def _case(name: str, case: Mapping[str, Any]) -> Markup:
    unit = f" {metric_unit(name)}" if metric_unit(name) else ""
    values = {model: short(finite(case[model].get(name))) for model in ("base", "tuned")}
    said = f"{metric_name(name).capitalize()} {values['tuned']} instead of {values['base']}{unit}"
    answers = case.get("answers") or {}
    parts = [("the row itself", case.get("reference"))]
    if answers.get("base") is not None or answers.get("tuned") is not None:
        parts += [("base model", answers.get("base")), ("tuned model", answers.get("tuned"))]
    above = ("prompt", case["prompt"]) if case.get("prompt") else None
    about = element("p", f"{said}. Row {case['row']} of {case.get('source') or 'the held-out rows'}.", class_="about")
    return element("div", about, texts(parts, above=above, lead=len(parts) - 1 if len(parts) > 1 else None), class_="case")
