"""A run inside a session that somebody else holds, as a trial of a study is: who follows it, what it shares with the others, where it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunefleet.cluster import lease
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.files import BASE
from tunefleet.trainers.evaluation.samples import BASE as BASE_SAMPLES
from tunefleet.trainers.output import LEASE, claim

if TYPE_CHECKING:
    from tunefleet.trainers.handover import Pointer
    from tunefleet.trainers.output import Claim
    from tunefleet.trainers.run import RunFile

LOOK_S = 0.2


@dataclass(frozen=True)
class Nested:
    """``follow`` is called, from a thread, with every line of metrics and events (name of the file, line). ``local``: the cluster ends with its driver.

    ``base``: an output whose scores of the base model are taken where they fit. ``begin_at``: the checkpoint of another run to go on from.
    ``patience_s``: how long an output that is still held by an earlier start of the same run is waited for.
    """

    follow: Callable[[str, Mapping[str, Any]], None]
    local: bool
    base: str | None = None
    begin_at: Pointer | None = None
    patience_s: float = 90.0


@contextmanager
def claim_patiently(run: RunFile, patience_s: float, **how: Any) -> Iterator[Claim]:
    """Claim an output (see ``output.claim``) as soon as the start before this one has let go of it. Raises OutputError that names the holder, in the end."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and lease.holder(open_storage(run.output), LEASE) is not None:
        time.sleep(LOOK_S)
    with claim(run, **how) as found:
        yield found


def take_base(output: Storage, base: str | None) -> None:
    """Copy the base model's scores and answers to an output that has none; whether they fit is seen by their key when they are read."""
    if base is None:
        return
    there = open_storage(base)
    for name in (BASE, BASE_SAMPLES):
        if there.exists(name) and not output.exists(name):
            output.put(name, there.read(name))
