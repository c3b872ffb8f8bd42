"""The gate file: what an evaluation must have found for a model to pass, and whether an evaluation can say it at all.

version: 1
gain: [{metric: loss, least: 0.05}]
regression: [{metric: loss, slice: length}, {metric: loss, set: "*", most: 0.02, end: value}]
forgetting: [{metric: loss, set: stories, most: 0.1}]
compliance: [{metric: matches, least: 0.95, end: worse}]
overfitting: [{metric: loss, most: 0.5, set: shakespeare}]
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from tunefleet.cluster.errors import SettingsError, nearest
from tunefleet.cluster.settings import Checked, Settings, check, refusal
from tunefleet.cluster.yamlfile import read
from tunefleet.trainers.evaluation.metric import Metric, measured
from tunefleet.trainers.evaluation.rows import ANSWER

EVERY = "*"
End = Literal["value", "worse", "better"]
ENDS = "held against the threshold: the value, or the worse or the better end of its 95% interval"
KINDS = ("source", "length", "label")


class Check(Settings):
    """What every check has."""

    metric: str = Field(description="name of a metric of the evaluation")


class Placed(Check):
    """A check of all held-out rows, of sets, or of slices."""

    set: str | None = Field(default=None, description='a held-out set, or "*" for each of them; null for all rows together')
    slice: str | None = Field(
        default=None,
        description="source, length or label: every slice of that kind; label=NAME: one of them; intervals of differences are the corrected ones",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Placed:
        if self.set is not None and self.slice is not None:
            got, want = f"set: {self.set} and slice: {self.slice}", "at most one of set and slice"
            raise refusal(SettingsError("two places are given", got=got, want=want, fix="make two checks of them: slices are of all held-out rows"))
        return self


class Gain(Placed):
    """The tuned model is better than its base."""

    least: float = Field(default=0.0, ge=0, description="by how much better it must be, in the metric's own unit, whichever way it is better; 0: by anything")
    end: End = Field(default="worse", description=f"{ENDS}; worse wants the gain to be sure")


class Regression(Placed):
    """The tuned model is not worse than its base."""

    most: float = Field(default=0.0, description="by how much worse it may be, in the metric's own unit")
    end: End = Field(default="better", description=f"{ENDS}; better fails only what is surely worse")


class Forgetting(Check):
    """The tuned model still knows what its base knew."""

    set: str | None = Field(default=None, description="the set that stands for it; null for every set that is marked general")
    most: float = Field(description="by how much worse it may be there, in the metric's own unit")
    end: End = Field(default="value", description=ENDS)


class Compliance(Placed):
    """The tuned model by itself is good enough: its answers keep to a format, say."""

    least: float | None = Field(default=None, description="the smallest value that passes; one of least and most")
    most: float | None = Field(default=None, description="the largest value that passes; one of least and most")
    end: End = Field(default="value", description=ENDS)

    @model_validator(mode="after")
    def _one_threshold(self) -> Compliance:
        if (self.least is None) == (self.most is None):
            got = "neither" if self.least is None else f"least: {self.least} and most: {self.most}"
            raise refusal(SettingsError("one threshold is wanted", got=got, want="one of least and most", fix="set one, remove the other"))
        return self


class Overfitting(Check):
    """The tuned model is not much better on training rows than on held-out ones."""

    set: str | None = Field(default=None, description="the held-out set that training rows are held against; null for all: right where all are alike")
    most: float = Field(description="by how much better it may be on training rows than on held-out ones, in the metric's own unit")
    end: End = Field(default="value", description=ENDS)


class Gate(Settings):
    """What an evaluation must have found; a model passes when every check does."""

    version: Literal[1] = Field(default=1, description="version of this format")
    gain: list[Gain] = Field(default_factory=list, description="better than the base model")
    regression: list[Regression] = Field(default_factory=list, description="nowhere worse than the base model")
    forgetting: list[Forgetting] = Field(default_factory=list, description="not worse on what the base model could do already")
    compliance: list[Compliance] = Field(default_factory=list, description="good enough by itself")
    overfitting: list[Overfitting] = Field(default_factory=list, description="not much better on training rows than on held-out ones")

    def checks(self) -> Iterator[tuple[str, Check]]:
        """Every check with its place in the file: ``gain.0``."""
        lists: Mapping[str, Sequence[Check]] = {
            "gain": self.gain,
            "regression": self.regression,
            "forgetting": self.forgetting,
            "compliance": self.compliance,
            "overfitting": self.overfitting,
        }
        for kind, own in lists.items():
            for number, one in enumerate(own):
                yield f"{kind}.{number}", one


@dataclass(frozen=True)
class Offered:
    """What an evaluation will have, known before a model is loaded.

    ``metrics`` are those of all rows together, and ``sets`` those of each set; ``general`` names sets. ``slices`` are the names of each kind.
    ``no_gap``: why no training rows are scored; empty where some are.
    """

    metrics: Mapping[str, Metric]
    sets: Mapping[str, Mapping[str, Metric]]
    general: Collection[str]
    slices: Mapping[str, Collection[str]]
    no_gap: str


def read_gate(gate: Gate | str | Path) -> Checked[Gate]:
    """Read a gate file, or take a gate that was made in Python; collect everything that is wrong with its text."""
    try:
        checked = Checked(gate, []) if isinstance(gate, Gate) else check(Gate, read(gate))
    except SettingsError as error:
        return Checked(None, [error])
    if checked.value is not None and not checked.problems and not any(True for _ in checked.value.checks()):
        want = "a check: gain, regression, forgetting, compliance or overfitting"
        checked.problems.append(SettingsError("a gate without checks lets everything through", got="no checks", want=want, fix="gain: [{metric: loss}]"))
    return checked


def gate_problems(gate: Gate, offered: Offered) -> list[SettingsError]:
    """Everything that a gate asks for and an evaluation will not have."""
    return [problem for name, one in gate.checks() for problem in _problems(name, one, offered)]


def _problems(name: str, one: Check, offered: Offered) -> Iterator[SettingsError]:
    metrics = offered.metrics
    if isinstance(one, Placed | Forgetting | Overfitting) and one.set is not None and not (one.set == EVERY and isinstance(one, Placed)):
        if one.set not in offered.sets:
            yield _unknown(f"{name}.set: the evaluation has no such set", one.set, offered.sets)
            return
        metrics = offered.sets[one.set]
    if isinstance(one, Placed) and one.set == EVERY and all(key in offered.general for key in offered.sets):
        fix = "name a set, or leave set out: then all rows count"
        yield SettingsError(f"{name}.set: every set is general", got=EVERY, want="a set that is not general", fix=fix)
    if isinstance(one, Forgetting) and one.set is None:
        if not offered.general:
            want = f"a set that is marked general, or set: one of {', '.join(offered.sets)}"
            yield SettingsError(f"{name}.set: no set is general", got="no set", want=want, fix="name the set that stands for what should not be forgotten")
            return
        metrics = {key: metric for key, metric in metrics.items() if all(key in offered.sets[general] for general in offered.general)}
    if one.metric not in metrics:
        yield _unknown(f"{name}.metric: the evaluation has no such metric", one.metric, metrics)
    elif measured(metrics[one.metric]):
        yield from _clock_problems(name, one)
    if isinstance(one, Placed) and one.slice is not None:
        yield from _slice_problems(f"{name}.slice", one.slice, offered.slices)
    if isinstance(one, Overfitting):
        yield from _gap_problems(name, one, offered)


def _clock_problems(name: str, one: Check) -> Iterator[SettingsError]:
    """Times have no interval, are not held against the base model's, and are of all rows or of a set."""
    if not isinstance(one, Compliance):
        want = "a metric that is not of the clock, or compliance"
        yield SettingsError(f"{name}.metric: models are not compared by the clock", got=one.metric, want=want, fix="choose another metric")
    elif one.slice is not None:
        yield SettingsError(f"{name}.slice: no slice has times", got=f"{one.metric} of {one.slice}", want="all rows, or a set", fix="remove slice")
    elif one.end != "value":
        yield SettingsError(f"{name}.end: times have no interval", got=one.end, want="value", fix="remove end")


def _slice_problems(name: str, asked: str, slices: Mapping[str, Collection[str]]) -> Iterator[SettingsError]:
    kind, _, wanted = asked.partition("=")
    if kind not in KINDS:
        yield _unknown(f"{name}: no such kind of slice", kind, KINDS)
    elif not slices.get(kind):
        have = ", ".join(kind for kind in KINDS if slices.get(kind)) or "no slices"
        yield SettingsError(f"{name}: the held-out rows have no slices by {kind}", got=asked, want=f"a kind that divides them: {have}", fix="remove this check")
    elif wanted and wanted not in slices[kind]:
        yield _unknown(f"{name}: no such slice", wanted, slices[kind])


def _gap_problems(name: str, one: Overfitting, offered: Offered) -> Iterator[SettingsError]:
    metrics = offered.metrics if one.set is None else offered.sets[one.set]
    if offered.no_gap:
        want, fix = "the run's own store, and evaluation.gap_rows above 0", "evaluate where the run's rows are prepared, or remove this check"
        yield SettingsError(f"{name}: no training rows are scored", got=offered.no_gap, want=want, fix=fix)
    elif one.set in offered.general:
        want = "a set that is not general, or null"
        yield SettingsError(f"{name}.set: a general set is unlike the training rows", got=str(one.set), want=want, fix="choose another set")
    elif one.metric in metrics and ANSWER in metrics[one.metric].reads:
        known = ", ".join(key for key, metric in metrics.items() if ANSWER not in metric.reads) or "loss"
        yield SettingsError(f"{name}.metric: training rows are not answered", got=one.metric, want=f"a metric of tokens: {known}", fix="choose one of them")


def _unknown(what: str, got: str, known: Collection[str]) -> SettingsError:
    close = nearest(got, known)
    return SettingsError(what, got=got, want=f"one of {', '.join(known)}" if known else "nothing here", fix=f"did you mean {close}?" if close else "choose one")
