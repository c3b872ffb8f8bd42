"""The one place that reaches into Ray Train: its trainer with our failure policy. Imported only where a group is started, since it imports Ray.

Ray Train offers no public door for a failure policy of one's own, and starts helpers that a local session has no use for. What is overridden
here (``_create_default_callbacks``, ``_initialize_and_run_controller``, ``_register_sigint_handler``) exists in Ray 2.60; a test holds us to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError as HealthTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.failures import Budget, Failure, Kind, RaisedError
from tunefleet.cluster.metrics import SharedLines, read_lines
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.unreliable import STARTED, Members, elsewhere, unreliable

FAILURES = "failures.jsonl"
STACKS = "stacks/"


class Judge(FailurePolicy):  # type: ignore[misc]  # Ray has no types
    """Asks the budget what to do about each failure, and notes its verdict for the driver. Lives in Ray Train's controller."""

    def __init__(
        self,
        budget: Budget,
        progress: Callable[[], int],
        notes: Storage,
        workers: int,
        bundle: Mapping[str, float] | None = None,
        nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes,
    ) -> None:
        """``bundle``: what one worker takes; ``nodes``: those of the cluster, as Ray lists them."""
        super().__init__(FailureConfig(max_failures=-1))
        self._budget, self._progress, self._notes, self._workers, self._bundle, self._nodes = budget, progress, notes, workers, bundle or {}, nodes
        self._blamed: list[tuple[int, tuple[int, ...]]] = []
        self._judged = 0  # the last attempt of which a failure was seen
        self._avoid: set[str] = set()
        self._seen_stacks: set[str] = set()

    def make_decision(self, training_failed_error: Exception) -> FailureDecision:
        """Called by Ray Train once a failure."""
        failure = self._hung() or classify(training_failed_error)
        progress, trouble = self._read_progress()
        self._budget, verdict = self._budget.after(failure, progress)
        avoided, said = self._avoided(failure) if verdict.restart else ([], "")
        self._note(failure, verdict.restart, verdict.reason + said, progress, trouble, avoided)
        return FailureDecision.RETRY if verdict.restart else FailureDecision.RAISE

    def _avoided(self, failure: Failure) -> tuple[list[str], str]:
        """Nodes that the next group keeps away from, by address, and a word about the new ones among them."""
        members = [Members(line["attempt"], {w["rank"]: w["address"] for w in line["workers"]}) for line in read_lines(self._notes, STARTED)]
        attempt = members[-1].attempt if members else 0
        if failure.kind in ("died", "hung") and attempt > self._judged:  # else it failed before its ranks could say where they are
            self._blamed.append((attempt, failure.ranks))
        self._judged = attempt
        bad = unreliable(members, self._blamed)
        new = bad - self._avoid
        if not new:
            return sorted(self._avoid), ""
        if not elsewhere(bad, self._nodes(), len(members[-1].addresses), self._bundle):
            return sorted(self._avoid), f"; {', '.join(sorted(new))} failed twice, and there is no room elsewhere"
        self._avoid |= new
        return sorted(self._avoid), f"; {', '.join(sorted(new))} failed twice and is avoided from now on"

    def _read_progress(self) -> tuple[int, str]:
        try:
            return self._progress(), ""
        except Exception as error:  # noqa: BLE001 - a storage in trouble must not stop the policy; it counts as no progress, and the note says so
            return self._budget.progress, f"progress unknown: {error}"

    def _hung(self) -> Failure | None:
        """A hang, when watchdogs left stacks since the last failure. Ranks that could not even do that are the frozen ones."""
        fresh = [name for name in self._notes.list(STACKS) if name not in self._seen_stacks]
        self._seen_stacks.update(fresh)
        if not fresh:
            return None
        told = {int(name.rpartition("-")[2].removesuffix(".txt")) for name in fresh}
        frozen = tuple(sorted(set(range(self._workers)) - told))
        text = self._notes.read(fresh[0]).decode(errors="replace")
        cause = f"{text.splitlines()[0]}; stacks are kept in {self._notes.address}/{STACKS}"
        return Failure("hung", cause, ranks=frozen or tuple(sorted(told)), trace=text)

    def _note(self, failure: Failure, restart: bool, reason: str, progress: int, trouble: str, avoided: Sequence[str]) -> None:
        record = {"kind": failure.kind, "ranks": failure.ranks, "cause": failure.cause, "restart": restart, "reason": reason, "progress": progress}
        extra = {**({"trouble": trouble} if trouble else {}), **({"avoided": avoided} if avoided else {})}
        SharedLines(self._notes, FAILURES).add({**record, "trace": failure.trace, **extra})


class KeepAway(ControllerCallback):  # type: ignore[misc]
    """Starts groups on nodes that are not avoided. What the judge has noted is read, since the two meet nowhere else."""

    def __init__(self, notes: Storage, nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes) -> None:
        self._notes, self._nodes = notes, nodes

    def on_controller_start_worker_group(self, **_: Any) -> dict[str, str] | None:
        """A selector of nodes, where one is avoided. A node that came back has another id, and the address it had."""
        last = next(reversed(read_lines(self._notes, FAILURES)), {})
        bad = [node["NodeID"] for node in self._nodes() if node["Alive"] and node["NodeManagerAddress"] in last.get("avoided", ())]
        return {"ray.io/node-id": f"!in({','.join(bad)})"} if bad else None


class LocalScaling(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed group that asks no autoscaler: a local session has none, and its coordinator would be one more process to wait for."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


@dataclass(frozen=True)
class Plan:
    """How our trainer differs from Ray's. ``local``: the cluster belongs to this driver and ends with it."""

    judge: Judge
    local: bool
    notes: Storage


class Trainer(TorchTrainer):  # type: ignore[misc]
    """TorchTrainer with our failure policy, fewer helpers on a local cluster, and Ctrl-C as Python means it."""

    def __init__(self, *args: Any, plan: Plan, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plan = plan
        self._controller: Any = None

    def fit(self) -> Any:
        """Run to the end. When the driver is interrupted, the workers are ended before the interrupt goes on."""
        try:
            return super().fit()
        except (KeyboardInterrupt, SystemExit):
            if self._controller is not None:
                with contextlib.suppress(Exception):  # it exits within the call, so it always answers with an error
                    ray.get(self._controller.abort.remote(), timeout=15)
            raise

    def _create_default_callbacks(self) -> list[Any]:
        unwanted: tuple[type, ...] = (WorkingDirectorySetupCallback,)  # it would move workers to another folder than the driver's
        if self._plan.local:
            unwanted += (PlacementGroupCleanerCallback,)  # the cluster ends with the driver
        kept = [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]
        return kept if self._plan.local else [*kept, KeepAway(self._plan.notes)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        scaling = LocalScaling(self.scaling_config) if self._plan.local else kwargs["scaling_policy"]
        return super()._initialize_and_run_controller(**{**kwargs, "failure_policy": self._plan.judge, "scaling_policy": scaling})

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller  # Ray's own handler would swallow the interrupt, and stay for good


def classify(error: Exception) -> Failure:
    """The most telling of the workers' failures."""
    if isinstance(error, PreemptionError):
        return Failure("preempted", str(error), trace=str(error))
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        found = [_of_rank(rank, failure) for rank, failure in sorted(error.worker_failures.items())]
        return min(found, key=lambda failure: _RANKING.index(failure.kind) if failure.error is None else -1)
    inner = error.controller_failure if isinstance(error, ControllerError) else error
    cause = inner.cause if isinstance(inner, RayTaskError) else inner
    if isinstance(cause, TunefleetError):
        return Failure("raised", cause.headline(), signature=f"{type(cause).__name__}:{cause.what}", error=cause, trace=str(cause))
    if isinstance(inner, RayActorError):  # a rank died while its function was being launched
        return Failure("died", _death(str(inner)), trace=str(inner))
    if isinstance(inner, WorkerGroupStartupTimeoutError):
        return Failure("start", "the cluster had no room for all of them in time", trace=str(inner))
    if isinstance(inner, WorkerGroupStartupFailedError):
        return Failure("died", f"while starting: {_line(inner)}", trace=str(inner))
    return Failure("internal", _line(inner), trace=str(inner))


_RANKING: tuple[Kind, ...] = ("preempted", "raised", "died", "hung", "lost", "start", "internal")


def _of_rank(rank: int, error: Exception) -> Failure:
    if isinstance(error, TunefleetError):
        return Failure("raised", error.headline(), (rank,), signature=f"{type(error).__name__}:{error.what}", error=error, trace=str(error))
    if isinstance(error, RaisedError):
        line = f"{error.name}: {error.message.strip().splitlines()[0] if error.message.strip() else ''} ({error.where})"
        if error.collateral:
            return Failure("lost", line, (rank,), trace=error.trace)
        return Failure("raised", line, (rank,), signature=f"{error.name}@{error.where}", trace=error.trace)
    if isinstance(error, HealthTimeoutError):
        return Failure("hung", "its process does not answer", (rank,), trace=str(error))
    cause = error.health_check_failure if isinstance(error, WorkerHealthCheckFailedError) else error
    if isinstance(cause, RayActorError) and cause.preempted:
        return Failure("preempted", "its node was taken away", (rank,), trace=str(error))
    if isinstance(cause, OutOfMemoryError):
        return Failure("died", "Ray ended its process because the node's memory was full", (rank,), trace=str(error))
    return Failure("died", _death(str(cause)), (rank,), trace=str(error))


def _death(text: str) -> str:
    if "node has died" in text or "node died" in text.lower():
        return "its node died"
    if "intentional" in text.lower() or "exit code" in text.lower():
        return _line(Exception(text.rpartition("detail:")[2] or text))
    return "its process was killed (out of memory, a signal, or a crash in native code)"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
