"""The course of a run, step by step: loss, learning rate, gradient norm, throughput, padding, and what else its objective measures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from tunefleet.cluster.axes import Point, smoothed
from tunefleet.cluster.charts import Series, lines
from tunefleet.cluster.markup import Markup
from tunefleet.cluster.page import Section, grid, section
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.wording import finite, metric_name

PER_TOKEN = ("sft", "pretrain")
"""Objectives whose training loss is what held-out loss is too: nats per supervised token, so that both fit one chart."""
OWN = {"step", "time", "epoch", "tokens", "loss", "learning_rate", "grad_norm", "applied", "tokens_per_second", "step_seconds", "padding", "examples"}
OWN |= {"rank_seconds", "slowest_rank", "waiting", "attempt"}
SMOOTH_FROM = 30  # points, from which on a mean says more than the single steps


def course(run: Gathered) -> Section | None:
    """The section, or None before the first step."""
    if not run.metrics:
        return None
    per_token = run.section("objective").get("kind", run.run.get("objective")) in PER_TOKEN
    main = _loss(run, with_held_out=per_token)
    apart = [] if per_token or not run.evaluations else [_over_steps(run, "Held-out loss", _held_out(run), y="nats per token")]
    below = [*apart, *_small(run)]
    return section("Course", main, grid(*below, small=len(below) % 3 == 0))


def points(run: Gathered, key: str) -> list[Point]:
    """A number of every logged step; null, which stands for what is not finite, is a gap."""
    return [(float(line["step"]), finite(line.get(key))) for line in run.metrics if "step" in line]


def smoothing(steps: int) -> int:
    """Over how many steps a running mean goes: a 25th of them, an odd number as it lies around its step; and 1, which is none, where there are few."""
    return max(5, steps // 25 | 1) if steps >= SMOOTH_FROM else 1


def _loss(run: Gathered, *, with_held_out: bool) -> Markup:
    every = points(run, "loss")
    series = _noisy("training", every)
    if with_held_out:
        series += _held_out(run)
    unit = "nats per token" if with_held_out else "as the objective defines it"
    return _over_steps(run, "Loss", series, y=unit, marks=_marks(run), height=280)


def _over_steps(run: Gathered, title: str, series: list[Series], **rest: Any) -> Markup:
    """Curves over all steps so far: the charts of a page have one horizontal axis."""
    return lines(title, series, x="step", x_holds=(0.0, _last_step(run)), whole_x=True, **rest)


def _last_step(run: Gathered) -> float:
    return float(max((line["step"] for line in run.metrics if "step" in line), default=1))


def _noisy(name: str, every: list[Point]) -> list[Series]:
    """Single steps behind their running mean, where there are many. ``name`` where the chart's title does not tell it already."""
    width = smoothing(len(every))
    each, mean = (f"{name}, {words}" if name else words for words in ("each step", f"mean of {width} steps"))
    return [Series(name or each, every)] if width == 1 else [Series(each, every, look="faint"), Series(mean, smoothed(every, width))]


def _held_out(run: Gathered) -> list[Series]:
    """A curve with its interval for every held-out set, and the base model's as a level to get below."""
    names = list(dict.fromkeys(name for one in run.evaluations for name in one["sets"] if "loss" in one["sets"][name]["tuned"]))[:4]
    found: list[Series] = []
    for number, name in enumerate(names, start=1):
        parts = [(one["step"], one["sets"][name]) for one in run.evaluations if name in one["sets"]]
        label = "held-out" if len(names) == 1 else name
        measured = [(step, part["tuned"]["loss"]) for step, part in parts]
        curve = [(float(step), finite(tuned["value"])) for step, tuned in measured]
        low, high = ([finite(tuned[end]) for _, tuned in measured] for end in ("low", "high"))
        found.append(Series(label, curve, low=low, high=high, colour=number, look="dots"))
        base = finite((parts[-1][1]["base"].get("loss") or {}).get("value"))
        if not math.isnan(base):
            found.append(Series(f"{label}, base model", [(0.0, base), (_last_step(run), base)], colour="base" if len(names) == 1 else number, look="dashed"))
    return found


def _small(run: Gathered) -> Iterator[Markup]:
    yield _over_steps(run, "Learning rate", [Series("learning rate", points(run, "learning_rate"))], y="at each step", zero=True, height=170)
    norms = points(run, "grad_norm")
    known = [y for _, y in norms if math.isfinite(y) and y > 0]
    clip = finite(run.section("training").get("max_grad_norm"))
    limit = [] if math.isnan(clip) else [Series("clipped above", [(0.0, clip), (_last_step(run), clip)], colour="base", look="dashed")]
    wide = bool(known) and max(known) > 30 * min(known)
    yield _over_steps(run, "Gradient norm", [*_noisy("", norms), *limit], y="L2 norm before clipping", log_y=wide, zero=not wide, height=170)
    yield _over_steps(run, "Throughput", _noisy("", points(run, "tokens_per_second")), y="tokens per second, padding left out", zero=True, height=170)
    padding = [(x, 100 * y) for x, y in points(run, "padding")]
    if any(y for _, y in padding if math.isfinite(y)):
        yield _over_steps(run, "Padding", _noisy("", padding), y="% of the computed tokens", zero=True, height=170)
    for key in sorted({key for line in run.metrics for key, value in line.items() if key not in OWN and isinstance(value, int | float)}):
        yield _over_steps(run, metric_name(key).capitalize(), _noisy("", points(run, key)), y="as the objective measures it", height=170)


def _marks(run: Gathered) -> list[tuple[float, str]]:
    """Where the run was resumed, and where steps were skipped."""
    resumed = [(float(one["step"]), "resumed") for one in run.all_of("resumed") if one.get("step")]
    skipped = [(float(one["step"]), "skipped") for one in run.all_of("step_skipped")[:20] if one.get("step")]
    return resumed + skipped
