"""A group of workers: one function on every rank, with a process group between them, started again after failures that a restart can mend."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunefleet.cluster.errors import TunefleetError
from tunefleet.cluster.failures import Budget, Failure, RaisedError, Verdict, final_error
from tunefleet.cluster.heartbeat import Watchdog
from tunefleet.cluster.metrics import Record, SharedLines, Tail, delete_lines, read_lines
from tunefleet.cluster.storage import Storage, is_remote, open_storage
from tunefleet.cluster.world import World

STARTED = "started.jsonl"
COLLATERAL_WAIT_S = 5.0
_COLLATERAL = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError", "remote process exited")

Work = Callable[[dict[str, Any]], None]


def run_group(
    function: Work,
    payload: dict[str, Any],
    *,
    workers: int,
    use_gpu: bool,
    cpus_per_worker: int,
    max_failures: int,
    start_timeout_s: float,
    hang_timeout_s: float,
    name: str,
    storage_path: str,
    progress: Callable[[], int] | None,
    on_event: Callable[[str, dict[str, Any]], None],
    local: bool | None = None,
) -> None:
    """Run ``function(payload)`` on every rank until all have returned; the session must be connected.

    ``payload`` gains ``attempt`` (1, 2, ...). The function calls ``heartbeat.beat()`` at least every ``hang_timeout_s``. ``progress`` is called where
    Ray Train's controller runs, after a failure (so it must pickle), and tells the step of the newest complete checkpoint: failures count only while
    it does not grow. ``on_event`` is called from a thread: ``group_started`` {attempt, workers}, ``group_failed`` {kind, ranks, cause, restart, reason}.
    ``local``: the cluster is this machine's and ends with its driver; None where this process is that driver, and knows.

    Raises the worker's own TunefleetError, when that is the cause (a RequestError at once, without a restart), else WorkerError.
    """
    from tunefleet.cluster import raytrain
    from tunefleet.cluster.session import owns_cluster

    notes = open_storage(storage_path).sub(name)
    for stale in (STARTED, raytrain.FAILURES):
        delete_lines(notes, stale)
    notes.delete_tree(raytrain.STACKS)
    first = progress or _no_progress
    judge = raytrain.Judge(Budget(max_failures, first()), first, notes, workers)
    last: dict[str, Any] = {}

    def tell(file: str, record: Record) -> None:
        if file == raytrain.FAILURES:
            last.update(record)
        on_event("group_started" if file == STARTED else "group_failed", record)

    config = {"function": function, "payload": payload, "hang_timeout_s": hang_timeout_s, "notes": notes}
    with _ray_train_settings(start_timeout_s, hang_timeout_s), Tail(notes, tell, names=(STARTED, raytrain.FAILURES)), _place_of_ray(storage_path) as place:
        plan = raytrain.Plan(judge, local=owns_cluster() if local is None else local)
        error = _fit(config, plan, workers, use_gpu, cpus_per_worker, hang_timeout_s, name, place)
    if error is not None:
        failure = raytrain.classify(error)
        if last.get("kind") == "hung":  # the controller saw the stacks that the watchdogs left; the error alone tells only of dead processes
            failure = Failure("hung", last["cause"], tuple(last["ranks"]), trace=last["trace"])
        raise final_error(failure, Verdict(False, last.get("reason", ""))) from error


@contextmanager
def _place_of_ray(storage_path: str) -> Iterator[str]:
    """Where Ray Train keeps its own notes, which nobody else reads: with ours in a folder; here, for a while, when ours are on S3."""
    if not is_remote(storage_path):
        yield storage_path
        return
    with TemporaryDirectory(prefix="tunefleet-ray-", ignore_cleanup_errors=True) as folder:
        yield folder


def _fit(
    config: Mapping[str, Any], plan: Any, workers: int, use_gpu: bool, cpus_per_worker: int, hang_timeout_s: float, name: str, storage_path: str
) -> Exception | None:
    """Run Ray Train's trainer to its end; the error it ends with, or None."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import LoggingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from tunefleet.cluster.raytrain import Trainer

    bundle = {"CPU": float(cpus_per_worker), **({"GPU": 1.0} if use_gpu else {})}
    trainer = Trainer(
        _work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=int(hang_timeout_s) + 60),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=bundle),
        run_config=RunConfig(name=name, storage_path=storage_path, logging_config=LoggingConfig(log_level="CRITICAL")),
        plan=plan,
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return error  # type: ignore[no-any-return]  # Ray has no types
    return None


def _work(config: dict[str, Any]) -> None:
    """What Ray Train runs on every rank, after the process group stands."""
    world = World.join()
    notes: Storage = config["notes"]
    people = world.gather({"rank": world.rank, "host": socket.gethostname(), "pid": os.getpid()})
    attempt = int(world.broadcast(_announce(notes, people) if world.main else None))

    def report(stacks: str) -> None:
        notes.put(f"stacks/attempt-{attempt}-rank-{world.rank}.txt", stacks.encode())

    with Watchdog(config["hang_timeout_s"], report):
        try:
            config["function"]({**config["payload"], "attempt": attempt})
        except TunefleetError:
            raise
        except Exception as error:
            told = raised(error)
            if told.collateral:  # a peer died: let its death be seen first, it is the cause
                time.sleep(COLLATERAL_WAIT_S)
            raise told from error


def _announce(notes: Storage, people: list[dict[str, Any]]) -> int:
    """Note who has started, and return which attempt this is, from 1."""
    attempt = len(read_lines(notes, STARTED)) + 1
    SharedLines(notes, STARTED).add({"attempt": attempt, "workers": people})
    return attempt


def raised(error: Exception) -> RaisedError:
    """An exception as plain text, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    collateral = any(mark in str(error) for mark in _COLLATERAL)
    return RaisedError(type(error).__name__, str(error), where, "".join(traceback.format_exception(error)), collateral)


def _no_progress() -> int:
    return 0


@contextmanager
def _ray_train_settings(start_timeout_s: float, hang_timeout_s: float) -> Iterator[None]:
    """Ray Train takes these from the driver's environment only, and hands them to its controller and workers."""
    wanted = {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(hang_timeout_s),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_timeout_s),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
