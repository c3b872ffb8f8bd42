"""Which kinds of examples got better and which got worse: by source, by length, by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.axes import count, quantity
from tunefleet.cluster.charts import Estimate, Range, ranges
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.page import Cell, Section, fold, grid, section, table
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import TONES, chief_metric, digits_of, result
from tunefleet.trainers.report.wording import exact, finite, metric_name, metric_unit, with_interval

SAID = {"better": "better", "worse": "worse", "unclear": "not sure"}


def slices(run: Gathered) -> Section | None:
    """The section, or None where the examples were not divided."""
    evaluation = result(run)
    found = evaluation.get("slices") or []
    if not found:
        return None
    chief = chief_metric(run, evaluation)
    names = [chief, *(name for name in found[0]["difference"] if name != chief)]
    names = [name for name in names if name in found[0]["difference"]]
    number = evaluation["comparisons"]["number"]
    about = (
        f"{count(number, 'comparison')}: of so many, some look like a change by chance. Intervals in tables hold with 95% each by itself; pictures, "
        "and the words better and worse, go by wider ones that hold with 95% all together (Bonferroni: Dunn 1961)."
    )
    parts = [_metric(found, name) for name in names[:1]] + [fold(metric_name(name).capitalize(), *_metric(found, name)) for name in names[1:]]
    return section("Slices", *(piece for part in parts for piece in (part if isinstance(part, list) else [part])), about=about)


def _metric(found: list[Mapping[str, Any]], name: str) -> list[Markup]:
    kinds = list(dict.fromkeys(one["by"] for one in found))
    held = {kind: [one for one in found if one["by"] == kind] for kind in kinds}
    pictures = grid(*(_picture(name, kind, own) for kind, own in held.items()))
    return [pictures, *(_table(name, kind, own) for kind, own in held.items())]


def _picture(name: str, kind: str, own: list[Mapping[str, Any]]) -> Markup:
    rows = []
    for one in own:
        value, ends = one["difference"][name]["value"], one["corrected"][name]
        rows.append(Range(one["name"], [] if value is None else [Estimate("tuned minus base", value, ends["low"], ends["high"])]))
    unit = f", {metric_unit(name)}" if metric_unit(name) else ""
    return ranges(f"{metric_name(name).capitalize()} by {kind}", rows, x=f"tuned minus base{unit}", zero=True)


def _table(name: str, kind: str, own: list[Mapping[str, Any]]) -> Markup:
    rows: list[list[Content | Cell]] = []
    for one in own:
        difference, outcome = one["difference"][name], one["outcome"][name]
        digits = digits_of(difference)
        found = [one[model][name]["value"] for model in ("base", "tuned")]
        values = ["-" if found == [None, None] else exact(finite(value), digits) for value in found]  # nothing of it was answered, say
        changed = Cell(with_interval(difference, digits, signed=True), TONES[outcome])
        won = " / ".join(quantity(one[f"rows_{how}"][name]) for how in ("won", "lost", "tied")) if name in one["rows_won"] else "-"
        rows.append([one["name"], quantity(one["rows"]), *values, changed, Cell(SAID[outcome], TONES[outcome]), won])
    columns = [kind, "examples", "base", "tuned", "difference", "outcome", "better / worse / same"]
    return table(columns, rows, title=f"{metric_name(name).capitalize()} by {kind}", numbers=[1, 2, 3, 4, 6])
