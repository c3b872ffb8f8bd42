"""Signs of life: a worker that makes no progress for too long leaves the stacks of its threads and ends its own process."""

from __future__ import annotations

import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable

EXIT_CODE = 86
_GRACE_S = 3.0
_STALL_S = 0.5  # a wake-up that is later than this was no matter of a busy machine's scheduler

_last_beat_s = time.monotonic()
_stalled_s = 0.0


def beat() -> None:
    """Say that this process got on with its work. Cheap: a clock reading. Called once a step, and between long parts of a start or an evaluation."""
    global _last_beat_s
    _last_beat_s = time.monotonic()


def stalled_s() -> float:
    """Seconds in all in which this process did not run though it would have: stopped, swapped out, starved. The watchdog's thread sees it."""
    return _stalled_s


class Watchdog:
    """Ends this process when no beat came for ``timeout_s``. A context manager around the work.

    ``report`` gets the stacks of all threads first. Then it waits a moment, since the other ranks hang with this one, and their stacks are wanted too.
    Code that hangs while it holds Python's lock stops this thread as well: for that there is a second timer in C, a little later, which writes to stderr.
    """

    def __init__(self, timeout_s: float, report: Callable[[str], None]) -> None:
        self.timeout_s, self._report = timeout_s, report
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(_GRACE_S)  # its last round may still set the timer in C
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        global _stalled_s
        interval_s = min(1.0, self.timeout_s / 10)
        woke_s = time.monotonic()
        while not self._done.wait(interval_s):
            late_s = time.monotonic() - woke_s - interval_s
            _stalled_s += late_s if late_s > _STALL_S else 0.0
            woke_s = time.monotonic()
            silent_s = time.monotonic() - _last_beat_s
            if silent_s > self.timeout_s:
                self._end(silent_s)
            faulthandler.dump_traceback_later(self.timeout_s + 30, exit=True)  # set anew by each round of this thread

    def _end(self, silent_s: float) -> None:
        try:
            self._report(f"no progress for {silent_s:.0f} s\n{stacks()}")
        finally:
            self._done.wait(_GRACE_S)
            if not self._done.is_set():
                os._exit(EXIT_CODE)


def stacks() -> str:
    """Where every thread of this process stands."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
