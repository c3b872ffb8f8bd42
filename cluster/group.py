"""A group of workers: one function on every rank, with a process group between them, started again after failures that a restart can mend."""

from __future__ import annotations

import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunefleet.cluster.environment import variables
from tunefleet.cluster.errors import TunefleetError, WorkerError
from tunefleet.cluster.failures import Budget, Failure, RaisedError, Verdict, final_error
from tunefleet.cluster.heartbeat import Watchdog
from tunefleet.cluster.metrics import Record, SharedLines, Tail, delete_lines, read_lines
from tunefleet.cluster.storage import Storage, is_remote, open_storage
from tunefleet.cluster.unreliable import STARTED
from tunefleet.cluster.world import World

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
    rendezvous_timeout_s: float = 300.0,
    collective_timeout_s: float | None = None,
    local: bool | None = None,
) -> None:
    """Run ``function(payload)`` on every rank until all have returned; the session must be connected.

    ``payload`` gains ``attempt`` (1, 2, ...) and ``refuse_ghosts``, to be called before anything is written that a later attempt could write too.
    The function calls ``heartbeat.beat()`` at least every ``hang_timeout_s``. ``progress`` is called where Ray Train's controller runs, after a failure
    (so it must pickle), and tells the step of the newest complete checkpoint: failures count only while it does not grow. ``on_event`` is called from
    a thread: ``group_started`` {attempt, workers}, ``group_failed`` {kind, ranks, cause, restart, reason}.
    ``local``: the cluster is this machine's and ends with its driver; None where this process is that driver, and knows.
    The ranks must have met within ``rendezvous_timeout_s``; a collective waits for ``collective_timeout_s``, by default a little longer than a hang is
    allowed to last, so that the watchdogs, which keep the stacks, come first.

    Raises the worker's own TunefleetError, when that is the cause (a RequestError at once, without a restart), else WorkerError.
    """
    from tunefleet.cluster import raytrain
    from tunefleet.cluster.session import owns_cluster

    notes = open_storage(storage_path).sub(name)
    for stale in (STARTED, raytrain.FAILURES):
        delete_lines(notes, stale)
    notes.delete_tree(raytrain.STACKS)
    first = progress or _no_progress
    bundle = {"CPU": float(cpus_per_worker), **({"GPU": 1.0} if use_gpu else {})}
    judge = raytrain.Judge(Budget(max_failures, first()), first, notes, workers, bundle)
    last: dict[str, Any] = {}

    def tell(file: str, record: Record) -> None:
        if file == raytrain.FAILURES:
            last.update(record)
        on_event("group_started" if file == STARTED else "group_failed", record)

    config = {"function": function, "payload": payload, "hang_timeout_s": hang_timeout_s, "notes": notes}
    with (
        variables(_ray_train_settings(start_timeout_s, hang_timeout_s)),
        Tail(notes, tell, names=(STARTED, raytrain.FAILURES)),
        _place_of_ray(storage_path) as place,
    ):
        plan = raytrain.Plan(judge, local=owns_cluster() if local is None else local, notes=notes)
        network = _network(use_gpu, rendezvous_timeout_s, collective_timeout_s or hang_timeout_s + 60)
        error = _fit(config, plan, workers, bundle, network, name, place)
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


def _fit(config: Mapping[str, Any], plan: Any, workers: int, bundle: Mapping[str, float], network: Any, name: str, storage_path: str) -> Exception | None:
    """Run Ray Train's trainer to its end; the error it ends with, or None."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from tunefleet.cluster.raytrain import Trainer

    trainer = Trainer(
        _work,
        train_loop_config=config,
        torch_config=network,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in bundle, resources_per_worker=dict(bundle)),
        run_config=RunConfig(name=name, storage_path=storage_path, logging_config=LoggingConfig(log_level="CRITICAL")),
        plan=plan,
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        return error  # type: ignore[no-any-return]  # Ray has no types
    return None


def _network(use_gpu: bool, rendezvous_timeout_s: float, collective_timeout_s: float) -> Any:
    from tunefleet.cluster.network import wishes
    from tunefleet.cluster.rendezvous import NetworkConfig

    backend = "nccl" if use_gpu else "gloo"
    return NetworkConfig(backend=backend, timeout_s=math.ceil(collective_timeout_s), rendezvous_timeout_s=rendezvous_timeout_s, wished=wishes())


def _work(config: dict[str, Any]) -> None:
    """What Ray Train runs on every rank, after the process group stands."""
    from ray.util import get_node_ip_address

    world = World.join()
    notes: Storage = config["notes"]
    interface = os.environ.get("GLOO_SOCKET_IFNAME" if world.device.type == "cpu" else "NCCL_SOCKET_IFNAME", "").removeprefix("=")
    place = {"host": socket.gethostname(), "address": get_node_ip_address(), "interface": interface}
    people = world.gather({"rank": world.rank, "pid": os.getpid(), **place})
    attempt = int(world.broadcast(_announce(notes, people) if world.main else None))

    def report(stacks: str) -> None:
        notes.put(f"stacks/attempt-{attempt}-rank-{world.rank}.txt", stacks.encode())

    with Watchdog(config["hang_timeout_s"], report):
        try:
            config["function"]({**config["payload"], "attempt": attempt, "refuse_ghosts": partial(refuse_ghosts, notes, attempt)})
        except TunefleetError:
            raise
        except Exception as error:
            told = raised(error)
            if told.collateral:  # a peer died: let its death be seen first, it is the cause
                time.sleep(COLLATERAL_WAIT_S)
            raise told from error


def refuse_ghosts(notes: Storage, attempt: int) -> None:
    """Raises WorkerError when a later group has started: this one was cut off and given up, and must not write any more."""
    newest = len(read_lines(notes, STARTED))
    if newest > attempt:
        raise WorkerError(
            "this worker group was given up, and another one goes on in its place",
            got=f"attempt {attempt}, and attempt {newest} has started",
            want="one writer at a time",
            fix="nothing: what this group had not saved is done again",
        )


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


def _ray_train_settings(start_timeout_s: float, hang_timeout_s: float) -> dict[str, str]:
    """Ray Train takes these from the driver's environment only, and hands them to its controller and workers."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(hang_timeout_s),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_timeout_s),
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0",
    }
