"""Sources as pieces of a page: a table of their rows, lengths and what is learnt of them, and charts below it. Data reports and run reports show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tunefleet.cluster import charts
from tunefleet.cluster.axes import percent, quantity
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import grid, table
from tunefleet.data.summary import SourceSummary

DRAWN = 6  # sources with charts; the table has all
ABOUT = "Median, 95% and longest are tokens a row, of the rows that stay."


def source_charts(sources: Sequence[SourceSummary], max_length: int) -> Markup:
    """How long the rows are and how much of them is learnt, of the first sources."""
    return grid(*(piece for source in sources[:DRAWN] for piece in _drawn(source, max_length, named=len(sources) > 1)))


def source_table(sources: Sequence[SourceSummary]) -> Markup:
    """A source a row."""
    masked = any(source.learnt for source in sources)
    columns = ["source", "side", "rows", "stay", "tokens", "median", "95%", "longest", *(["learnt", "cut off"] if masked else [])]
    rows = []
    for source in sources:
        lengths = source.lengths
        measured = [quantity(value) for value in (lengths.median, lengths.p95, lengths.longest)] if lengths else ["", "", ""]
        of_mask = [percent(source.supervised / max(source.tokens, 1)), percent(source.lost / max(source.lost + source.supervised, 1))] if masked else []
        counts = [quantity(value) for value in (source.rows, source.kept, source.tokens)]
        rows.append([source.name, "held out" if source.held else "training", *counts, *measured, *of_mask])
    return table(columns, rows, numbers=range(2, len(columns)))


def _drawn(source: SourceSummary, max_length: int, *, named: bool) -> Iterator[Markup]:
    """Charts of a source: lengths, the share that is learnt where it differs between rows, labels."""
    of = f"{source.name}: " if named else ""
    if source.lengths and source.kept > 1:
        limit = [(float(max_length), "max_length")] if source.lengths.longest * 1.6 >= max_length >= source.lengths.longest else []
        held = source.lengths.histogram
        yield charts.histogram(f"{of}lengths", held.edges, held.counts, x="tokens a row", y="rows", marks=limit)
    if source.learnt and sum(1 for number in source.learnt.counts if number) > 1:
        held = source.learnt
        yield charts.histogram(f"{of}share that is learnt", [100 * edge for edge in held.edges], held.counts, x="% of a row's tokens", y="rows")
    if source.labels:
        bars = [charts.Bar(label.name, label.rows) for label in source.labels]
        bars += [charts.Bar("all others", source.other_labels, colour="base")] if source.other_labels else []
        yield charts.bars(f"{of}labels", bars, unit="rows that stay")
