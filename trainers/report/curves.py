"""The course of a run, step by step: loss, learning rate, gradient norm, throughput, padding, and what else its objective measures."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tunefleet.cluster.axes import Point, smoothed
from tunefleet.cluster.charts import Series, lines
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import Section, grid, section
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.wording import finite, metric_name

PER_TOKEN = ("sft", "pretrain")
"""Objectives whose training loss is what held-out loss is too: nats per supervised token, so that both fit one chart."""
OWN = {"step", "time", "epoch", "tokens", "loss", "learning_rate", "grad_norm", "applied", "tokens_per_second", "step_seconds", "padding", "examples"}
SMOOTH_FROM = 30  # points, from which on a mean says more than the single steps


def course(run: Gathered) -> Section | None:
    """The section, or None before the first step."""
    if not run.metrics:
        return None
    per_token = run.section("objective").get("kind", run.run.get("objective")) in PER_TOKEN
    main = _loss(run, with_held_out=per_token)
    apart = [] if per_token or not run.evaluations else [lines("Held-out loss", _held_out(run), x="step", y="nats per token")]
    return section("Course", main, grid(*apart, *_small(run)))


def points(run: Gathered, key: str) -> list[Point]:
    """A number of every logged step; null, which stands for what is not finite, is a gap."""
    return [(float(line["step"]), finite(line.get(key))) for line in run.metrics if "step" in line]


def smoothing(steps: int) -> int:
    """Over how many steps a running mean goes: a 25th of them, and 1, which is none, where there are few."""
    return max(5, steps // 25) if steps >= SMOOTH_FROM else 1


def _loss(run: Gathered, *, with_held_out: bool) -> Markup:
    every = points(run, "loss")
    series = _noisy("training", every)
    if with_held_out:
        series += _held_out(run)
    unit = "nats per token" if with_held_out else "as the objective defines it"
    return lines("Loss", series, x="step", y=unit, marks=_marks(run), height=280)


def _noisy(name: str, every: list[Point]) -> list[Series]:
    """Single steps behind their running mean, where there are many."""
    width = smoothing(len(every))
    if width == 1:
        return [Series(name, every)]
    return [Series(f"{name}, each step", every, look="faint"), Series(f"{name}, mean of {width} steps", smoothed(every, width))]


def _held_out(run: Gathered) -> list[Series]:
    """A curve with its interval for every held-out set, and the base model's as a level to get below."""
    names = list(dict.fromkeys(name for one in run.evaluations for name in one["sets"] if "loss" in one["sets"][name]["tuned"]))[:4]
    found: list[Series] = []
    last = max((line["step"] for line in run.metrics if "step" in line), default=1)
    for number, name in enumerate(names, start=1):
        parts = [(one["step"], one["sets"][name]) for one in run.evaluations if name in one["sets"]]
        label = "held-out" if len(names) == 1 else name
        measured = [(step, part["tuned"]["loss"]) for step, part in parts]
        curve = [(float(step), finite(tuned["value"])) for step, tuned in measured]
        low, high = ([finite(tuned[end]) for _, tuned in measured] for end in ("low", "high"))
        found.append(Series(label, curve, low=low, high=high, colour=number, look="dots"))
        base = finite((parts[-1][1]["base"].get("loss") or {}).get("value"))
        if not math.isnan(base):
            found.append(Series(f"{label}, base model", [(0.0, base), (float(last), base)], colour="base" if len(names) == 1 else number, look="dashed"))
    return found


def _small(run: Gathered) -> Iterator[Markup]:
    yield lines("Learning rate", [Series("learning rate", points(run, "learning_rate"))], x="step", y="per step", zero=True, height=170)
    norms = points(run, "grad_norm")
    known = [y for _, y in norms if math.isfinite(y) and y > 0]
    clip = finite(run.section("training").get("max_grad_norm"))
    limit = [] if math.isnan(clip) or len(norms) < 2 else [Series("clipped above", [(norms[0][0], clip), (norms[-1][0], clip)], colour="base", look="dashed")]
    wide = bool(known) and max(known) > 30 * min(known)
    yield lines("Gradient norm", [*_noisy("norm", norms), *limit], x="step", y="L2 norm before clipping", log_y=wide, zero=not wide, height=170)
    yield lines("Throughput", _noisy("throughput", points(run, "tokens_per_second")), x="step", y="tokens per second, padding left out", zero=True, height=170)
    padding = [(x, 100 * y) for x, y in points(run, "padding")]
    if any(y for _, y in padding if math.isfinite(y)):
        yield lines("Padding", _noisy("padding", padding), x="step", y="% of the computed tokens", zero=True, height=170)
    for key in sorted({key for line in run.metrics for key, value in line.items() if key not in OWN and isinstance(value, int | float)}):
        yield lines(metric_name(key).capitalize(), _noisy(metric_name(key), points(run, key)), x="step", y=metric_name(key), height=170)


def _marks(run: Gathered) -> list[tuple[float, str]]:
    """Where the run was resumed, and where steps were skipped."""
    resumed = [(float(one["step"]), "resumed") for one in run.all_of("resumed") if one.get("step")]
    skipped = [(float(one["step"]), "skipped") for one in run.all_of("step_skipped")[:20] if one.get("step")]
    return resumed + skipped
