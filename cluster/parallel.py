"""Parallel coordinates as inline SVG, made for ``page``: a track a quantity, below each other so that they fit a phone, and a thread a case through all.

parallel("Parameters and loss", [Track("rank", [(0.0, "2"), (1.0, "32")])], [Thread("trial 3: rank 8", [0.5, 0.2], colour=1)], key=[("best", 1, "line")])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunefleet.cluster.charts import WIDE, Colour, figure, key_of, percent_of, stretched
from tunefleet.cluster.markup import Markup, element

APART, ABOVE, BELOW = 72, 22, 20


@dataclass(frozen=True, slots=True)
class Track:
    """One quantity: its name, and words at places from 0 (left) to 1."""

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Thread:
    """One case: its place on each track, None where it has none there; what it is, under the pointer."""

    name: str
    places: Sequence[float | None]
    colour: Colour = 0
    look: Literal["line", "faint"] = "faint"


def parallel(title: str, tracks: Sequence[Track], threads: Sequence[Thread], *, about: str = "", key: Sequence[tuple[str, Colour, str]] = ()) -> Markup:
    """Threads are drawn in their order, the last on top."""
    if not tracks or not threads:
        return figure(title, "Nothing was recorded.", None, None)
    height = ABOVE + APART * (len(tracks) - 1) + BELOW
    lines = [_thread(thread, height) for thread in threads]
    pieces: list[Markup] = []
    for i, track in enumerate(tracks):
        y = ABOVE + APART * i
        pieces.append(element("line", x1="0", x2="100%", y1=y, y2=y, class_="axis-line track"))
        pieces.append(element("text", track.name, x="0", y=y - 8, class_="track-name"))
        pieces += [_tick(place, word, y) for place, word in _apart(track.ticks)]
    drawing = element("svg", element("title", title), stretched(lines, height), *pieces, height=str(height), width="100%", role="img")
    return figure(title, about, key_of(key) if key else None, element("div", drawing, class_="tracks"))


def _thread(thread: Thread, height: int) -> Markup:
    """A path through the tracks; where a place is missing it begins anew."""
    path, pen = "", "M"
    for i, place in enumerate(thread.places):
        if place is None:
            pen = "M"
            continue
        path += f"{pen}{WIDE * min(max(place, 0.0), 1.0):.1f} {ABOVE + APART * i}"
        pen = "L"
    return element("path", element("title", thread.name), d=path, class_=f"c{thread.colour} curve thread{' faint' if thread.look == 'faint' else ''}")


def _tick(place: float, word: str, y: int) -> Markup:
    anchor = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
    return element("text", word, x=percent_of(place), y=y + 15, text_anchor=anchor, class_="track-tick")


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The ticks whose words do not touch on a phone: about 50 characters fit."""
    kept: list[tuple[float, str]] = []
    for place, word in ticks:
        if not kept or place - kept[-1][0] >= (len(word) + len(kept[-1][1]) + 2) / 2 / 50:
            kept.append((place, word))
    return kept
