"""Base against tuned on the held-out rows: a picture for every metric, every number with its interval, and how they came about step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.axes import count
from tunefleet.cluster.charts import Estimate, Range, ranges
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.page import Cell, Figure, Section, fold, grid, notice, section, table
from tunefleet.trainers.report.details import details
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import TONES, chief_metric, compared, digits_of, result, way, which
from tunefleet.trainers.report.wording import exact, finite, metric_name, metric_unit, with_interval

APART = 20.0  # times: values that differ more are drawn on a logarithmic axis


def chief_figure(run: Gathered, evaluation: Mapping[str, Any]) -> Figure | None:
    """The number that a reader looks for first; None where nothing was measured."""
    name = chief_metric(run, evaluation)
    if not name:
        return None
    difference = evaluation.get("difference", {}).get(name) or {}
    tuned, base = (exact(finite(evaluation[model].get(name)), digits_of(difference)) for model in ("tuned", "base"))
    unit = f"{metric_unit(name)}; " if metric_unit(name) else ""
    return Figure(f"held-out {metric_name(name)}", tuned, "", f"{unit}base {base}", TONES[compared(difference, way(run, evaluation, name))])


def heldout(run: Gathered) -> Section | None:
    """The section, or None where nothing was evaluated."""
    evaluation = result(run)
    if not evaluation:
        return None
    metrics = list(evaluation.get("tuned", {}))
    about = f"The {which(evaluation)} and the base model scored the same examples. Intervals are 95% bootstrap intervals over examples."
    pictures = grid(*(_picture(name, evaluation["sets"]) for name in metrics), small=True)
    failed = [notice(f"{metric_name(name)} could not be computed: {why}", tone="bad") for name, why in evaluation.get("failed", {}).items()]
    sets = evaluation["sets"]
    tables = [_numbers(run, *held) for held in sets.items()]
    told = [details(name, sets) for name in dict.fromkeys(name for part in sets.values() for name in part["tuned"])]
    return section("Held-out examples", *failed, pictures, *tables, *told, _history(run, metrics), about=about)


def _picture(name: str, sets: Mapping[str, Any]) -> Markup:
    rows = [Range(held, list(_estimates(part, name))) for held, part in sets.items() if name in part.get("tuned", {})]
    values = [estimate.value for row in rows for estimate in row.estimates]
    log = bool(values) and max(values) > APART * min(values) > 0
    unit = metric_unit(name) or metric_name(name)
    return ranges(metric_name(name).capitalize(), rows, x=f"{unit}, logarithmic" if log else unit, log=log)


def _estimates(part: Mapping[str, Any], name: str) -> Iterator[Estimate]:
    for model, colour in (("base", "base"), ("tuned", 0)):
        found = part.get(model, {}).get(name) or {}
        if not math.isnan(finite(found.get("value"))):
            yield Estimate(model, found["value"], found.get("low"), found.get("high"), colour)  # type: ignore[arg-type]  # of a literal tuple


def _numbers(run: Gathered, held: str, part: Mapping[str, Any]) -> Markup:
    rows: list[list[Content | Cell]] = []
    for name, tuned in part["tuned"].items():
        difference = part.get("difference", {}).get(name)
        outcome = compared(difference, way(run, result(run), name))
        changed = Cell(with_interval(difference, digits_of(difference), signed=True), TONES[outcome])
        values = (with_interval(one, _digits(one, difference)) for one in (part["base"].get(name), tuned))
        rows.append([metric_name(name), *values, changed])
    title = f"{held}{' (general)' if part.get('general') else ''}: {count(part['rows'], 'example')}, {count(part['tokens'], 'token')}"
    return table(["metric", "base", "tuned", "difference"], rows, title=title)


def _digits(estimate: Mapping[str, Any] | None, difference: Mapping[str, Any] | None) -> int:
    """As many as the difference has; more, where the ends of the interval would hardly differ: a small value beside a large one."""
    own = digits_of(estimate)
    digits = digits_of(difference, unknown=own)
    width = finite((estimate or {}).get("high")) - finite((estimate or {}).get("low"))
    return own if width * 10**digits < 2 else digits


def _history(run: Gathered, metrics: list[str]) -> Markup | None:
    """Every evaluation, where there is more than the one above."""
    if len(run.evaluations) < 2:
        return None
    difference = result(run).get("difference", {})
    digits = {name: digits_of(difference.get(name)) + 1 for name in metrics}
    rows = [
        [
            str(one["step"]),
            *(exact(finite(one["tuned"].get(name)), digits[name]) for name in metrics),
            str(one.get("placement", "")),
            f"{finite(one.get('seconds')):.1f}",
        ]
        for one in run.evaluations[-200:]
    ]
    columns = ["step", *map(metric_name, metrics), "where", "seconds"]
    told = table(columns, rows, numbers=[i for i in range(len(columns)) if columns[i] != "where"])
    return fold("Every evaluation", told, aside=f"{len(run.evaluations)} steps")
