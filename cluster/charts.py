"""Charts as inline SVG, made for ``page``: they fill the width they get, their type keeps its size, and their colours follow the reader's scheme.

How they stretch without a script: what has a width in data (curves, bands) lies in an inner drawing of 1000 units that is stretched, with strokes that
are not; what must keep its shape (type, dots) is placed in per cent. Every chart has a title, units on its axes, and its values under the pointer.

    lines("Loss", [Series("training", points), Series("held-out", held_out, low=low, high=high, colour=1)], x="step", y="nats per token")
    bars("Tokens by source", [Bar("books", 1200), Bar("web", 800)], unit="tokens")
    histogram("Length", edges, counts, x="tokens", y="examples")
    stack("Time", [("training", 120.0), ("checkpoint", 4.0)], shown=duration)
    ranges("Loss", [Range("gsm8k", [Estimate("base", 2.3, 2.2, 2.4), Estimate("tuned", 1.9, 1.8, 2.0)])], x="nats per token")
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from tunefleet.cluster.axes import Axis, Point, axis, finite_runs, quantity, short, thinned, tick_words
from tunefleet.cluster.markup import NOTHING, Content, Markup, element, join
from tunefleet.cluster.page import table
from tunefleet.cluster.pagestyle import SERIES

Colour = int | Literal["base"]
POINTS = 480  # of a curve: about one a pixel of a wide chart
STRIPS = 96  # places under the pointer
WIDE = 1000.0


@dataclass(frozen=True, slots=True)
class Series:
    """A curve. ``low`` and ``high``: its interval at each point. ``look``: dots mark each point, faint is a noisy background, dashed a reference."""

    name: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: Colour = 0
    look: Literal["line", "dots", "faint", "dashed"] = "line"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from zero."""

    name: str
    value: float
    colour: Colour = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its interval, of one contestant."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: Colour = 0


@dataclass(frozen=True, slots=True)
class Range:
    """A row of estimates to compare."""

    name: str
    estimates: Sequence[Estimate] = field(default_factory=tuple)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    log_y: bool = False,
    zero: bool = False,
    x_holds: Sequence[float] = (),
    whole_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    height: int = 220,
) -> Markup:
    """Curves over one horizontal axis. ``marks``: places where something happened; points that are not finite are gaps.

    ``x_holds``: places that the horizontal axis reaches to also without points, so that charts beside each other share one; ``whole_x``: it counts.
    """
    drawn = [_drawable(one, log=log_y) for one in series]
    drawn = [one for one in drawn if any(math.isfinite(y) for _, y in one.points)]
    if not drawn:
        return figure(title, "Nothing was recorded.", None, None)
    across = axis([*x_holds, *(p[0] for one in drawn for p in one.points), *(place for place, _ in marks)], loose=False, whole=whole_x)
    up = axis([v for one in drawn for v in (*(p[1] for p in one.points), *one.low, *one.high)], log=log_y, zero=zero)
    inner = [piece for one in drawn for piece in _curve(one, across, up, height)]
    outer = [piece for one in drawn for piece in _dots(one, across, up, height)]
    body = join(_grid_lines(up, height), stretched(inner, height), *outer, *_marks(marks, across, height), _ticks_below(across, height))
    strips = _strips(drawn, across, up, height, x)
    key = key_of([(one.name, one.colour, one.look) for one in drawn]) if len(drawn) > 1 else None
    return figure(title, y, key, _plot(title, body, strips, up, height, x))


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[float], *, x: str, y: str, marks: Sequence[tuple[float, str]] = (), height: int = 200
) -> Markup:
    """Counts between edges (one more than counts). ``marks``: limits worth seeing."""
    if not sum(counts):
        return figure(title, "Nothing was counted.", None, None)
    across = axis([*edges, *(place for place, _ in marks)], loose=False)
    up = axis(counts, zero=True, whole=True, count=4)
    filled = element("path", d=_outline(edges, counts, across, up, height), class_="c0 fill")
    body = join(_grid_lines(up, height), stretched([filled], height), *_marks(marks, across, height), _ticks_below(across, height))
    strips = join(*(_cell(between, number, across, height, x, y) for between, number in zip(pairwise(edges), counts, strict=True)))
    return figure(title, y, None, _plot(title, body, strips, up, height, x))


def bars(title: str, all_of: Sequence[Bar], *, unit: str) -> Markup:
    """Lying bars, a name and a count each."""
    reach = max((bar.value for bar in all_of), default=0.0) or 1.0
    rows: list[Markup] = []
    for bar in all_of:
        told = element("title", f"{bar.name}: {quantity(bar.value)}")
        drawn = element("rect", x="0", y="5", width=percent_of(bar.value / reach), height="12", rx="1.5", class_="fill")
        drawing = element("svg", told, drawn, height="22", role="img", class_=f"c{bar.colour}")
        rows += [element("div", bar.name, class_="name"), drawing, element("div", quantity(bar.value), class_="number")]
    return figure(title, unit, None, element("div", *rows, class_="rows valued") if rows else None)


def ranges(title: str, rows: Sequence[Range], *, x: str, log: bool = False, zero: bool = False) -> Markup:
    """Dots with their intervals on one axis: contestants below each other, a row a case. The name of an only case stands above, and leaves it the width.

    ``zero``: the values are differences, and the axis holds zero as a line of its own.
    """
    every = [estimate for row in rows for estimate in row.estimates if math.isfinite(estimate.value)]
    if not every:
        return figure(title, "Nothing to compare.", None, None)
    across = axis([v for one in every for v in (one.value, one.low, one.high) if v is not None], log=log, zero=zero, count=4)
    about, named = (rows[0].name, False) if len(rows) == 1 else ("", True)
    pieces: list[Markup] = []
    for row in rows:
        height = 10 + 16 * len(row.estimates)
        drawn = [element("line", x1=_at(across, t), x2=_at(across, t), y1="0", y2=height, class_="grid-line") for t in across.ticks]
        drawn += [element("line", x1=_at(across, 0), x2=_at(across, 0), y1="0", y2=height, class_="zero-line")] if zero else []
        drawn += [_estimate(estimate, across, 13 + 16 * i) for i, estimate in enumerate(row.estimates) if math.isfinite(estimate.value)]
        name = element("div", row.name, class_="name") if named else NOTHING
        pieces += [name, element("svg", *drawn, height=str(height), role="img", aria_label=f"{title}: {row.name}")]
    pieces.append(element("svg", _ticks_below(across, 0), height="22", aria_hidden="true", class_="under"))
    kinds = {estimate.name: estimate.colour for estimate in every}
    pieces.append(element("p", x, class_="along"))
    return figure(
        title, about, key_of([(name, colour, "dots") for name, colour in kinds.items()]), element("div", *pieces, class_="rows" if named else "rows alone")
    )


def stack(title: str, parts: Sequence[tuple[str, float]], *, about: str = "", shown: Callable[[float], str] = short) -> Markup:
    """What a whole is made of: one bar, and a table of the parts with their shares. They stand in the order given."""
    whole = sum(value for _, value in parts)
    if whole <= 0:
        return figure(title, "Nothing was recorded.", None, None)
    drawn: list[Markup] = []
    rows: list[list[Content]] = []
    begin = 0.0
    for i, (name, value) in enumerate(parts):
        colour: Colour = i if i < SERIES else "base"
        told = element("title", f"{name}: {shown(value)}, {_share(value / whole)}")
        drawn.append(element("rect", told, x=percent_of(begin), y="0", width=percent_of(value / whole), height="26", class_=f"c{colour} fill"))
        begin += value / whole
        drawn += [element("line", x1=percent_of(begin), x2=percent_of(begin), y1="0", y2="26", class_="split")] if begin < 0.999 else []
        swatch = element("svg", element("rect", width="12", height="12", rx="2", class_="fill"), class_=f"c{colour}", aria_hidden="true")
        rows.append([join(swatch, name), shown(value), _share(value / whole)])
    bar = element("svg", *drawn, height="26", width="100%", role="img", aria_label=f"{title}: " + ", ".join(f"{n} {_share(v / whole)}" for n, v in parts))
    held = element("div", table(["part", "amount", "share"], rows), class_="parts")
    return figure(title, about, None, join(element("div", bar, class_="stack"), held))


def figure(title: str, about: str, key: Markup | None, body: Markup | None) -> Markup:
    """A drawing under its title, a remark and its key."""
    head = element("figcaption", element("h3", title), element("span", about, class_="about") if about else None, key)
    return element("figure", head, body)


def _plot(title: str, body: Markup, strips: Markup, up: Axis, height: int, x: str) -> Markup:
    """The axis on the left keeps its width, the drawing beside it takes the rest."""
    words = zip(up.ticks, tick_words(up), strict=True)
    ticks = [element("text", word, x="100%", dx="-8", y=_down(up, tick, height), dy="4", text_anchor="end") for tick, word in words]
    left = element("svg", *ticks, height=str(height + 24), class_="y", aria_hidden="true")
    drawing = element("svg", element("title", title), body, strips, height=str(height + 24), role="img")
    return element("div", left, element("div", drawing, class_="body"), element("p", x, class_="along"), class_="plot")


def key_of(names: Sequence[tuple[str, Colour, str]]) -> Markup:
    """What each colour and look stands for, each once."""
    items = []
    for name, colour, look in dict.fromkeys(names):
        sign = element("line", x1="0", x2="18", y1="5", y2="5", class_="curve dashed" if look == "dashed" else f"curve{' faint' if look == 'faint' else ''}")
        dot = element("circle", cx="9", cy="5", r="3.5", class_="dot") if look == "dots" else None
        items.append(element("li", element("svg", sign, dot, class_=f"c{colour}", aria_hidden="true"), name))
    return element("ul", *items, class_="key")


def stretched(pieces: Sequence[Markup], height: int) -> Markup:
    """What has its width in data, in a drawing of 1000 units that fills what width there is."""
    return element("svg", *pieces, x="0", y="0", width="100%", height=str(height), viewBox=f"0 0 {WIDE:.0f} {height}", preserveAspectRatio="none")


def _drawable(one: Series, *, log: bool) -> Series:
    """A long curve with the points that its look needs, and with its gaps; one with an interval, of which there are fewer points, as it is."""
    if len(one.points) <= POINTS or one.low:
        return one
    gap = (math.nan, math.nan)
    return replace(one, points=[point for run in finite_runs(one.points, log=log) for point in (gap, *thinned(run, POINTS))][1:])


def _curve(one: Series, across: Axis, up: Axis, height: int) -> list[Markup]:
    pieces: list[Markup] = []
    if one.low and one.high:
        lows = [(x, low) for (x, _), low in zip(one.points, one.low, strict=True)]
        highs = [(x, high) for (x, _), high in zip(one.points, one.high, strict=True)]
        for low, high in zip(finite_runs(lows), finite_runs(highs), strict=False):
            there, back = _path(thinned(high, POINTS), across, up, height), _path(thinned(low, POINTS)[::-1], across, up, height)
            pieces.append(element("path", d=f"M{there}L{back}Z", class_=f"c{one.colour} band"))
    look = {"faint": " faint", "dashed": " dashed"}.get(one.look, "")
    for run in finite_runs(one.points, log=up.log):
        kept = thinned(run, POINTS)
        kept = [kept[0], kept[0]] if len(kept) == 1 else kept  # a round cap makes a dot of it
        pieces.append(element("path", d=f"M{_path(kept, across, up, height)}", class_=f"c{one.colour} curve{look}"))
    return pieces


def _path(points: Sequence[Point], across: Axis, up: Axis, height: int) -> str:
    return "L".join(f"{WIDE * across.place(x):.1f} {height * (1 - up.place(y)):.1f}" for x, y in points)


def _dots(one: Series, across: Axis, up: Axis, height: int) -> list[Markup]:
    """A dot at each point where that is the look, else at those that no line leads to; those have an interval of their own, as a band has no width there."""
    runs = [] if one.look == "faint" else finite_runs(one.points, log=up.log)
    lone = [run[0] for run in runs if len(run) == 1]
    points = [point for run in runs for point in run] if one.look == "dots" else lone
    if len(points) > STRIPS:
        return []
    ends = [(x, *_ends(one, (x, y))) for x, y in lone if one.low and one.high]
    whiskers = [(_at(across, x), _down(up, low, height), _down(up, high, height)) for x, low, high in ends if math.isfinite(low) and math.isfinite(high)]
    drawn = [element("line", x1=at, x2=at, y1=low, y2=high, class_=f"c{one.colour} whisker") for at, low, high in whiskers]
    return drawn + [element("circle", cx=_at(across, x), cy=_down(up, y, height), r="3.5", class_=f"c{one.colour} dot") for x, y in points]


def _grid_lines(up: Axis, height: int) -> Markup:
    rules = [element("line", x1="0", x2="100%", y1=_down(up, tick, height), y2=_down(up, tick, height), class_="grid-line") for tick in up.ticks]
    return join(*rules, element("line", x1="0", x2="100%", y1=height, y2=height, class_="axis-line"))


def _ticks_below(across: Axis, height: int) -> Markup:
    pieces, last = [], -1.0
    for tick, word in zip(across.ticks, tick_words(across), strict=True):
        place = across.place(tick)
        if place - last >= 0.11:  # closer, and the words would touch on a phone
            anchor = "start" if place < 0.02 else "end" if place > 0.98 else "middle"
            pieces.append(element("text", word, x=percent_of(place), y=height + 17, text_anchor=anchor))
            last = place
    return join(*pieces)


def _marks(marks: Sequence[tuple[float, str]], across: Axis, height: int) -> list[Markup]:
    pieces, free = [], -1.0
    for place, name in sorted(marks):
        at = across.place(place)
        pieces.append(element("line", element("title", name), x1=percent_of(at), x2=percent_of(at), y1="0", y2=height, class_="mark"))
        if at > free:
            side = {"dx": "-4", "text_anchor": "end"} if at > 0.6 else {"dx": "4"}
            pieces.append(element("text", name, x=percent_of(at), y="9", class_="mark-label", **side))
            free = at + 0.3
    return pieces


def _strips(series: Sequence[Series], across: Axis, up: Axis, height: int, x: str) -> Markup:
    """Under the pointer: a guide, a dot on every curve, and the values in words. Places are the points of the longest curve, fewer when there are many."""
    places = sorted({p[0] for one in series for p in one.points if math.isfinite(p[0])})
    places = [places[round(i * (len(places) - 1) / (STRIPS - 1))] for i in range(STRIPS)] if len(places) > STRIPS else places
    by_place = [(one, sorted(point for run in finite_runs(one.points, log=up.log) for point in run)) for one in series if one.look != "faint"]
    middles = [(across.place(a) + across.place(b)) / 2 for a, b in pairwise(places)]
    gap = 0.005  # the first and the last reach a little beyond the drawing
    pieces = []
    for place, left, right in zip(places, [-gap, *middles], [*middles, 1 + gap], strict=True):
        near = [(one, found) for one, points in by_place if (found := _nearest(points, place, x_gap=right - left, across=across)) is not None]
        said = ", ".join([f"{x} {short(place)}", *(f"{one.name} {short(found[1])}{_interval(one, found)}" for one, found in near)])
        dots = [element("circle", cx=_at(across, px), cy=_down(up, py, height), r="3.5", class_=f"c{one.colour} dot") for one, (px, py) in near]
        guide = element("line", x1=_at(across, place), x2=_at(across, place), y1="0", y2=height, class_="guide")
        area = element("rect", element("title", said), x=percent_of(left), width=percent_of(right - left), y="0", height=height)
        pieces.append(element("g", area, guide, *dots, class_="strip"))
    return join(*pieces)


def _nearest(points: Sequence[Point], place: float, *, x_gap: float, across: Axis) -> Point | None:
    """The point at a place, if there is one within half a strip of it."""
    at = bisect_left(points, (place,))
    close = min(points[max(0, at - 1) : at + 1], key=lambda p: abs(across.place(p[0]) - across.place(place)), default=None)
    return close if close is not None and abs(across.place(close[0]) - across.place(place)) <= x_gap / 2 + 1e-9 else None


def _interval(one: Series, point: Point) -> str:
    if not (one.low and one.high):
        return ""
    low, high = _ends(one, point)
    return f" ({short(low)} to {short(high)})"


def _ends(one: Series, point: Point) -> tuple[float, float]:
    """The interval of a point."""
    at = one.points.index(point)
    return one.low[at], one.high[at]


def _outline(edges: Sequence[float], values: Sequence[float], across: Axis, up: Axis, height: int) -> str:
    path = f"M{WIDE * across.place(edges[0]):.1f} {height}"
    for left, right, value in zip(edges, edges[1:], values, strict=False):
        top = height * (1 - up.place(value))
        path += f"L{WIDE * across.place(left):.1f} {top:.1f}L{WIDE * across.place(right):.1f} {top:.1f}"
    return f"{path}L{WIDE * across.place(edges[-1]):.1f} {height}Z"


def _cell(between: tuple[float, float], number: float, across: Axis, height: int, x: str, y: str) -> Markup:
    said = f"{x} {short(between[0])} to {short(between[1])}: {y} {quantity(number)}"
    left, right = map(across.place, between)
    return element("g", element("rect", element("title", said), x=percent_of(left), width=percent_of(right - left), y="0", height=height), class_="strip")


def _estimate(one: Estimate, across: Axis, y: int) -> Markup:
    whisker = _whisker(across.place(one.low), across.place(one.high), y) if one.low is not None and one.high is not None else None
    dot = element("circle", cx=_at(across, one.value), cy=y, r="4.5", class_="dot")
    return element("g", element("title", _reading(one)), whisker, dot, class_=f"c{one.colour}")


def _whisker(low: float, high: float, y: int) -> Markup:
    ends = [element("line", x1=percent_of(at), x2=percent_of(at), y1=y - 4, y2=y + 4, class_="whisker") for at in (low, high)]
    return element("g", element("line", x1=percent_of(low), x2=percent_of(high), y1=y, y2=y, class_="whisker"), *ends)


def _reading(one: Estimate) -> str:
    interval = f", 95% interval {short(one.low)} to {short(one.high)}" if one.low is not None and one.high is not None else ""
    return f"{one.name}: {short(one.value)}{interval}"


def _at(across: Axis, value: float) -> str:
    return percent_of(across.place(value))


def _down(up: Axis, value: float, height: int) -> float:
    return height * (1 - up.place(value))


def percent_of(share: float) -> str:
    """A place on a drawing."""
    return f"{100 * share:.2f}%"


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "<0.1%"
