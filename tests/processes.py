"""Processes of a test, found by a mark in their environment, which children inherit, or by their session; what they leave, and waiting for facts about them."""

import os
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


def of_session(leader):
    """Numbers of the living processes of a command that leads a session, the Ray that it started among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def called(numbers, name):
    """Those of some processes whose command line begins with a name."""
    found = []
    for number in numbers:
        try:
            if Path(f"/proc/{number}/cmdline").read_bytes().startswith(name.encode()):
                found.append(number)
        except OSError:
            continue
    return found


def contents(*folders):
    """The files below some folders with their bytes; those that go meanwhile, and sockets, are passed over."""
    found = {}
    for place, _, names in (step for folder in folders for step in os.walk(folder)):
        for path in (Path(place, name) for name in names):
            try:
                if path.is_file():
                    found[path] = path.read_bytes()
            except OSError:
                continue
    return found


def until(fact, *, timeout_s=120.0):
    """Wait for a fact; its value. Fails when it does not come."""
    end = time.monotonic() + timeout_s
    while not (value := fact()):
        assert time.monotonic() < end, f"did not come within {timeout_s} s"
        time.sleep(0.1)
    return value
