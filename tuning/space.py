"""What a study searches: for each key of the run file a list of values or a range of numbers. Pure: no file, no Ray, no Optuna."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.settings import Settings, refusal

Point = dict[str, Any]
"""A value for every key of the space, by dotted key."""
Whole = int
Real = float
WIDEST = 2**53
"""Values of a range of integers: above, one is not known from the next where numbers are real."""
MANY = 64
"""Corners of a space that are looked at before a study starts; of a larger one each key's own extremes."""


@dataclass(frozen=True)
class Choices:
    """One of a list of values, which have no order."""

    values: tuple[Any, ...]

    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    def all(self) -> tuple[Any, ...]:
        """Every value."""
        return self.values

    def ends(self) -> tuple[Any, ...]:
        """What is tried before a study starts: every value may be wrong on its own."""
        return self.values

    def draw(self, generator: np.random.Generator) -> Any:
        """A value at random."""
        return self.values[int(generator.integers(len(self.values)))]

    def holds(self, value: Any) -> bool:
        """Whether the value is one of these."""
        return any(type(value) is type(known) and value == known for known in self.values)

    def nearest(self, value: Any) -> Any:
        """The value itself; what is not in the list has no neighbour in it."""
        return value if self.holds(value) else self.values[0]


@dataclass(frozen=True)
class Numbers:
    """A range of numbers, both ends within. ``log``: drawn evenly in the logarithm; ``step``: only low, low + step, ...; ``whole``: integers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    def count(self) -> int | None:
        """How many values there are; None for a range without steps."""
        if self.step is None:
            return None
        if self.whole:
            return round(self.high - self.low) // round(self.step) + 1
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def nth(self, number: int) -> float:
        """The value of a number, from 0."""
        assert self.step is not None
        value = self.low + number * self.step
        return round(value) if self.whole else round(value, 12)

    def all(self) -> tuple[float, ...] | None:
        """Every value where there are finitely many: as long as the range is wide, so only for what wants them all."""
        count = self.count()
        return None if count is None else tuple(map(self.nth, range(count)))

    def ends(self) -> tuple[float, ...]:
        """The smallest and the largest value."""
        count = self.count()
        return (self.low, self.high) if count is None else (self.nth(0), self.nth(count - 1))

    def draw(self, generator: np.random.Generator) -> float:
        """A value at random."""
        count = self.count()
        return self.at(float(generator.random())) if count is None else self.nth(int(generator.integers(count)))

    def at(self, share: float) -> float:
        """The number at a share of the way from low to high, 0 to 1."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(math.exp(low + share * (high - low)), self.low), self.high)
        return self.low + share * (self.high - self.low)

    def share(self, value: float) -> float:
        """How far from low to high a number lies, 0 to 1: the inverse of ``at``."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def spread(self, count: int) -> tuple[float, ...]:
        """Numbers at even distances, both ends among them; round ones where that is exact to 9 digits."""
        if count == 1:
            return (self.at(0.5),)
        return tuple(float(f"{self.at(i / (count - 1)):.9g}") for i in range(count))

    def holds(self, value: Any) -> bool:
        """Whether the value may come out of this range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        near = self.nearest(value)
        return value == near if self.whole else math.isclose(value, near, rel_tol=1e-9, abs_tol=1e-12)

    def nearest(self, value: float) -> float:
        """The number of the range that lies closest, of two the smaller."""
        kept = min(max(value, self.low), self.high)
        count = self.count()
        if count is None or self.step is None:
            return kept
        return self.nth(min(max(math.ceil((kept - self.low) / self.step - 0.5), 0), count - 1))


Axis = Choices | Numbers
Space = Mapping[str, Axis]


class Range(Settings):
    """What one key is searched over: exactly one of choice, uniform, loguniform, int and quantised."""

    choice: list[Any] | None = Field(default=None, description="one of these values; also whole sections: [{kind: full}, {kind: lora, r: 8}]")
    uniform: tuple[Real, Real] | None = Field(default=None, description="[low, high]: a number, drawn evenly")
    loguniform: tuple[Real, Real] | None = Field(default=None, description="[low, high] above zero: a number, drawn evenly in its logarithm")
    int: tuple[Whole, Whole] | None = Field(default=None, description="[low, high]: an integer, both ends within")
    quantised: tuple[Real, Real, Real] | None = Field(default=None, description="[low, high, step]: low, low + step, ... up to high")
    points: PositiveInt | None = Field(default=None, description="how many numbers of uniform or loguniform the grid searcher takes, both ends among them")

    @model_validator(mode="after")
    def _one_range(self) -> Range:
        given = [name for name in ("choice", "uniform", "loguniform", "int", "quantised") if vars(self)[name] is not None]
        want = "exactly one of choice, uniform, loguniform, int and quantised"
        if len(given) != 1:
            fix = "write {choice: [4, 8, 16]} or {loguniform: [1e-5, 1e-3]}"
            raise refusal(SettingsError("one range is wanted", got=", ".join(given) or "none", want=want, fix=fix))
        if self.points is not None and given[0] not in ("uniform", "loguniform"):
            fix = "remove points: the grid takes every value"
            raise refusal(SettingsError("points belong to uniform and loguniform", got=f"points beside {given[0]}", want="no points", fix=fix))
        _refuse_empty(given[0], vars(self)[given[0]])
        return self

    def axis(self) -> Axis:
        """The range as numbers or values."""
        if self.choice is not None:
            return Choices(tuple(self.choice))
        if self.int is not None:
            return Numbers(*self.int, step=1, whole=True)
        if self.quantised is not None:
            low, high, step = self.quantised
            return Numbers(low, high, step=step, whole=all(number == round(number) for number in self.quantised))
        if self.loguniform is not None:
            return Numbers(*self.loguniform, log=True)
        assert self.uniform is not None
        return Numbers(*self.uniform)


def _refuse_empty(kind: str, given: Sequence[Any]) -> None:
    """Raises what pydantic collects for a range with nothing in it, and for one that cannot be drawn from."""
    got = f"{kind}: {list(given)}"
    if kind == "choice":
        if not given:
            raise refusal(SettingsError("an empty range", got=got, want="at least one value", fix="write the values between the brackets"))
        if any(type(one) is type(other) and one == other for i, one in enumerate(given) for other in given[:i]):
            raise refusal(SettingsError("a value stands twice", got=got, want="each value once", fix="remove one of them"))
        return
    if given[0] >= given[1]:
        fix = f"write [{given[1]}, {given[0]}]" if given[0] > given[1] else "take the key out of space, and set it in the run file"
        raise refusal(SettingsError("an empty range", got=got, want="[low, high] with low below high", fix=fix))
    if kind == "int" and given[1] - given[0] >= WIDEST:
        raise refusal(SettingsError("too wide a range", got=got, want=f"fewer than {WIDEST} values", fix="lower the second number"))
    if kind == "loguniform" and given[0] <= 0:
        raise refusal(SettingsError("a logarithm wants numbers above zero", got=got, want="low above 0", fix="raise low, or take uniform"))
    if kind == "quantised" and not 0 < given[2] <= given[1] - given[0]:
        raise refusal(SettingsError("an empty range", got=got, want="a step above 0 that fits between low and high", fix="mend the third number"))


def grid(space: Space, points: Mapping[str, int | None]) -> Iterator[Point]:
    """Every combination, the last key changing fastest. ``points``: how many numbers of an endless range are taken, where that is said."""
    values = [axis.all() or axis.spread(points.get(key) or 0) if isinstance(axis, Numbers) else axis.all() for key, axis in space.items()]
    return (dict(zip(space, combination, strict=True)) for combination in product(*values))


def corners(space: Space) -> list[Point]:
    """Points that show whether every part of a space can be run: all combinations of extremes, or where they are many each key's own beside the first."""
    ends = {key: axis.ends() for key, axis in space.items()}
    if math.prod(len(values) for values in ends.values()) <= MANY:
        return [dict(zip(ends, combination, strict=True)) for combination in product(*ends.values())]
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]


def drawn(space: Space, seed: int, number: int) -> Point:
    """The point of a number, evenly at random: a function of integers alone, so that a study that was cut goes on as it would have."""
    generator = np.random.default_rng([seed, number])
    return {key: axis.draw(generator) for key, axis in space.items()}


def shown(value: Any) -> str:
    """A value of a point for people."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


def word(value: Any) -> str:
    """A value of a point where there is little room."""
    text = shown(value)
    return text if len(text) <= 32 else f"{text[:31]}…"


def said(point: Mapping[str, Any]) -> str:
    """A point for people."""
    return ", ".join(f"{key}={word(value)}" for key, value in point.items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, where no other key has the same; else the whole key."""
    every = list(keys)
    last = [key.rpartition(".")[2] for key in every]
    return {key: name if last.count(name) == 1 else key for key, name in zip(every, last, strict=True)}
