"""What a person sees of a run: decisions, progress, evaluations as they arrive, and what came out."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunefleet.cluster.progress import Progress, duration
from tunefleet.trainers.report.standing import compared

SAID = {
    "decision",
    "evaluation_finished",
    "group_failed",
    "checkpoint_skipped",
    "resumed",
    "early_stopping",
    "stopping",
    "straggler",
    "step_skipped",
    "evaluation_dropped",
    "evaluation_failed",
    "metric_failed",
    "suite_failed",
    "sampled",
    "samples_failed",
    "suite_scored",
}


class RunConsole:
    """Shows one run at a time on standard error. Fed with lines of metrics and events, from any thread."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> RunConsole:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, name: str, steps: int) -> None:
        """Begin to show a run."""
        self.end()
        self.say(f"{name}: {steps} steps")
        with self._lock:
            self._progress = Progress(steps, console=self.console)
            self._progress.__enter__()

    def end(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._progress is not None:
                self._progress.__exit__(None, None, None)
            self._progress = None

    def line(self, name: str, record: Mapping[str, Any]) -> None:
        """A new line of metrics.jsonl or events.jsonl."""
        if name == "metrics.jsonl" and self._progress is not None:
            self._progress.update(record)
        elif record.get("event") in SAID:
            self.say(describe(record))

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._progress is not None:
            self._progress.say(text)
        else:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def outcome(self, output: str, evaluations: Sequence[Mapping[str, Any]], exported: str | None, seconds: Mapping[str, float]) -> None:
        """The end of a run: base against tuned, where it lies, where the time went."""
        self.end()
        for evaluation in filter(None, evaluations):
            self.console.print(comparison_table(evaluation))
        spent = ", ".join(f"{phase} {duration(s)}" for phase, s in sorted(seconds.items(), key=lambda item: -item[1]))
        self.say(f"time: {spent}")
        self.say(f"output: {output}")
        if exported:
            self.say(f"export: {exported}")


def describe(record: Mapping[str, Any]) -> str:
    """One event in words."""
    kind = record["event"]
    if kind == "decision":
        return f"note: {record['text']}"
    if kind == "group_failed":
        return f"workers {record['kind']}: {record['cause']}; {'starting again' if record['restart'] else 'giving up'}, {record['reason']}"
    if kind == "evaluation_finished":
        return f"held-out at step {record['step']}: " + ", ".join(_change(name, record) for name in record.get("tuned", {}))
    if kind == "suite_scored":
        parts = {"the suite's held-out sets": record, **{f"{name} (general)": part for name, part in record.get("general", {}).items()}}
        return "; ".join(f"{place}: " + ", ".join(_change(name, part) for name in part.get("tuned", {})) for place, part in parts.items())
    if kind == "sampled":
        return f"sample at step {record['step']}: {record['prompt']!r} -> {record['tuned']!r}"
    if kind == "straggler":
        return f"rank {record['rank']} holds up the others at step {record['step']}: it needs {record['seconds']:g} s a step, they {record['others']:g}"
    fields = ", ".join(f"{key} {value}" for key, value in record.items() if key not in {"event", "time", "attempt", "phase"})
    return f"{kind.replace('_', ' ')}: {fields}"


def comparison_table(evaluation: Mapping[str, Any]) -> Table:
    """Base against tuned and their difference with its 95% interval, a row a metric and set; what was measured by the clock has none."""
    table = Table(title=", ".join(["held-out rows", *_of(evaluation)]))
    for heading in ("set", "rows", "metric", "base", "tuned", "tuned - base (95%)", ""):
        table.add_column(heading, justify="left" if heading in ("set", "metric", "") else "right")
    for name, part in evaluation["sets"].items():
        said = f"{name} (general)" if part.get("general") else name
        for metric, tuned in part["tuned"].items():
            base, difference = part["base"].get(metric, {}).get("value"), part["difference"].get(metric)
            outcome = compared(difference, evaluation.get("better", {}).get(metric))
            clocked = "measured" if tuned["value"] is not None else "-"
            changed = f"{_number(difference.get('low'))} to {_number(difference.get('high'))}" if difference else clocked
            shown = (said, str(part["rows"]), metric, _number(base), _number(tuned["value"]), changed, "" if outcome == "unclear" else outcome)
            table.add_row(*map(escape, shown), style="red" if outcome == "worse" else None)
    return table


def _of(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """Which rows, and which weights."""
    if evaluation.get("suite"):
        yield f"suite {evaluation['suite']}"
    if evaluation["step"] is not None:
        yield f"step {evaluation['step']}"


def _change(name: str, record: Mapping[str, Any]) -> str:
    base = record.get("base", {}).get(name)
    return f"{name} {_number(record['tuned'][name])}" + (f" (base {_number(base)})" if base is not None else "")


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"
