"""A writer for test_runs.py: takes the lease, writes, waits to be told to go on, and says what it may not do then. Its clock is 30 years ahead."""

import sys
import time
from collections.abc import Callable

from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.lease import Lease
from tunefleet.cluster.metrics import Lines
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.checkpoint import commit, write_part
from tunefleet.trainers.output import LEASE, check_fence

real = time.time
time.time = lambda: real() + 30 * 365 * 86400
STEP = "checkpoints/step-00000005"


def say(text: str) -> None:
    """A line for the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def tried(what: str, act: Callable[[], object]) -> None:
    """Do what a fence should stop, and say what came of it."""
    try:
        act()
    except TunefleetError as error:
        say(f"{what}: {type(error).__name__}")
    else:
        say(f"{what}: done")


def main(address: str) -> None:
    storage = open_storage(address)
    lease = Lease.acquire(storage, LEASE, "the zombie", ttl_s=2)
    lines = Lines(storage, "metrics.jsonl")
    lines.add({"step": 1})
    lines.flush()
    say(f"holds {lease.fence}")
    sys.stdin.readline()

    def write() -> None:
        lines.add({"step": 99})
        lines.flush()

    def checkpoint() -> None:
        head = {"version": 1, "step": 5, "fence": lease.fence, "attempt": "zombie", "precision": "fp32", "optimizer": None, "meta": {"step": 5}}
        write_part(storage, STEP, "zombie", 0, [])
        commit(storage, STEP, head, 1)

    tried("fence", lambda: check_fence(storage, lease.fence))
    tried("metrics", write)
    tried("checkpoint", checkpoint)


if __name__ == "__main__":
    main(sys.argv[1])
