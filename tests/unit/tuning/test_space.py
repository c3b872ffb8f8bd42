"""A range holds what is drawn from it and what its ends are; an empty one is refused by its key and line."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunefleet.tuning.space import MANY, Choices, Numbers, Range, corners, drawn, grid

RANGES = [
    {"choice": [4, 8, 16]},
    {"choice": ["a", None, True, {"kind": "lora", "r": 8}]},
    {"uniform": [-1.0, 2.5]},
    {"loguniform": [1e-5, 1e-1]},
    {"int": [1, 9]},
    {"quantised": [0.0, 0.25, 0.1]},
    {"quantised": [8, 64, 8]},
]


@pytest.mark.parametrize("given_range", RANGES)
def test_a_range_holds_its_ends_and_whatever_is_drawn(given_range):
    axis = Range.model_validate(given_range).axis()
    generator = np.random.default_rng(0)
    assert all(axis.holds(value) for value in (*axis.ends(), *(axis.draw(generator) for _ in range(50))))
    if (every := axis.all()) is not None:
        assert {str(axis.draw(generator)) for _ in range(300)} == {str(value) for value in every}


@given(st.floats(0, 1), st.sampled_from([Numbers(1e-5, 1.0, log=True), Numbers(-3, 7)]))
def test_share_is_the_inverse_of_at(share, axis):
    assert axis.share(axis.at(share)) == pytest.approx(share, abs=1e-9)


def test_whole_steps_are_integers_and_other_steps_are_not_blurred():
    assert Range.model_validate({"int": [1, 3]}).axis().all() == (1, 2, 3)
    assert all(type(value) is int for value in Range.model_validate({"quantised": [8, 32, 8]}).axis().all())
    assert Range.model_validate({"quantised": [0.0, 0.3, 0.1]}).axis().all() == (0.0, 0.1, 0.2, 0.3)


def test_a_logarithmic_range_is_drawn_evenly_in_its_decades():
    axis = Numbers(1e-4, 1.0, log=True)
    generator = np.random.default_rng(1)
    below = sum(axis.draw(generator) < 1e-2 for _ in range(2000))
    assert 900 < below < 1100


@pytest.mark.parametrize(
    "empty",
    [
        {"choice": []},
        {"uniform": [1.0, 1.0]},
        {"int": [5, 4]},
        {"loguniform": [0.0, 1.0]},
        {"quantised": [0.0, 1.0, 0.0]},
        {"quantised": [0.0, 1.0, 2.0]},
        {"choice": [1, 1]},
        {},
        {"choice": [1], "int": [1, 2]},
        {"int": [1, 2], "points": 2},
        {"int": [0, 2**60]},
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused(empty):
    with pytest.raises(ValidationError):
        Range.model_validate(empty)


def test_one_and_true_are_two_values():
    assert Range.model_validate({"choice": [1, True]}).axis() == Choices((1, True))
    assert not Choices((1, 2)).holds(True)


def test_a_grid_is_every_combination_once_with_the_last_key_fastest():
    space = {"a": Choices((1, 2)), "b": Numbers(1e-3, 1e-1, log=True)}
    assert list(grid(space, {"b": 3})) == [{"a": a, "b": b} for a in (1, 2) for b in (0.001, 0.01, 0.1)]


def test_corners_are_all_combinations_of_ends_and_each_end_of_a_large_space():
    few = corners({"a": Choices((1, 2, 3)), "b": Numbers(0, 1)})
    assert len(few) == 6
    many = corners({f"k{i}": Numbers(0, 1) for i in range(10)})
    assert len(many) == 11 < MANY
    assert all(any(point[f"k{i}"] == end for point in many) for i in range(10) for end in (0, 1))


def test_a_drawn_point_is_a_function_of_its_number():
    space = {"a": Numbers(0, 1), "b": Choices(tuple(range(100)))}
    points = [drawn(space, 7, number) for number in range(20)]
    assert points == [drawn(space, 7, number) for number in range(20)]
    assert len({point["a"] for point in points}) == 20
    assert points[0] != drawn(space, 8, 0)


class Counted(Numbers):
    """A range that notes which of its values were looked at."""

    seen: ClassVar[list[int]] = []

    def nth(self, number):
        self.seen.append(number)
        return super().nth(number)


def test_a_wide_range_of_integers_is_never_listed():
    axis = Counted(0, 2**31 - 1, step=1, whole=True)
    generator = np.random.default_rng(0)
    values = [axis.draw(generator) for _ in range(10)]
    assert (axis.count(), axis.ends()) == (2**31, (0, 2**31 - 1))
    assert all(type(value) is int and axis.holds(value) for value in values)
    assert not axis.holds(values[0] + 0.5)
    assert axis.nearest(2e9 + 0.6) == 2_000_000_001
    assert len(axis.seen) < 100
    assert Range.model_validate({"int": [0, 2**31 - 1]}).axis().ends() == axis.ends()


@given(st.integers(-50, 50), st.integers(1, 200), st.integers(1, 40), st.floats(-300, 300))
def test_the_nearest_of_a_stepped_range_is_the_closest_of_its_values(low, width, step, value):
    for axis in (Numbers(low, low + width, step=min(step, width), whole=True), Numbers(low / 10, (low + width) / 10, step=min(step, width) / 10)):
        every = axis.all()
        assert len(every) == axis.count()
        assert (every[0], every[-1]) == axis.ends()
        assert abs(axis.nearest(value) - value) <= min(abs(one - value) for one in every) + 1e-9
        assert all(axis.holds(one) for one in every)
