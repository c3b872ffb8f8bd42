"""What to do when workers fail: a pure policy. It turns a failure and the run's progress into a verdict, and acts on nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tunefleet.cluster.errors import RequestError, TunefleetError, WorkerError

Kind = Literal["raised", "died", "hung", "lost", "start", "preempted", "internal"]
"""How it failed: its code raised; its process died; it made no progress; it lost its peers; it never started; its node was taken away; Ray Train broke."""


class RaisedError(Exception):
    """What a worker's function raised, as plain text, so that it crosses processes whatever it was. ``collateral``: only a peer's death shows in it."""

    def __init__(self, name: str, message: str, where: str, trace: str, collateral: bool) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.where, self.trace, self.collateral = name, message, where, trace, collateral

    def __reduce__(self) -> tuple[object, ...]:
        return RaisedError, (self.name, self.message, self.where, self.trace, self.collateral)


@dataclass(frozen=True)
class Failure:
    """One failure of a worker group, with the most telling rank's cause."""

    kind: Kind
    cause: str
    """One line."""
    ranks: tuple[int, ...] = ()
    signature: str = ""
    """Equal for failures that are the same bug; empty where chance may be behind it."""
    error: TunefleetError | None = None
    """The worker's own error, when it raised one of ours."""
    trace: str = ""
    """Traceback, or what Ray says, for those who look closer."""

    def who(self) -> str:
        """``rank 1``, ``ranks 0, 2`` or ``the worker group``."""
        if not self.ranks:
            return "the worker group"
        return f"rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"


@dataclass(frozen=True)
class Verdict:
    """Whether to start the group again, and why or why not."""

    restart: bool
    reason: str


@dataclass(frozen=True)
class Budget:
    """Failures that are still allowed. Only growth of ``progress`` (the step of the newest complete checkpoint) refills it."""

    max_failures: int
    progress: int
    failures: int = 0
    signature: str = ""

    def after(self, failure: Failure, progress: int) -> tuple[Budget, Verdict]:
        """The budget that is left, and what to do."""
        grew = progress > self.progress
        if failure.kind == "preempted":  # planned, and nobody's fault
            return replace(self, progress=max(progress, self.progress)), Verdict(True, "the node was taken away")
        repeated = bool(failure.signature) and failure.signature == self.signature and not grew
        count = 1 if grew else self.failures + 1
        left = Budget(self.max_failures, max(progress, self.progress), count, failure.signature)
        if isinstance(failure.error, RequestError):
            return left, Verdict(False, "the request is wrong: it would fail again")
        if failure.kind in ("start", "internal"):
            return left, Verdict(False, "the workers cannot be started")
        if repeated:
            return left, Verdict(False, "the same error twice without progress: it would fail again")
        if count > self.max_failures:
            return left, Verdict(False, f"failure {count} without a new checkpoint, {self.max_failures} are allowed")
        return left, Verdict(True, f"failure {count} of {self.max_failures} that are allowed without a new checkpoint")


_VERBS: dict[Kind, str] = {
    "raised": "failed",
    "died": "died",
    "hung": "hung and was ended",
    "lost": "lost its peers",
    "start": "did not start",
    "preempted": "was taken away",
    "internal": "failed inside Ray Train",
}

_FIXES: dict[Kind, str] = {
    "raised": "mend the cause; see the worker's log for the whole traceback",
    "died": "look for the system's out-of-memory killer; lower micro_batch_size, or give the workers more memory",
    "hung": "see the kept stacks of all ranks; raise failures.hang_timeout_s when a step is really that slow",
    "lost": "check the network between the nodes",
    "start": "ask for less, free resources of the cluster, or raise failures.start_timeout_s",
    "preempted": "",
    "internal": "check the versions with `tunefleet doctor`",
}


def final_error(failure: Failure, verdict: Verdict) -> TunefleetError:
    """What the run ends with: the worker's own error as itself, everything else as a WorkerError."""
    if failure.error is not None:
        return failure.error
    return WorkerError(
        f"{failure.who()} {_VERBS[failure.kind]}: {failure.cause}", got=verdict.reason, want="a worker group that reaches the end", fix=_FIXES[failure.kind]
    )
