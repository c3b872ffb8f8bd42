"""Charts: round ticks that hold the values, fewer points with the same look, gaps where there is no number, and names that stay text."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.axes import Axis, axis, decimals, finite_runs, percent, quantity, short, smoothed, thinned, tick_words
from tunefleet.cluster.charts import Bar, Estimate, Range, Series, bars, histogram, lines, ranges, stack
from tunefleet.cluster.markup import Markup

NUMBERS = st.floats(min_value=-1e12, max_value=1e12, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-9)
EVIL = "<script>alert('1')</script>&\""


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_values_between_round_ticks(values: list[float], zero: bool) -> None:
    made = axis(values, zero=zero)
    places = [made.place(value) for value in values]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)
    assert 2 <= len(made.ticks) <= 12
    assert list(made.ticks) == sorted(set(made.ticks))


@given(st.lists(st.floats(min_value=1e-9, max_value=1e12), min_size=1, max_size=20), st.booleans())
def test_a_logarithmic_axis_holds_its_values(values: list[float], loose: bool) -> None:
    made = axis(values, log=True, loose=loose)
    assert all(-1e-6 <= made.place(value) <= 1 + 1e-6 for value in values)
    assert made.place(0.0) == 0.0


@given(st.lists(NUMBERS, min_size=1, max_size=3000), st.integers(min_value=8, max_value=500))
def test_thinning_keeps_ends_and_extremes(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert len(kept) <= most
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {y for _, y in kept}
    assert kept == sorted(kept)


def test_what_is_no_number_is_a_gap_and_not_a_zero() -> None:
    points = [(1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf), (5, -1.0)]
    assert finite_runs(points) == [[(1, 2.0)], [(3, 1.0)], [(5, -1.0)]]
    assert finite_runs(points, log=True) == [[(1, 2.0)], [(3, 1.0)]]
    assert [y for _, y in smoothed([(1, 2.0), (2, 4.0), (3, 9.0)], 3)] == [3.0, 5.0, 6.5]
    assert lines("Loss", [Series("a", points)], x="step", y="nats").text.count('class="c0 curve"') == 3


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0"), (8e-4, "0.0008"), (1e-5, "1e-5"), (1.23456, "1.235"), (9999, "9,999"), (12345, "12.35k"), (2.5e6, "2.5M"), (math.nan, "not finite")],
)
def test_short_words_for_numbers(value: float, said: str) -> None:
    assert short(value) == said


@pytest.mark.parametrize(("low", "high", "digits"), [(2.81, 2.875, 3), (794, 1331, 0), (-0.0371, -0.0185, 3), (1.0, 1.0, 4), (0, 1e-9, 5)])
def test_an_interval_says_how_many_digits_count(low: float, high: float, digits: int) -> None:
    assert decimals(low, high) == digits


@pytest.mark.parametrize(
    ("ticks", "said"),
    [
        ((1.5, 2.0, 2.5), ["1.5", "2.0", "2.5"]),
        ((0.0, 5000.0, 10000.0), ["0", "5k", "10k"]),
        ((-1.0, 0.0, 1.0), ["\u22121", "0", "1"]),
        ((0.0, 2e-6, 4e-6), ["0", "2e-6", "4e-6"]),
    ],
)
def test_the_ticks_of_an_axis_have_one_unit_and_equally_many_digits(ticks: tuple[float, ...], said: list[str]) -> None:
    assert tick_words(Axis(ticks[0], ticks[-1], ticks)) == said


@given(low=st.floats(0, 1e6), high=st.floats(0, 1e6))
def test_no_tick_is_worded_as_another_value(low: float, high: float) -> None:
    made = axis([low, high])
    assert len(set(tick_words(made))) == len(made.ticks)


def test_ticks_that_span_much_have_each_their_own_unit() -> None:
    assert tick_words(axis([10, 10_000], log=True)) == ["10", "100", "1,000", "10k"]


@given(low=st.integers(0, 1000), reach=st.integers(0, 10**6))
def test_what_counts_has_whole_ticks(low: int, reach: int) -> None:
    found = axis([low, low + reach], loose=False, whole=True)
    assert all(tick == int(tick) for tick in found.ticks)


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "0%"), (1e-5, "under 0.1%"), (0.0512, "5.1%"), (0.5, "50%"), (0.9988, "99.9%"), (0.99999, "99.9%"), (1.0, "100%")]
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share: float, said: str) -> None:
    assert percent(share) == said


def test_a_single_point_is_a_dot_with_its_interval() -> None:
    alone = lines("toy", [Series("a", [(1.0, 2.0)], low=[1.0], high=[3.0])], x="step", y="loss").text
    assert alone.count("whisker") == 1
    assert "<circle" in alone.partition('class="strip"')[0]


def test_a_count_is_given_in_full() -> None:
    assert quantity(1234567.0) == "1,234,567"


CHARTS = {
    "lines": lambda name: lines(
        name,
        [Series(name, [(1, 2.0), (2, 1.0)], low=[1.9, 0.9], high=[2.1, 1.1]), Series("b", [(1, 1.0)], look="dots")],
        x=name,
        y=name,
        marks=[(1.5, name)],
    ),
    "log lines": lambda name: lines(name, [Series(name, [(1, 2.0), (1000, 0.0), (2000, 50.0)], look="dashed")], x=name, y=name, log_y=True),
    "histogram": lambda name: histogram(name, [0, 1, 2], [3, 4], x=name, y=name, marks=[(2, name)]),
    "bars": lambda name: bars(name, [Bar(name, 3.0), Bar("b", 0.0)], unit=name),
    "ranges": lambda name: ranges(name, [Range(name, [Estimate(name, 1.0, 0.5, 1.5), Estimate("b", 2.0)])], x=name),
    "stack": lambda name: stack(name, [(name, 3.0), ("b", 1.0)]),
}


@pytest.fixture(params=CHARTS)
def chart(request: pytest.FixtureRequest) -> Markup:
    return CHARTS[request.param](EVIL)


def test_every_chart_is_well_formed_and_keeps_names_as_text(chart: Markup) -> None:
    root = ET.fromstring(chart.text)
    assert not [node for node in root.iter() if node.tag == "script"]
    assert EVIL in "".join(root.itertext())
    assert not [name for node in root.iter() for name in node.attrib if name.startswith("on") or name == "style"]


def test_every_drawing_has_a_name_or_is_hidden(chart: Markup) -> None:
    for drawing in ET.fromstring(chart.text).iter("svg"):
        outer = "viewBox" not in drawing.attrib
        assert not outer or drawing.find("title") is not None or drawing.attrib.keys() & {"aria-label", "aria-hidden"}


def test_the_parts_of_a_stack_fill_it() -> None:
    drawn = stack("Time", [("training", 1 / 3), ("checkpoint", 1 / 3), ("other", 1 / 3)])
    widths = [float(node.attrib["width"].rstrip("%")) for node in ET.fromstring(drawn.text).iter("rect") if node.attrib["width"].endswith("%")]
    assert sum(widths) == pytest.approx(100, abs=0.05)


@pytest.mark.parametrize("points", [[], [(1, math.nan)], [(1, math.inf), (2, math.nan)]])
def test_nothing_to_draw_is_said(points: list[tuple[float, float]]) -> None:
    assert "Nothing was recorded" in lines("Loss", [Series("a", points)], x="step", y="nats").text


def test_a_long_curve_stays_small() -> None:
    points = [(i, math.sin(i / 500)) for i in range(200_000)]
    assert len(lines("Loss", [Series("a", points)], x="step", y="nats").text) < 60_000
