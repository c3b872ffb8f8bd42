"""Parallel coordinates: a thread meets each track at its place, a missing place breaks it, and words never touch on a phone."""

import re
from itertools import pairwise

from tunefleet.cluster.parallel import ABOVE, APART, Thread, Track, parallel

TRACKS = [Track("a", [(0.0, "low"), (1.0, "high")]), Track("b", []), Track("c", [])]


def paths(markup: str) -> list[str]:
    return re.findall(r' d="([^"]*)"', markup)


def test_a_thread_meets_each_track_at_its_place():
    (path,) = paths(parallel("t", TRACKS, [Thread("one", [0.0, 0.5, 1.0])]).text)
    assert path == f"M0.0 {ABOVE}L500.0 {ABOVE + APART}L1000.0 {ABOVE + 2 * APART}"


def test_a_missing_place_breaks_the_thread_and_one_outside_lies_at_the_end():
    (path,) = paths(parallel("t", TRACKS, [Thread("one", [2.0, None, -1.0])]).text)
    assert path == f"M1000.0 {ABOVE}M0.0 {ABOVE + 2 * APART}"


def test_a_thread_says_what_it_is_and_stays_text():
    drawn = parallel("t", TRACKS, [Thread("<script>", [0.1, 0.2, 0.3])]).text
    assert "<script>" not in drawn
    assert "<title>&lt;script&gt;</title>" in drawn


def test_words_that_would_touch_are_left_out():
    ticks = [(i / 20, f"value {i}") for i in range(21)]
    drawn = parallel("t", [Track("a", ticks)], [Thread("one", [0.5])]).text
    shown = [float(place) for place in re.findall(r'x="([\d.]+)%" y="\d+" text-anchor="\w+" class="track-tick"', drawn)]
    assert 3 < len(shown) < 12
    assert all(b - a >= 18 for a, b in pairwise(shown))


def test_nothing_to_show_is_said():
    assert "Nothing was recorded." in parallel("t", TRACKS, []).text
