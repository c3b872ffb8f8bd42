"""What a gain may have cost: what the model could do before (general sets), and rows learnt by heart (training rows beside held-out ones)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.axes import count
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.page import Cell, Section, notice, section, table
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import TONES, compared, digits_of, result, way
from tunefleet.trainers.report.wording import exact, finite, metric_name, with_interval


def keeping(run: Gathered) -> Section | None:
    """The section, or None where there is no general set and no training row was scored."""
    evaluation = result(run)
    general = {name: part for name, part in evaluation.get("sets", {}).items() if part.get("general")}
    gap = evaluation.get("gap")
    if not general and not gap:
        return None
    parts = [*_forgetting(run, evaluation, general), *(_overfitting(evaluation, gap) if gap else [])]
    return section("Forgetting and overfitting", *parts)


def _forgetting(run: Gathered, evaluation: Mapping[str, Any], general: Mapping[str, Any]) -> Iterator[Markup]:
    rows: list[list[Content | Cell]] = []
    for held, part in general.items():
        for name, tuned in part["tuned"].items():
            difference = part["difference"].get(name)
            outcome, digits = compared(difference, way(run, evaluation, name)), digits_of(difference)
            if outcome == "worse":
                value, before = (exact(finite(one["value"]), digits) for one in (tuned, part["base"][name]))
                yield notice(f"It forgot: {metric_name(name)} on {held} is {value} instead of {before}.", tone="bad")
            values = (with_interval(one, digits) for one in (part["base"].get(name), tuned))
            rows.append([held, metric_name(name), *values, Cell(with_interval(difference, digits, signed=True), TONES[outcome])])
    if rows:
        yield table(["general set", "metric", "base", "tuned", "difference"], rows, title="What the base model could do already", numbers=[2, 3, 4])


def _overfitting(evaluation: Mapping[str, Any], gap: Mapping[str, Any]) -> Iterator[Markup]:
    """Training rows against each held-out set: one that is unlike them says nothing of overfitting, so no set speaks for another."""
    sets = evaluation.get("sets", {})
    against = gap.get("sets") or {"held-out rows": gap}
    rows: list[list[Content | Cell]] = []
    for held, part in against.items():
        other = sets.get(held) or evaluation.get("whole", {})
        for name, found in part["overfitting"].items():
            own = part["gaps"]["tuned"].get(name) or {}
            digits, sure = digits_of(found), min(finite(found.get("low")), finite(own.get("low"))) > 0
            shown = (gap["tuned"].get(name), other.get("tuned", {}).get(name), own, part["gaps"]["base"].get(name))
            values = (with_interval(one, digits) for one in shown)
            rows.append([held, metric_name(name), *values, Cell(with_interval(found, digits, signed=True), "warn" if sure else "plain")])
            if sure and len(against) == 1:
                value, low, high = (exact(finite(own[key]), digits) for key in ("value", "low", "high"))
                yield notice(
                    f"It is better by {value} ({low} to {high}) in {metric_name(name)} on rows that it was trained on than on held-out ones.", tone="warn"
                )
    columns = ["against", "metric", "training rows", "held-out rows", "gap", "gap of the base", "less the base's"]
    title = f"{count(gap['rows'], 'training row')} beside held-out ones; above zero is better on training rows"
    yield table(columns, rows, title=title, numbers=[2, 3, 4, 5, 6])
