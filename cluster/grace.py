"""SIGTERM in two stages: what is at work is asked to end by itself, and ended when it does not within its time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_grace: Grace | None = None


class Grace:
    """What the first SIGTERM does while it is in force: ``ask`` is called in a thread, and after ``within_s`` seconds a second SIGTERM is sent."""

    def __init__(self, ask: Callable[[], None], within_s: float) -> None:
        self._ask, self._within_s = ask, within_s
        self._wanted, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="grace", daemon=True)  # started ahead: a signal handler may start none
        self._thread.start()

    @property
    def asked(self) -> bool:
        """Whether a SIGTERM came."""
        return self._wanted.is_set()

    def begin(self) -> None:
        """Called by the signal handler."""
        self._wanted.set()

    def close(self) -> None:
        """The work has ended, by itself or not."""
        self._over.set()
        self._wanted.set()
        self._thread.join()

    def _follow(self) -> None:
        self._wanted.wait()
        if self._over.is_set():
            return
        try:
            self._ask()
        finally:
            if not self._over.wait(self._within_s):
                os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def graceful(ask: Callable[[], None], within_s: float) -> Iterator[None]:
    """In this block the first SIGTERM only asks; a second one, or the end of the time, ends as always. For sessions of ``cluster.session``."""
    global _grace
    before, _grace = _grace, Grace(ask, within_s)
    try:
        yield
    finally:
        ours, _grace = _grace, before
        ours.close()


def stop_wait(grace_s: float) -> dict[str, str]:
    """What has Ray wait between its SIGTERM to a job and its SIGKILL; its own 3 seconds are too few for a checkpoint."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(int(grace_s + 60))}


def asked_first() -> bool:
    """For the handler of SIGTERM: whether this one was the first, and has been passed on as a request."""
    if _grace is None or _grace.asked:
        return False
    _grace.begin()
    return True
