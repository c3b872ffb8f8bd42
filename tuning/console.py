"""What a person sees of a study: a bar on a terminal, a line now and then elsewhere, and a line for each trial that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tunefleet.cluster.progress import duration
from tunefleet.tuning.goal import Mode, value_of
from tunefleet.tuning.keeper import counted
from tunefleet.tuning.lines import ENDED, FAILED, FINISHED, RUNNING, TrialLine
from tunefleet.tuning.space import said, shown
from tunefleet.tuning.standings import best_of


class StudyConsole:
    """A context manager. ``repeats``: trials of a configuration. ``total``: trials in all. ``last_step``: that of a trial, None where rows decide it."""

    def __init__(
        self,
        metric: str,
        mode: Mode,
        repeats: int = 1,
        *,
        console: Console | None = None,
        every_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metric, self.mode, self.repeats, self.every_s, self._clock = metric, mode, repeats, every_s, clock
        self.console = console or Console(stderr=True)
        self._bar = Progress(TextColumn("trials"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=self.console, transient=True)
        self._task = self._bar.add_task("study", text="starting")
        self._began, self._before, self._said_s = clock(), 0.0, -float("inf")
        self.total, self.last_step = 0, 0
        self._ended: set[str] = set()

    def __enter__(self) -> StudyConsole:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int, last_step: int | None, trials: Mapping[str, TrialLine]) -> None:
        """The trials begin; those of an earlier start are there already."""
        self.total, self.last_step = total, last_step or 0
        self._began, self._before = self._clock(), done_share(trials, total, self.last_step)
        if self.console.is_terminal:
            self._bar.start()

    def show(self, line: TrialLine, trials: Mapping[str, TrialLine]) -> None:
        """A trial has changed."""
        if line.status in ENDED and line.id not in self._ended:  # what it cost comes later, in a line of its own
            self._ended.add(line.id)
            self.say(ending(line, self.metric))
        share = done_share(trials, self.total, self.last_step)
        worked, now = share - self._before, self._clock()
        left = duration((now - self._began) * (1 - share) / worked) if worked > 0 and share < 1 else ""
        text = standing(trials, self.total, self.metric, self.mode, self.repeats) + (f", at most {left} left" if left else "")
        self._bar.update(self._task, completed=share * self.total, total=self.total, text=text)
        if not self.console.is_terminal and now - self._said_s >= self.every_s:
            self._said_s = now
            self.say(f"trials: {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def outcome(self, trials: Mapping[str, TrialLine], output: str, seconds: float) -> None:
        """The end: the best trials, what was spent, where it lies."""
        self._bar.stop()
        self.console.print(best_table(trials, self.metric, self.mode))
        steps = sum(line.compute.get("steps", 0) for line in trials.values())
        self.say(f"{standing(trials, self.total, self.metric, self.mode, self.repeats)}; {steps:g} steps in {duration(seconds)}")
        self.say(f"output: {output}")


def done_share(trials: Mapping[str, TrialLine], total: int, last_step: int) -> float:
    """How much of a study is done, 0 to 1: a trial that has ended counts whole, one that runs by its steps."""
    parts = (1.0 if line.status in ENDED else min(1.0, line.step / last_step) if last_step else 0.0 for line in trials.values())
    return min(1.0, sum(parts) / total) if total else 0.0


def standing(trials: Mapping[str, TrialLine], total: int, metric: str, mode: Mode, repeats: int) -> str:
    """``5/16 done (2 stopped, 1 failed), 2 running, best loss 2.013 (00003: peft.r=8)``."""
    count = counted(trials)
    ended = sum(count[status] for status in ENDED)
    others = ", ".join(f"{count[status]} {status}" for status in sorted(ENDED - {FINISHED}) if count[status])
    text = f"{ended}/{total} done" + (f" ({others})" if others else "") + (f", {count[RUNNING]} running" if count[RUNNING] else "")
    best = best_of(trials, metric, mode, repeats)
    return text + (f", best {metric} {value_of(best.metrics, metric):.4f} ({best.id}: {said(best.parameters)})" if best else "")


def ending(line: TrialLine, metric: str) -> str:
    """How a trial ended, in a line."""
    value = value_of(line.metrics, metric)
    found = f"{metric} {value:.4f} at step {line.step}" if value is not None else f"no {metric}"
    why = " ".join(line.why.split())
    if line.status == FAILED:
        return f"trial {line.id} failed ({said(line.parameters)}): {why}"
    return f"trial {line.id} {line.status}: {found} ({said(line.parameters)})" + (f"; {why}" if why else "")


def best_table(trials: Mapping[str, TrialLine], metric: str, mode: Mode, most: int = 10) -> Table:
    """The trials with the best last values."""
    table = Table(title=f"best trials by {metric}", title_justify="left")
    keys = list(dict.fromkeys(key for line in trials.values() for key in line.parameters))
    for heading in ("trial", "status", "step", metric, *keys):
        table.add_column(heading, justify="left" if heading in ("trial", "status") else "right", overflow="fold")
    valued: list[tuple[float, TrialLine]] = [(value, line) for line in trials.values() if (value := value_of(line.metrics, metric)) is not None]
    for value, line in sorted(valued, key=lambda pair: pair[0], reverse=mode == "max")[:most]:
        cells: list[Any] = [line.id, line.status, str(line.step), f"{value:.4f}", *(shown(line.parameters.get(key, "-")) for key in keys)]
        table.add_row(*cells)
    return table
