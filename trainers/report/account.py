"""How a run was set, and where it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.axes import count
from tunefleet.cluster.markup import Content
from tunefleet.cluster.page import Section, code, facts, fold, section, table
from tunefleet.trainers.report.gather import Gathered
from tunefleet.trainers.report.wording import moment, short_name


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


def _triples(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    for one in value if isinstance(value, list) else []:
        if isinstance(one, list | tuple) and len(one) == 3:
            yield one[0], one[1], one[2]


def _plain(value: Any) -> str:
    return "nothing" if value is None else str(value)
