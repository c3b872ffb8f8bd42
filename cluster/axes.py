"""What a chart needs to know of numbers: round ticks, places on an axis, short words for values, and fewer points that look the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
TINY = 1e-290
UNITS = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from a size on: divided by, letter


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values and its ticks; ``place`` is 0 at its low end and 1 at its high end."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies. On a logarithmic axis what is not above zero lies at the low end."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low)) if value > 0 else 0.0
        return (value - self.low) / (self.high - self.low)


def axis(values: Iterable[float], *, log: bool = False, zero: bool = False, loose: bool = True, whole: bool = False, count: int = 5) -> Axis:
    """An axis that holds all finite values. ``zero``: it begins at zero; ``loose``: it ends at round values, else exactly at the outermost ones.

    ``whole``: it counts things, so that its ticks are whole numbers.
    """
    known = [float(value) for value in values if math.isfinite(value) and (not log or value > 0)]
    low, high = (min(known), max(known)) if known else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        return _log_axis(low, high, loose=loose, count=count)
    low, high = (min(low, 0.0), max(high, 0.0)) if zero else (low, high)
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, TINY):  # one value only, as far as ticks can tell
        room = 0.05 * size if size > TINY else 0.5
        low, high = (0.0, 1.0) if zero else (low - room, high + room)
    step = _round_step((high - low) / count, whole=whole)
    below, above = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f"{i * step:.12g}") for i in range(below, above + 1)]
    if loose:
        return Axis(min(ticks[0], low), max(ticks[-1], high), tuple(ticks))
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high))


def _log_axis(low: float, high: float, *, loose: bool, count: int) -> Axis:
    """Ticks at powers of ten, every so many where there are many; within two powers also at 2 and 5."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    within = (1, 2, 5) if last - first <= 2 else (1,)
    every = max(1, math.ceil((last - first) / count))
    ticks = [float(f"{digit}e{power}") for power in range(first, last + 1, every) for digit in within]
    if not loose:
        high = high if high > low else low * 10
        return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high), log=True)
    below, above = [tick for tick in ticks if tick <= low * (1 + 1e-9)], [tick for tick in ticks if tick >= high * (1 - 1e-9)]
    start, end = (below or [10.0**first])[-1], (above or [10.0**last])[0]
    end = end if end > start else start * 10
    return Axis(start, end, tuple(tick for tick in ticks if start <= tick <= end), log=True)


def _round_step(about: float, *, whole: bool) -> float:
    """The round number (1, 2, 2.5 or 5 times a power of ten) nearest above; a whole one where that is wanted."""
    about = max(about, 1.0) if whole else about
    power = 10.0 ** math.floor(math.log10(about))
    steps = (factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0))
    return next(step for step in steps if step >= about * (1 - 1e-9) and not (whole and step % 1))


def short(value: float) -> str:
    """A value as a reading: at most four digits, k and M for large ones."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+", "e")
    divisor, unit = _unit(size)
    return f"{value / divisor:.4g}{unit}" if unit or size < 1000 else f"{value:,.0f}"


def tick_words(axis: Axis) -> list[str]:
    """Its ticks in one unit, with equally many digits after the point; where they span too much for that, as on a logarithmic axis, each for itself."""
    ticks, largest = axis.ticks, max(map(abs, axis.ticks), default=0.0)
    if axis.log or not 1e-4 <= largest < 1e15:
        return [short(tick) for tick in ticks]
    divisor, unit = _unit(largest)
    digits = next(d for d in range(20) if all(abs(round(tick / divisor, d) - tick / divisor) < 1e-9 for tick in ticks))
    return [f"{tick / divisor:,.{digits}f}{unit}".replace("-", "\u2212") if tick else "0" for tick in ticks]


def _unit(size: float) -> tuple[float, str]:
    """What numbers of a size are divided by, and the letter that says so."""
    return next(((divisor, unit) for limit, divisor, unit in UNITS if size >= limit), (1.0, ""))


def quantity(value: float) -> str:
    """A count in full, its thousands set apart."""
    return f"{value:,.0f}"


def amount(value: float) -> str:
    """A count in full while it is short enough for large type."""
    return quantity(value) if abs(value) < 1e6 else short(value)


def count(number: float, one: str, many: str = "") -> str:
    """``1 step``, ``250 steps``."""
    return f"{quantity(number)} {one if number == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share in words short enough for a sentence."""
    value = 100 * share
    if 0 < value < 0.1:
        return "under 0.1%"
    if 99.5 <= value < 100:  # all but a few are not all
        return f"{min(value, 99.9):.1f}%"
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.1f}%"


def finite_runs(points: Iterable[Point], *, log: bool = False) -> list[list[Point]]:
    """The stretches between gaps: a point that is not finite (or not above zero, on a logarithmic axis) is a gap, not a zero."""
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and (not log or y > 0):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points that keep the look: of every stretch the first, lowest, highest and last, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    buckets = max(1, most // 4)
    kept: list[Point] = []
    for i in range(buckets):
        part = points[i * len(points) // buckets : (i + 1) * len(points) // buckets]
        chosen = {0, len(part) - 1, min(range(len(part)), key=lambda k: part[k][1]), max(range(len(part)), key=lambda k: part[k][1])}
        kept += [part[k] for k in sorted(chosen)]
    return kept


def smoothed(points: Sequence[Point], width: int) -> list[Point]:
    """The mean over the finite points among the ``width`` around each, fewer at the ends; a point that is not finite stays a gap."""
    half = width // 2
    sums, counts = [0.0], [0]
    for _, y in points:
        known = math.isfinite(y)
        sums.append(sums[-1] + (y if known else 0.0))
        counts.append(counts[-1] + known)
    result: list[Point] = []
    for i, (x, y) in enumerate(points):
        first, end = max(0, i - half), min(len(points), i + half + 1)
        result.append((x, (sums[end] - sums[first]) / (counts[end] - counts[first]) if math.isfinite(y) else math.nan))
    return result


def decimals(low: float, high: float) -> int:
    """Digits after the point that an interval warrants: two that count of its width, at most five."""
    width = high - low
    return min(5, max(0, 1 - math.floor(math.log10(width)))) if math.isfinite(width) and width > 0 else 4
