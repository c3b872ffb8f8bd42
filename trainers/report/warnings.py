"""What went wrong in a run, or may have: every failure, restart, skipped step and dropped evaluation, gathered into few sentences, the gravest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunefleet.cluster.axes import count, quantity
from tunefleet.cluster.metrics import Record
from tunefleet.cluster.page import Tone
from tunefleet.trainers.console import describe
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import asked_for
from tunefleet.trainers.report.wording import span, words

KNOWN = {"group_failed", "stopped", "step_skipped", "evaluation_dropped", "evaluation_failed", "metric_failed", "suite_failed", "checkpoint_skipped"}
TROUBLE = ("_failed", "_dropped", "_skipped", "_lost", "_given_up", "_restarted", "_retried", "_apart")
"""Endings of events that tell of trouble; an event of a kind that this file does not know is shown by them in its own words."""
SHOWN = 12
TRACE = 6000  # characters, the last ones
CUT = 0.05
"""Share of rows cut off from which on it is worth a warning."""


@dataclass(frozen=True)
class Warning:
    """One sentence, its gravity, details below it, and a trace to open."""

    said: str
    tone: Tone = "warn"
    detail: str = ""
    trace: str = ""


def warnings(run: Gathered) -> list[Warning]:
    """Everything that a reader should know before trusting the numbers."""
    found = [*_ends(run), *_restarts(run), *_steps(run), *_evaluations(run), *_checkpoints(run), *_others(run), *_rows(run)]
    found += [Warning(f"Could not be read, and is missing below: {what}") for what in run.unread]
    return sorted(found, key=lambda warning: warning.tone != "bad")


def _ends(run: Gathered) -> list[Warning]:
    """Every time that the run ended without being done; the last end is the verdict's already, unless the run went on."""
    stops = run.all_of("stopped")
    went_on = [stop for stop in stops if any(later.get("event") == "started" and later["time"] > stop["time"] for later in run.events)]
    whys = [str(stop.get("why", "")) for stop in went_on]
    asked = [asked_for(why) for why in whys]
    return [Warning(f"An earlier start of this run was stopped{f' {how}.' if how else f': {why}'}") for why, how in zip(whys, asked, strict=True)]


def _restarts(run: Gathered) -> list[Warning]:
    down = ledger(run.events).get("down", 0.0)
    killed = [Warning(f"The driver died without a word; {span(down)} went by until the run was resumed.")] if down else []
    return killed + [
        Warning(
            f"{_who(failed)} {failed.get('kind', 'failed')}: {failed.get('cause', '')}",
            tone="warn" if failed.get("restart") else "bad",
            detail=f"{'Started again' if failed.get('restart') else 'Given up'}: {failed.get('reason', '')}",
            trace=str(failed.get("trace") or "")[-TRACE:],
        )
        for failed in run.all_of("group_failed")
    ]


def _who(failed: Record) -> str:
    ranks = [str(rank) for rank in failed.get("ranks") or []]
    return f"Rank{'' if len(ranks) == 1 else 's'} {words(ranks)}" if ranks else "The workers"


def _steps(run: Gathered) -> list[Warning]:
    skipped = run.all_of("step_skipped")
    return [Warning(f"{count(len(skipped), 'step')} skipped, as the gradients were not finite: {_steps_of(skipped)}.")] if skipped else []


def _evaluations(run: Gathered) -> list[Warning]:
    dropped, failed = run.all_of("evaluation_dropped"), run.all_of("evaluation_failed")
    found = [Warning(f"Evaluation failed at step {one.get('step')}: {one.get('error', '')}") for one in failed]
    for name in dict.fromkeys(str(one.get("metric")) for one in run.all_of("metric_failed")):
        raised = [one for one in run.all_of("metric_failed") if str(one.get("metric")) == name]
        found.append(Warning(f"The metric {name} could not be computed: {_steps_of(raised)}.", detail=str(raised[-1].get("error", ""))))
    found += [Warning(f"The suite {one.get('suite')} could not be scored: {one.get('error', '')}") for one in run.all_of("suite_failed")]
    if dropped:
        found.append(Warning(f"{count(len(dropped), 'evaluation')} dropped, as evaluation fell behind the training: {_steps_of(dropped)}."))
    return found


def _checkpoints(run: Gathered) -> list[Warning]:
    return [Warning(f"A checkpoint could not be used: {one.get('checkpoint')}", detail=str(one.get("why", ""))) for one in run.all_of("checkpoint_skipped")]


def _others(run: Gathered) -> list[Warning]:
    found = [record for record in run.events if record.get("event") not in KNOWN and str(record.get("event", "")).endswith(TROUBLE)]
    return [Warning(f"{describe(record).capitalize()}") for record in _few(found)]


def _rows(run: Gathered) -> list[Warning]:
    """Leaks and contradictions that a policy let through: they make held-out numbers better, or answers worse, than they are."""
    counts, quality = run.last("prepared").get("counts", {}), run.section("data").get("quality", {})
    said = {
        "leakage": "Training rows whose prompt is also held out, so that the held-out numbers flatter the model",
        "contradictions": "Training rows that answer the prompt of an earlier one otherwise",
    }
    quality = quality if isinstance(quality, dict) else {}
    cut = counts.get("truncated", 0) / (counts.get("rows") or 1) if quality.get("truncated") == "keep" else 0.0
    lost = counts.get("supervised_lost", 0) / ((counts.get("supervised", 0) + counts.get("supervised_lost", 0)) or 1)
    long = [Warning(f"{cut:.0%} of the rows are longer than data.max_length and lost their end, {lost:.0%} of what should be learnt.")] if cut >= CUT else []
    return long + [
        Warning(f"{text}: {quantity(counts[kind])} (data.quality.{kind}: warn).")
        for kind, text in said.items()
        if counts.get(kind) and quality.get(kind) == "warn"
    ]


def _steps_of(records: Sequence[Record]) -> str:
    steps = [str(record.get("step")) for record in records]
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(steps[:SHOWN]) + (f" and {len(steps) - SHOWN} more" if len(steps) > SHOWN else "")


def _few(records: Iterable[Record]) -> list[Record]:
    return list(records)[:SHOWN]
