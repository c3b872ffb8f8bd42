"""A cursor survives JSON, and steps that are skipped on purpose are left out and nothing else is."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tunefleet.data.cursor import Cursor, planned_step


@st.composite
def skipped_ranges(draw):
    edges = sorted(draw(st.sets(st.integers(0, 60), max_size=8)))
    return tuple(zip(edges[::2], edges[1::2], strict=False))


@given(st.text(), st.integers(0, 2**64 - 1), st.integers(0, 99), st.integers(0, 10**12), st.integers(0, 10**9), skipped_ranges())
def test_a_cursor_survives_json(fingerprint, seed, epoch, position, step, skipped):
    cursor = Cursor(fingerprint, seed, epoch, position, step, skipped)
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor


@given(skipped_ranges())
def test_a_run_does_every_planned_step_in_order_but_the_skipped_ones(skipped):
    left_out = {step for first, behind in skipped for step in range(first, behind)}
    assert [planned_step(step, skipped) for step in range(40)] == [s for s in range(200) if s not in left_out][:40]
