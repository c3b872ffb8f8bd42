"""Where a run stands, and the one sentence that a reader should take away: better or worse than its base, by how much, how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunefleet.cluster.axes import count, decimals
from tunefleet.cluster.page import Tone
from tunefleet.trainers.evaluation.paired import plain
from tunefleet.trainers.evaluation.slices import outcome
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.wording import better, exact, finite, metric_name, metric_unit, span, words

SILENT_S = 180.0
"""Seconds without a line of metrics or events after which a run that has not said how it ended is called silent: killed, or in a very long step."""


ASKED = {"KeyboardInterrupt": "by hand", "SystemExit": "by a signal", "Stopped": "on request, after saving"}
"""Ends that somebody asked for: what the run notes of them, and how it is said."""


TONES: Mapping[str, Tone] = {"better": "good", "worse": "bad", "unclear": "plain"}
"""How to feel about what ``compared`` says."""


@dataclass(frozen=True)
class Standing:
    """``step`` of ``steps`` are done (``steps`` 0 when that is not known yet). ``why``: what stopped it."""

    kind: Literal["done", "early", "stopped", "going", "silent"]
    step: int
    steps: int
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came out, in one sentence, how to feel about it, and what it rests on."""

    said: str
    tone: Tone
    why: str


def standing(run: Gathered) -> Standing:
    """Where the run stands now."""
    steps = int(run.last("training_started").get("steps") or run.section("training").get("max_steps") or 0)
    step = int(run.metrics[-1].get("step", 0)) if run.metrics else 0
    if run.done:
        return Standing("early" if run.done.get("stopped") else "done", int(run.done.get("step", step)), steps, str(run.done.get("stopped") or ""))
    ends = [record for record in run.events if record.get("event") in ("started", "stopped")]
    if ends and ends[-1]["event"] == "stopped":
        return Standing("stopped", step, steps, str(ends[-1].get("why", "")))
    sign = max((finite(record.get("time")) for record in (*run.metrics[-1:], *run.events[-1:])), default=0.0)
    return Standing("silent" if run.now - sign > SILENT_S else "going", step, steps, f"Its last sign of life was {span(max(0.0, run.now - sign))} ago.")


def result(run: Gathered) -> Mapping[str, Any]:
    """The evaluation of the weights that the run stands for: those that its end names, else the newest; empty where there is none."""
    named = [one for one in run.evaluations if run.done and one.get("manifest") == run.done.get("weights")]
    return (named or run.evaluations or [{}])[-1]


def which(evaluation: Mapping[str, Any]) -> str:
    """Which weights an evaluation is of; a model that is no checkpoint of a run has no step."""
    return "tuned model" if evaluation["step"] is None else f"weights of step {evaluation['step']}"


def way(run: Gathered, evaluation: Mapping[str, Any], name: str) -> Literal["min", "max"] | None:
    """Which way a metric is better: as the evaluation says, else as its plug-in does."""
    said = evaluation.get("better", {}).get(name)
    return said if said in ("min", "max") else better(name, run.section("evaluation"))


def chief_metric(run: Gathered, evaluation: Mapping[str, Any]) -> str:
    """The metric that the verdict goes by: that of early stopping where it was measured, else the first."""
    measured = list(evaluation.get("tuned", {}))
    wanted = run.section("evaluation").get("early_stopping_metric", "loss")
    return str(wanted) if wanted in measured else measured[0] if measured else ""


def compared(difference: Mapping[str, Any] | None, direction: str | None) -> Literal["better", "worse", "unclear"]:
    """What a difference (tuned minus base, with its interval) says; unclear where it has none."""
    low, high = (plain(finite((difference or {}).get(end))) for end in ("low", "high"))
    return outcome(low, high, direction)


def digits_of(difference: Mapping[str, Any] | None, unknown: int = 4) -> int:
    """Digits after the point that a difference warrants, for it and for what it is a difference of; ``unknown`` where it has no interval."""
    low, high = finite((difference or {}).get("low")), finite((difference or {}).get("high"))
    return unknown if math.isnan(low) or math.isnan(high) else decimals(low, high)


def verdict(run: Gathered) -> Verdict:
    """The sentence, of every state that a run can be in."""
    where, evaluation = standing(run), result(run)
    found = comparison(run, evaluation) if evaluation else None
    if where.kind in ("done", "early"):
        if found is None:
            return Verdict(f"Done after {count(where.step, 'step')}. No rows were held out, so nothing tells whether it is better than its base.", "warn", "")
        early = f" Training stopped early, at step {where.step} of {where.steps}: the best weights are those of step {evaluation['step']}."
        return Verdict(found.said, found.tone, found.why + (early if where.kind == "early" else ""))
    so_far = f"So far: {found.said[0].lower()}{found.said[1:]} {found.why}" if found else "Nothing was evaluated so far."
    at = f"at step {where.step} of {where.steps}" if where.step else "before its first step"
    if where.kind in ("stopped", "silent"):
        saved = [record.get("step") for record in run.all_of("checkpoint_complete") if record.get("optimizer")]
        so_far += f" tunefleet train --resume, or submitting it again, goes on from step {saved[-1]}." if saved else " No checkpoint was complete."
    if where.kind == "stopped":
        asked = asked_for(where.why)
        return Verdict(f"Stopped {asked}, {at}." if asked else f"Stopped {at}: {where.why or 'no cause was noted'}", "warn" if asked else "bad", so_far)
    if where.kind == "silent":
        return Verdict(f"No word that it ended, {at}: probably killed.", "warn", f"{where.why} {so_far}")
    return Verdict(f"Still going, {at}.", "plain", f"{where.why} {so_far}")


def asked_for(why: str) -> str:
    """How somebody asked for an end, empty where nobody did."""
    return next((said for name, said in ASKED.items() if why.startswith(name)), "")


def comparison(run: Gathered, evaluation: Mapping[str, Any]) -> Verdict | None:
    """What an evaluation says, in one sentence; None where it measured nothing."""
    name = chief_metric(run, evaluation)
    tuned, base = finite(evaluation.get("tuned", {}).get(name)), finite(evaluation.get("base", {}).get(name))
    if not name:
        return None
    if math.isnan(tuned) or math.isnan(base):
        return Verdict(_no_number(evaluation, name, alike=math.isnan(tuned) and math.isnan(base)), "bad", f"Measured on the {which(evaluation)}.")
    difference, direction = evaluation.get("difference", {}).get(name), way(run, evaluation, name)
    unit = f" {metric_unit(name)}" if metric_unit(name) else ""
    digits = digits_of(difference)
    numbers = f"held-out {metric_name(name)} {exact(tuned, digits)} instead of {exact(base, digits)}{unit}"
    lead = {"better": "Better than the base model", "worse": "Worse than the base model", "unclear": "No clear difference to the base model"}
    said = compared(difference, direction)
    worse = [] if said == "worse" else [n for n, part in evaluation["sets"].items() if compared(part.get("difference", {}).get(name), direction) == "worse"]
    tone: Tone = "warn" if worse else TONES[said]
    tail = f"; but worse on {words(worse)}" if worse else ""
    return Verdict(f"{lead[said]}: {numbers}{tail}.", tone, _rests_on(difference, evaluation, name))


def _no_number(evaluation: Mapping[str, Any], name: str, *, alike: bool) -> str:
    """Why a metric has no value; ``alike``: of neither model."""
    if why := evaluation.get("failed", {}).get(name):
        return f"The held-out {metric_name(name)} could not be computed: {why}"
    if alike:
        return f"No held-out example counts for {metric_name(name)}: none had room for an answer within the model's length, or none has what it is measured by."
    return f"The held-out {metric_name(name)} is not a finite number: the model diverged."


def _rests_on(difference: Mapping[str, Any] | None, evaluation: Mapping[str, Any], name: str) -> str:
    every, at = int(evaluation.get("rows", 0)), which(evaluation)
    counted = sum(evaluation.get("rows_won", {}).get(name, {"all": every}).values())  # answers are given to some rows only
    rows = count(every, "held-out example") if counted >= every else f"{counted:,} of {count(every, 'held-out example')}"
    if not difference or difference.get("low") is None or difference.get("high") is None:
        return f"Measured on {rows}, {at}."
    digits = digits_of(difference)
    value, low, high = (exact(finite(difference[key]), digits, signed=True) for key in ("value", "low", "high"))
    return f"Difference {value}, 95% interval {low} to {high}, on the same {rows}; {at}."
