"""What metrics say beside their values, base and tuned model side by side: a reliability diagram, a value for each label, percentiles of times.

It is shown by its shape, so that what a metric of the user's own says is shown as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.axes import quantity, short
from tunefleet.cluster.charts import Colour, Series, lines
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.page import Cell, fold, paragraph, table
from tunefleet.trainers.report.wording import finite, metric_name

MOST = 200  # rows of a table
LONGEST = 300  # characters of what has no shape that is known
DEEPEST = 4

Sides = tuple[Any, Any]
"""What is said of the base model, and of the tuned one; None where nothing is."""


def details(name: str, sets: Mapping[str, Any]) -> Markup | None:
    """All that a metric says, a held-out set after the other; None where it says nothing."""
    told = {held: part["details"][name] for held, part in sets.items() if name in part.get("details", {})}
    if not told:
        return None
    parts = (_told(held, (both.get("base"), both.get("tuned"))) for held, both in told.items())
    return fold(f"More of {metric_name(name)}", *(piece for part in parts for piece in part), aside=", ".join(told))


def _told(title: str, sides: Sides, depth: int = 0) -> Iterator[Markup]:
    """Plain values as one table, mappings of plain values as the rows of another, and what is deeper under its own name."""
    values: dict[str, Sides] = {}
    rows: dict[str, Sides] = {}
    deeper: dict[str, Sides] = {}
    for name, both in _by_name(sides).items():
        maps = [one for one in both if isinstance(one, Mapping)]
        if _is_diagram(name, both):
            yield from _reliability(title, both)
        elif not maps or depth >= DEEPEST:
            values[name] = both
        elif any(isinstance(item, Mapping | list) for one in maps for item in one.values()):
            deeper[name] = both
        else:
            rows[name] = both
    if values:
        yield table(["", "base", "tuned"], [[_plain(name), *map(_said, both)] for name, both in values.items()], title=title)
    if rows:
        yield from _rows(title, rows)
    for name, both in deeper.items():
        yield from _told(f"{title}: {_plain(name)}", both, depth + 1)


def _rows(title: str, rows: Mapping[str, Sides], first: str = "") -> Iterator[Markup]:
    """A row for each name; what is the same of both models in all rows stands once."""
    names = list(dict.fromkeys(name for both in rows.values() for name in _by_name(both)))
    columns: list[tuple[str, str, int]] = []
    for name in names:
        alike = all(_of(both[0], name) == _of(both[1], name) for both in rows.values())
        columns += [(name, _plain(name), 1)] if alike else [(name, f"{_plain(name)}, {model}", i) for i, model in enumerate(("base", "tuned"))]
    shown: list[list[Content | Cell]] = [[row, *(_said(_of(both[i], name)) for name, _, i in columns)] for row, both in list(rows.items())[:MOST]]
    yield table([first, *(words for _, words, _ in columns)], shown, title=title)
    if len(rows) > MOST:
        yield paragraph(f"And {quantity(len(rows) - MOST)} more, in the evaluation's file.")


def _is_diagram(name: str, both: Sides) -> bool:
    """Whether these are the bins of a reliability diagram."""
    held = [one for side in both if isinstance(side, list) for one in side]
    return name == "bins" and bool(held) and all(isinstance(one, Mapping) and {"upto", "probability", "right"} <= one.keys() for one in held)


def _reliability(title: str, both: Sides) -> Iterator[Markup]:
    series = [Series("as sure as right", [(0.0, 0.0), (1.0, 1.0)], colour=2, look="dashed")]
    looks: tuple[tuple[str, Colour], ...] = (("base", "base"), ("tuned", 0))
    for (model, colour), side in zip(looks, both, strict=True):
        series.append(Series(model, [(finite(one["probability"]), finite(one["right"])) for one in side or ()], colour=colour, look="dots"))
    yield lines(f"{title}: how sure, and how often right", series, x="mean probability of the first choice in each bin", y="share that was right", zero=True)
    binned = [{_said(finite(one["upto"])): {name: item for name, item in one.items() if name != "upto"} for one in side or ()} for side in both]
    ends = sorted({finite(one["upto"]) for side in both for one in side or ()})
    numbers = _rows(title, {_said(end): (binned[0].get(_said(end)), binned[1].get(_said(end))) for end in ends}, "probability up to")
    yield fold("The bins in numbers", *numbers)


def _by_name(sides: Sides) -> dict[str, Sides]:
    names = dict.fromkeys(str(name) for side in sides if isinstance(side, Mapping) for name in side)
    return {name: (_of(sides[0], name), _of(sides[1], name)) for name in names}


def _of(side: Any, name: str) -> Any:
    return side.get(name) if isinstance(side, Mapping) else None


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _said(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return quantity(value)
    if isinstance(value, float):
        return short(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
