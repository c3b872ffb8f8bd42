"""Where a run's time went, and what happened when."""

from __future__ import annotations

from tunefleet.cluster.axes import count, quantity
from tunefleet.cluster.charts import stack
from tunefleet.cluster.markup import Content, Markup
from tunefleet.cluster.metrics import Record
from tunefleet.cluster.page import Section, aside, fold, section, table
from tunefleet.trainers.console import describe
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import asked_for, standing
from tunefleet.trainers.report.wording import span

PHASES = {
    "starting": "starting Ray, workers and model",
    "base": "the run before this one",
    "training": "training",
    "checkpoint": "saving checkpoints",
    "evaluation": "evaluating while training waits",
    "restarting": "restarting after a failure",
    "exporting": "exporting",
    "finishing": "ending workers and Ray",
    "down": "down, until it was resumed",
}
UNSAID = ("_started", "_ended", "decision")  # halves of what another event tells whole
TOLD = 300  # events


def spent(run: Gathered) -> dict[str, float]:
    """Seconds by phase; the parts sum to the run's wall time. Of a run that goes on, up to now."""
    where = standing(run)
    return ledger(run.events, run.now if where.kind == "going" else None)


def time_by_cause(run: Gathered) -> Section | None:
    """The goodput ledger."""
    seconds = spent(run)
    if not seconds:
        return None
    ordered = sorted({"training": 0.0, **seconds}.items(), key=lambda item: (item[0] != "training", -item[1]))
    parts = [(PHASES.get(name, name), value) for name, value in ordered]
    whole = sum(seconds.values())
    about = f"The parts sum to {span(whole)} of wall time; pauses between a stop and its resume belong to nobody."
    return section("Time", stack("Time by cause", parts, about=about, shown=span), fold("What happened when", _happened(run)))


def _happened(run: Gathered) -> Markup:
    """The time line, without the halves of what another event tells whole."""
    kinds = ("started", "training_started")
    told = [record for record in run.events if record.get("event") in kinds or not str(record.get("event", "")).endswith(UNSAID)]
    began = float(run.events[0]["time"])
    rows: list[list[Content]] = [[aside(span(float(record["time"]) - began)), _said(record)] for record in told[:TOLD]]
    if len(told) > TOLD:
        rows.append(["", f"and {quantity(len(told) - TOLD)} more, in events.jsonl"])
    return table(["after", "what"], rows, numbers=())


def _said(record: Record) -> str:
    kind = record.get("event")
    if kind == "prepared":
        return f"data {'prepared' if record.get('created') else 'found prepared'}: {record.get('fingerprint', '')[:16]}"
    if kind == "workers_ready":
        return f"{count(record.get('ranks', 0), 'worker')} ready, on {record.get('device')}, attempt {record.get('attempt')}"
    if kind == "checkpoint_complete":
        held = "" if record.get("optimizer") else ", weights only"
        return f"checkpoint of step {record.get('step')} complete, {record.get('bytes', 0) / 2**20:.1f} MiB{held}"
    if kind == "training_started":
        return f"training from step {record.get('step')}"
    if kind == "group_started":
        return "workers: " + ", ".join(f"rank {w.get('rank')} on {w.get('host')}" for w in record.get("workers", [])[:16])
    if kind == "sampled":
        return f"{count(record.get('prompts', 0), 'prompt')} answered with the weights of step {record.get('step')}"
    if kind == "started":
        return "started"
    if kind == "finished":
        return "finished"
    if kind == "stopped":
        why = str(record.get("why", ""))
        return f"stopped {asked_for(why)}" if asked_for(why) else f"stopped: {why}"
    if kind == "exported":
        return f"exported to {record.get('path')}"
    return describe(record)
