"""Processes of a test, found by a mark in their environment, which children inherit; and waiting for facts about them."""

import time
from pathlib import Path


def marked(variable):
    """Numbers of the living processes with ``NAME=value`` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            continue


def until(fact, *, timeout_s=120.0):
    """Wait for a fact; its value. Fails when it does not come."""
    end = time.monotonic() + timeout_s
    while not (value := fact()):
        assert time.monotonic() < end, f"did not come within {timeout_s} s"
        time.sleep(0.1)
    return value
