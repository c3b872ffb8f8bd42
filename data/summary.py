"""What a quality report says of every source, in plain numbers: rows, lengths, what is learnt, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.data.facts import Facts, Flag
from tunefleet.data.gate import Verdict, is_labelled
from tunefleet.data.survey import Part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

BINS = 40
LABELS = 24  # shown by name; the others in one sum


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between edges, of which there is one more."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens a row, of the rows that stay."""

    median: int
    mean: float
    p95: int
    longest: int
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Label:
    """A label as most rows spell it, and how many rows that stay have it."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """One source. ``learnt`` is the share of a row's tokens that carry loss, None where no single tokens do. ``lost``: learnt tokens that were cut off.

    ``pieces``: rows that stay and are longer than an example, but not cut: they become several. ``all_cut``: rows that lose all that they teach to the cut.
    ``needed``: the max_length that would cut nothing of 99% of the rows that can be read, and of all.
    """

    name: str
    held: bool
    files: int
    rows: int
    kept: int
    tokens: int
    supervised: int
    lost: int
    whole: int  # rows that stay and were not cut
    pieces: int
    all_cut: int
    needed: tuple[int, int]
    lengths: Lengths | None
    learnt: Histogram | None
    labels: tuple[Label, ...]
    other_labels: int  # rows with labels that are not listed
    labelled: bool


def summarise(facts: Facts, verdict: Verdict, parts: Sequence[Part], *, masked: bool) -> list[SourceSummary]:
    """A summary of every source, in order. ``masked``: the layout has a mask of supervised tokens."""
    return [_source(facts, verdict, number, part, masked=masked) for number, part in enumerate(parts)]


def _source(facts: Facts, verdict: Verdict, number: int, part: Part, *, masked: bool) -> SourceSummary:
    import numpy as np

    of_part = facts.columns["part"] == number
    rows = np.flatnonzero(of_part & verdict.keep)
    tokens, supervised, lost, uncut = (facts.columns[name][rows].astype(np.int64) for name in ("tokens", "supervised", "lost", "uncut"))
    readable = np.flatnonzero(of_part & ~facts.has(Flag.INVALID))
    needed = np.quantile(facts.columns["uncut"][readable], (0.99, 1.0), method="higher").tolist() if len(readable) else [0, 0]
    labels, others = _labels(facts, rows)
    return SourceSummary(
        name=part.name,
        held=part.held,
        files=len(part.files),
        rows=int(of_part.sum()),
        kept=len(rows),
        tokens=int(tokens.sum()),
        supervised=int(supervised.sum()) if masked else 0,
        lost=int(lost.sum()),
        whole=int((~facts.has(Flag.TRUNCATED)[rows]).sum()),
        pieces=int(((tokens > uncut) & (facts.columns["context"][rows] == 0)).sum()) if masked else 0,
        all_cut=int((of_part & facts.has(Flag.UNSUPERVISED) & (facts.columns["lost"] > 0)).sum()),
        needed=(needed[0], needed[1]),
        lengths=_lengths(tokens) if len(rows) else None,
        learnt=_histogram(supervised / np.maximum(tokens, 1), 1.0, BINS // 2) if masked and len(rows) else None,
        labels=labels,
        other_labels=others,
        labelled=bool(labels),
    )


def _lengths(tokens: Ints) -> Lengths:
    import numpy as np

    median, p95, longest = (int(value) for value in np.quantile(tokens, (0.5, 0.95, 1.0), method="higher"))
    return Lengths(median, float(tokens.mean()), p95, longest, _histogram(tokens, float(longest), BINS))


def _histogram(values: npt.NDArray[np.float64] | Ints, top: float, bins: int) -> Histogram:
    """Counts from 0 to ``top``. Edges of whole numbers lie on whole numbers, the last behind ``top``: no bar seems to hold values above it."""
    import numpy as np

    whole = values.dtype.kind == "i"
    end = top + 1 if whole else top
    width = max(int(np.ceil(end / bins)), 1) if whole else top / bins
    count = int(np.ceil(end / width)) if whole else bins
    counts, edges = np.histogram(values, count, (end - width * count, end))
    return Histogram(tuple(np.maximum(edges, 0).tolist()), tuple(counts.tolist()))


def _labels(facts: Facts, rows: Ints) -> tuple[tuple[Label, ...], int]:
    """Rows of every label, the commonest first, whatever their spelling."""
    import numpy as np

    if not is_labelled(facts, rows):
        return (), 0
    columns = facts.columns
    answers, inverse, counts = np.unique(columns["answer"][rows], return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    listed = []
    for place in order[:LABELS].tolist():
        spellings, times = np.unique(columns["spelling"][rows[inverse == place]], return_counts=True)
        listed.append(Label(facts.names.get(int(spellings[times.argmax()]), "(too long to show)"), int(counts[place])))
    assert len(answers) == len(counts)
    return tuple(listed), int(counts[order[LABELS:]].sum())
