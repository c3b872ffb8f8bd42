"""What the workers of test groups do. It lies outside the test modules, so that a worker can import it."""

import os
import signal
from pathlib import Path

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.heartbeat import beat
from tunefleet.cluster.world import World


def work(payload):
    """Six steps; in the attempts named under ``fault`` something happens to one rank at step 2. Rank 0 notes every step that was done by all."""
    world = World.join()
    fault = payload.get("fault", {}).get(payload["attempt"])
    for step in range(newest_step(payload["folder"]) + 1, 7):
        beat()
        if fault and step == fault.get("step", 2) and world.rank == fault["rank"]:
            happen(fault["kind"])
        total = world.sum({"ranks": 1.0})["ranks"]
        if world.main:
            note(Path(payload["folder"], f"step-{step}"), f"{payload['attempt']} {total:g}")


def happen(kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "request":
        raise SettingsError("objective.beta: wrong", got="-1", want="above 0", fix="raise it")
    if kind == "crash":
        raise UnpicklableError


def wait_for_ever(payload):
    """Say who runs, and go on until somebody ends it."""
    world = World.join()
    note(Path(payload["folder"], f"rank-{world.rank}"), str(os.getpid()))
    while True:
        beat()
        world.sum({"turn": 1.0})
        signal.sigtimedwait([], 0.1)


def newest_step(folder):
    """The last step that was done, as a group's measure of progress."""
    return max((int(path.name.partition("-")[2]) for path in Path(folder).glob("step-*")), default=0)


def note(path, text):
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text)
    fresh.rename(path)


class UnpicklableError(Exception):
    """What a library may raise: it cannot cross a process."""

    def __init__(self):
        super().__init__("made in a worker")
        self.lock = open("/dev/null")  # noqa: SIM115, PTH123

    def __reduce__(self):
        raise TypeError("cannot pickle this")
