"""The learning rate is a pure function of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.trainers.schedule import rate

kinds = pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])


@kinds
@given(steps=st.integers(1, 500), share=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_it_rises_to_the_peak_and_never_rests_at_zero(kind, steps, share, floor):
    warmup = int(steps * share)
    rates = [rate(step, steps=steps, peak=2.0, warmup=warmup, kind=kind, min_ratio=floor) for step in range(steps)]
    assert all(0 < r <= 2.0 for r in rates)
    assert rates[warmup] == 2.0
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert min(rates[warmup:]) >= 2.0 * floor


@kinds
def test_it_ends_at_the_floor(kind):
    end = rate(10, steps=10, peak=1.0, warmup=3, kind=kind, min_ratio=0.25)
    assert end == pytest.approx(1.0 if kind == "constant" else 0.25)


def test_half_way_down_both_shapes_stand_at_half():
    assert rate(50, steps=100, peak=1.0, warmup=0, kind="linear") == pytest.approx(0.5)
    assert rate(50, steps=100, peak=1.0, warmup=0, kind="cosine") == pytest.approx(0.5)
