"""What a person sees while a run goes: a bar on a terminal, a plain line now and then elsewhere. Fed with the run's own lines."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

_WINDOW = 20


class Pace:
    """Steps per second over the last lines, from the times at which they came; the first line after a pause starts it anew."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def add(self, time_s: float, step: int) -> None:
        """Note that a step was done at a time, seconds of any clock that runs evenly."""
        if self._seen and step <= self._seen[-1][1]:  # the run went back to a checkpoint
            self._seen.clear()
        self._seen.append((time_s, step))

    def steps_per_s(self) -> float | None:
        """The rate, or None before two lines."""
        if len(self._seen) < 2:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began) if ended > began else None


class Progress:
    """Shows steps, loss, rate and time left. A context manager."""

    def __init__(self, steps: int, *, console: Console | None = None, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps, self.every_s = steps, every_s
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self._clock, self._pace, self._last_line_s = clock, Pace(), -float("inf")
        self._bar = Bar(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=self.console
        )
        self._task = self._bar.add_task("training", total=steps, text="starting")

    def __enter__(self) -> Progress:
        if self.live:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._bar.stop()

    def update(self, record: Mapping[str, Any]) -> None:
        """Take one line of metrics in; a line without a step is passed over."""
        step = record.get("step")
        if not isinstance(step, int):
            return
        now = self._clock()
        self._pace.add(now, step)
        text = _describe(record, self._pace.steps_per_s(), self.steps)
        self._bar.update(self._task, completed=step, text=text)
        if not self.live and (now - self._last_line_s >= self.every_s or step >= self.steps):
            self._last_line_s = now
            self._print(f"step {step}/{self.steps}  {text}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _describe(record: Mapping[str, Any], steps_per_s: float | None, steps: int) -> str:
    parts = []
    if isinstance(record.get("loss"), int | float):
        parts.append(f"loss {record['loss']:.4f}")
    if steps_per_s is not None:
        parts.append(f"{steps_per_s:.2f} steps/s")
    if isinstance(record.get("tokens_per_second"), int | float):
        parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    if steps_per_s:
        parts.append(f"{duration(max(0, steps - record['step']) / steps_per_s)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42s, 3m05s, 2h04m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
