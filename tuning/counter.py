"""Rows done, rows a second and the time that is left, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tunefleet.cluster.progress import duration


class Counter:
    """A context manager. ``warm``: the clock runs from the first rows on, since models are loaded before them; else from the beginning."""

    def __init__(self, label: str, *, warm: bool = False, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(TextColumn(label), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=self.console, transient=True)
        self.task = self.bar.add_task("rows", text="starting")
        self.label, self.every_s, self.clock, self.said = label, every_s, clock, clock()
        self.began: tuple[float, int, float] | None = None if warm else (clock(), 0, 0.0)

    def __enter__(self) -> Counter:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def show(self, rows: int, work: float, of: float) -> None:
        """``rows`` are done, ``work`` of ``of`` in whatever the work is measured by: time is left in proportion to it."""
        now = self.clock()
        self.began = self.began or (now, rows, work)
        since, before, worked = self.began
        text = described(rows, now - since, rows - before, work - worked, of - work)
        self.bar.update(self.task, completed=work, total=of, text=text)
        if not self.console.is_terminal and (now - self.said >= self.every_s):
            self.said = now
            self.say(f"{self.label}: {text}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def described(rows: int, seconds: float, counted: int, worked: float, left: float) -> str:
    """``1,200,000 rows  8,300 rows/s  2m05s left``; ``counted`` rows and ``worked`` work took the seconds."""
    if counted <= 0 or worked <= 0 or seconds <= 0:
        return f"{rows:,} rows"
    rate = counted / seconds
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{rows:,} rows  {shown} rows/s  {duration(seconds * left / worked)} left"
