"""SIGTERM asks first, and ends what does not end by itself."""

import os
import signal
import threading

import pytest

from tunefleet.cluster.grace import graceful
from tunefleet.cluster.session import _terminated_by_exit


def send():
    os.kill(os.getpid(), signal.SIGTERM)


def work(ask, within_s, signals):
    """Be sent signals, each once the one before was heard, and work on."""
    with _terminated_by_exit(), graceful(ask, within_s):
        for heard in signals:
            send()
            if heard is not None:
                assert heard.wait(30)
        threading.Event().wait(30)


def test_the_first_signal_asks_and_the_work_ends_by_itself():
    asked = threading.Event()
    with _terminated_by_exit(), graceful(asked.set, within_s=3600):
        send()
        assert asked.wait(30)


def test_a_second_signal_ends_the_work():
    asked = threading.Event()
    with pytest.raises(SystemExit) as ended:
        work(asked.set, 3600, [asked, None])
    assert ended.value.code == 143


def test_work_that_does_not_end_within_its_time_is_ended_also_when_asking_fails():
    def fail():
        raise OSError("the storage is gone")

    threading.excepthook, hook = lambda _: None, threading.excepthook
    try:
        with pytest.raises(SystemExit) as ended:
            work(fail, 0.05, [None])
    finally:
        threading.excepthook = hook
    assert ended.value.code == 143


def test_work_that_ended_is_not_signalled_later():
    asked = threading.Event()
    with _terminated_by_exit():
        with graceful(asked.set, within_s=3600):
            send()
            assert asked.wait(30)
        assert "grace" not in {thread.name for thread in threading.enumerate()}
