"""Where the time went, what happened when, what the run ate, how it was set, and where it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.axes import count, percent, quantity
from tunefleet.cluster.charts import stack
from tunefleet.cluster.markup import Content, Markup, element, join
from tunefleet.cluster.metrics import Record
from tunefleet.cluster.page import Cell, Section, aside, code, facts, fold, section, table
from tunefleet.data.gate import DONE, MEANING, spoken
from tunefleet.data.sourcepage import ABOUT, source_charts, source_table
from tunefleet.trainers.console import describe
from tunefleet.trainers.ledger import ledger
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.standing import asked_for, standing
from tunefleet.trainers.report.wording import moment, short_name, span

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
PLAIN = {"rows": "rows read", "kept": "rows kept", "examples": "examples", "train": "examples to train on", "holdout": "examples held out"}
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
    first = [("training", seconds.get("training", 0.0))]
    others = sorted(((name, value) for name, value in seconds.items() if name != "training"), key=lambda item: -item[1])
    parts = [(PHASES.get(name, name), value) for name, value in first + others]
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


def data(run: Gathered) -> Section | None:
    """What the run ate, and what the gate found."""
    prepared = run.last("prepared")
    if not prepared:
        return None
    counts: Mapping[str, int] = prepared.get("counts", {})
    pairs: list[tuple[str, Content]] = [(name, quantity(counts[key])) for key, name in PLAIN.items() if key in counts]
    if counts.get("tokens"):
        share = counts.get("supervised", 0) / counts["tokens"]
        pairs += [("tokens", quantity(counts["tokens"])), ("supervised tokens", f"{quantity(counts.get('supervised', 0))} ({share:.0%})")]
    pairs += [("trained on", words_of(run, "train")), ("held out", words_of(run, "holdout"))]
    told = {"data report": "report", "data version": "data_version", "store": "store", "fingerprint": "fingerprint"}
    pairs += [(name, str(prepared[key])) for name, key in told.items() if prepared.get(key)]
    said = [str(record.get("text", "")) for record in run.all_of("decision")]
    decisions = fold("Decisions that nobody made in the run file", _listed(said), aside=str(len(said))) if said else None
    max_length = run.section("data").get("max_length")
    sources: list[Content] = []
    if run.sources and isinstance(max_length, int):
        drawn = fold("How long the rows are, and what is learnt of them", source_charts(run.sources, max_length))
        sources = [source_table(run.sources), element("p", ABOUT, class_="about"), drawn]
    return section("Data", facts(pairs), *sources, _gate(counts, run.section("data").get("quality")), decisions)


def _gate(counts: Mapping[str, int], quality: Any) -> Markup:
    """The kinds of rows that would train wrongly and were found: how many, and what was done; and what was not found, or not looked for."""
    policies = quality if isinstance(quality, Mapping) else {}
    kinds = [kind for kind in MEANING if kind in counts]
    looked = [kind for kind in kinds if policies.get(kind) != "off"]
    rows: list[list[Content | Cell]] = []
    for kind in (one for one in looked if counts[one]):
        policy = str(policies.get(kind, ""))
        share = percent(counts[kind] / counts["rows"]) if counts.get("rows") else ""
        rows.append([spoken(kind), quantity(counts[kind]), share, Cell(DONE.get(policy, policy), "warn" if policy == "warn" else "plain")])
    clean = [spoken(kind) for kind in looked if not counts[kind]]
    unsought = [spoken(kind) for kind in kinds if kind not in looked]
    said = [f"{start}: {', '.join(names)}." for start, names in (("Not found", clean), ("Not looked for", unsought)) if names]
    found = table(["rows that would train wrongly", "found", "of all", "what was done"], rows, numbers=(1, 2)) if rows else None
    return join(found, element("p", " ".join(said), class_="about") if said else None)


def words_of(run: Gathered, side: str) -> str:
    """The sources of a side in a few words."""
    held = run.section("data").get(side)
    if isinstance(held, int | float):
        return f"{held:.0%} of the training rows, drawn by a hash of their text" if held else "nothing"
    names = [str(source.get("path", "")) for source in held if isinstance(source, Mapping)] if isinstance(held, list) else []
    return ", ".join(names) or "-"


def settings(run: Gathered) -> Section:
    """The run in a few facts, what was changed on the way, and its file whole."""
    changes = [[str(key), _plain(was), _plain(now)] for record in run.all_of("started") for key, was, now in _triples(record.get("changed"))]
    changed = table(["changed on resume", "was", "is"], changes, numbers=()) if changes else None
    lines = run.run_text.count("\n")
    return section("Run file", facts(_summary(run)), changed, fold("run.yaml, as it ran", code(run.run_text[:200_000]), aside=f"{lines} lines"))


def _summary(run: Gathered) -> Iterator[tuple[str, Content]]:
    model, training, scaling = run.section("model"), run.section("training"), run.section("scaling")
    yield "model", str(model.get("name_or_path") or f"random weights, {model.get('config')}")
    yield "objective", str(run.section("objective").get("kind", ""))
    yield "trained weights", trained(run)
    micro = training.get("micro_batch_size") or f"{training.get('micro_batch_tokens')} tokens"
    yield "batch", f"{training.get('train_batch_size')} examples a step, {micro} a forward"
    yield "learning rate", f"{training.get('learning_rate') or 'default'}, {training.get('lr_scheduler_type')}"
    yield "precision", str(training.get("precision"))
    kind = "GPU worker" if scaling.get("use_gpu") else "CPU worker"
    yield "workers", f"{count(int(scaling.get('num_workers') or 1), kind)}, ZeRO stage {run.section('zero').get('stage')}"
    yield "longest example", f"{run.section('data').get('max_length')} tokens"
    yield "seed", str(training.get("seed"))
    yield "output", str(run.run.get("output", ""))


def trained(run: Gathered) -> str:
    """Which weights were trained."""
    peft = run.section("peft")
    if peft.get("kind") == "lora":
        targets = peft.get("target_modules")
        return f"LoRA r {peft.get('r')}, alpha {peft.get('lora_alpha'):g}, on {', '.join(targets) if isinstance(targets, list) else targets}"
    return "all weights" if peft.get("kind", "full") == "full" else str(peft.get("kind"))


def headline(run: Gathered) -> str:
    """What was done to what, below the title."""
    model = short_name(str(run.section("model").get("name_or_path") or "random weights"))
    sources = run.section("data").get("train") or []
    names = [short_name(str(source.get("path", ""))) for source in sources if isinstance(source, Mapping)]
    fed = f" on {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else ""
    peft = run.section("peft")
    how = f"LoRA r {peft.get('r')}" if peft.get("kind") == "lora" else "All weights" if peft.get("kind", "full") == "full" else str(peft.get("kind"))
    return f"{how} of {model}, {run.section('objective').get('kind', '')}{fed}"


def place(run: Gathered) -> Section:
    """Machine, versions, times."""
    started, ready = run.last("started"), run.last("workers_ready")
    where, versions = started.get("machine", {}), started.get("versions", {})
    pairs: list[tuple[str, Content]] = [("began", moment(float(run.events[0]["time"])))] if run.events else []
    pairs += [("workers", f"{count(ready.get('ranks', 0), 'rank')} on {ready.get('hardware') or ready.get('device')}")] if ready else []
    hosts = sorted({str(worker.get("host")) for worker in run.last("group_started").get("workers", [])})
    pairs += [("hosts", ", ".join(hosts[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""))] if hosts else []
    if where:
        memory = f", {where.get('memory_gib')} GiB"
        pairs += [("driver's machine", f"{where.get('cpu') or 'processor unknown'}, {where.get('cores')} cores{memory}"), ("system", str(where.get("system")))]
    pairs += [(name, str(version)) for name, version in versions.items()]
    return section("Machine and versions", facts(pairs))


def _listed(texts: list[str]) -> Markup:
    return table(["decision"], [[text] for text in texts], numbers=())


def _triples(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    for one in value if isinstance(value, list) else []:
        if isinstance(one, list | tuple) and len(one) == 3:
            yield one[0], one[1], one[2]


def _plain(value: Any) -> str:
    return "nothing" if value is None else str(value)
