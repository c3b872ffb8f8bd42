"""A Ray session: a local one that starts fast, listens on loopback and leaves nothing behind, or a door to a running cluster."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tunefleet
from tunefleet.cluster.authtoken import guard_token
from tunefleet.cluster.errors import PreflightError
from tunefleet.cluster.grace import asked_first

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # on stdout: a page of guesses, where the group's own event says it; and that a study has more processes than cores, which is as it should be
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed while executing a task|worker processes have been started on node",
    "RAY_enable_output_error_log_if_still_retry": "0",  # a retried task is our event, not a line of the raylet on the console
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray would warn about the devices of actors that hold none
    "USE_HUB_KERNELS": "NO",  # transformers would fetch native code from a hub where the package kernels is installed
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # a group with a dead rank is left behind, not waited for
}
WORKER_ENVIRONMENT = {
    key: _ENVIRONMENT[key] for key in ("USE_HUB_KERNELS", "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "RAY_enable_output_error_log_if_still_retry")
}
"""What the workers of a running cluster need too."""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With this Ray takes 127.0.0.1 as the node's address and listens nowhere else, as it always does on macOS. It is read when Ray is imported."""
_OBJECT_STORE_BYTES = 512 << 20
MARKET = "ray.io/market-type"
"""The label that says what kind of machine a node is: ``spot`` or ``on-demand``. The cloud's launcher sets it, or `ray start --labels`."""
_owned = False


@dataclass(frozen=True)
class Session:
    """A connected session. ``owned``: this process started the cluster, and ends it. ``dashboard``: the address of its web page, or empty."""

    address: str
    owned: bool
    dashboard: str = ""
    decisions: tuple[str, ...] = field(default=())

    def resources(self) -> dict[str, float]:
        """What the cluster has in all, or can grow to where an autoscaler has its limits from the cluster's file; by Ray's names: CPU, GPU, ..."""
        import ray
        from ray._private.state import state

        largest = state.get_max_resources_from_cluster_config() or {}
        now = ray.cluster_resources()
        return {name: float(max(now.get(name, 0.0), largest.get(name, 0.0))) for name in {*now, *largest}}

    def free_resources(self) -> dict[str, float]:
        """What nobody holds now."""
        import ray

        return {name: float(amount) for name, amount in ray.available_resources().items()}


def owns_cluster() -> bool:
    """Whether the session of this process is a local cluster that ends with it."""
    return _owned


@contextmanager
def connect(address: str | None = None, *, cpus_needed: float = 1, gpus_needed: float = 0) -> Iterator[Session]:
    """A session for as long as the block lasts.

    Without an address a local Ray is started with max(cores, need) logical CPUs. A session that this process has already is used and left open.
    On the end of the block, on an exception, on Ctrl-C (KeyboardInterrupt) and on SIGTERM (SystemExit 143) a local Ray is ended with all its processes.

    Raises:
        PreflightError: nothing listens at the address, or it refuses us; a local Ray does not start, or lacks the GPUs.
    """
    decisions = set_environment(local=address is None)
    import ray

    if ray.is_initialized():
        yield Session(ray.get_runtime_context().gcs_address, owned=False)
        return
    session = _join(address) if address else _start(cpus_needed, decisions)
    try:
        _check_gpus(session, gpus_needed)
        with _terminated_by_exit():
            yield session
    finally:
        _leave()


def set_environment(*, local: bool) -> tuple[str, ...]:
    """Set what Ray reads when it is imported and when it starts. What the user set stays. Returns what could not be done, as decisions."""
    wanted = {**_ENVIRONMENT, **(_LOOPBACK if local else {})}
    late = local and "ray" in sys.modules and os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") != "0"
    for key, value in wanted.items():
        os.environ.setdefault(key, value)
    return ("Ray was imported before, so its ports listen on every interface, guarded by its token",) if late else ()


def _start(cpus_needed: float, decisions: tuple[str, ...]) -> Session:
    """Start a local Ray on loopback. Ray turns token authentication on by itself, unless RAY_AUTH_MODE says otherwise; the token lies in ~/.ray."""
    import ray

    global _owned
    decisions += guard_token(os.environ)
    logging.getLogger("ray").setLevel(logging.ERROR)
    cores = usable_cores()
    cpus = max(cores, math.ceil(cpus_needed))
    try:
        context = ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=os.environ.get("TUNEFLEET_WORKER_OUTPUT") == "1",
            logging_level="ERROR",
        )
    except Exception as error:
        raise PreflightError("a local Ray does not start", got=_first_line(error), want="room in /tmp and /dev/shm", fix="run `tunefleet doctor`") from error
    _owned = True
    if cpus > cores:
        decisions += (f"a local Ray with {cpus} logical CPUs on {cores} cores, since {cpus_needed:g} are needed at once",)
    return Session(str(context.address_info["gcs_address"]), owned=True, decisions=decisions)


def _join(address: str) -> Session:
    """Connect to a running cluster."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    check_reachable(address)
    _check_token(address)
    sent = {"env_vars": WORKER_ENVIRONMENT, "py_modules": [str(Path(tunefleet.__file__).parent)]}
    environment = None if in_submitted_job(os.environ) else sent  # a submitted job brought both, and Ray refuses to be told twice
    try:
        context = ray.init(address=address, runtime_env=environment, log_to_driver=os.environ.get("TUNEFLEET_WORKER_OUTPUT") == "1", logging_level="ERROR")
    except Exception as error:
        raise PreflightError(
            "the cluster does not let us in",
            got=f"{address}: {_first_line(error)}",
            want="the same versions of Ray and Python, and a driver on one of the cluster's nodes",
            fix="compare the versions with `tunefleet doctor` on the head, or submit the run to the cluster",
        ) from error
    decisions = spot_warning(ray.get_runtime_context().get_node_labels())
    return Session(address, owned=False, dashboard=page_address(context.dashboard_url), decisions=decisions)


def spot_warning(labels: Mapping[str, str]) -> tuple[str, ...]:
    """What to say where this driver's own node, of these labels, may be taken away at any time: the run ends with its driver."""
    if not is_spot(labels):
        return ()
    return (f"this driver lives on a spot node ({MARKET}={labels[MARKET]}): when that is taken away the run ends; submit from an on-demand head",)


def is_spot(labels: Mapping[str, str]) -> bool:
    """Whether a node may be taken away by its cloud."""
    return labels.get(MARKET, "").lower() in ("spot", "preemptible")


def in_submitted_job(environment: Mapping[str, str]) -> bool:
    """Whether this process is the driver of a job that was submitted with its code, which Ray hands on to every worker."""
    try:
        found = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    except ValueError:
        return False
    return bool(found.get("runtime_env", {}).get("py_modules"))


def page_address(found: str | None) -> str:
    """The address of Ray's dashboard as a browser wants it; a local Ray of ours has none, and a head without ray[default] serves no page."""
    return found if found and "://" in found else f"http://{found}" if found else ""


def _check_token(address: str) -> None:
    """Refuse a missing or wrong token plainly: Ray itself retries for 15 s, says that it cannot connect, and with no token at all aborts the process."""
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]  # made in C++
    from ray.exceptions import AuthenticationError, RpcError

    want = "the token of that cluster, in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
    fix = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE; `ray get-auth-token` on the head prints it"
    on = maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if on and not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        raise PreflightError("the cluster's token is missing", got=f"{address}, and RAY_AUTH_MODE=token without a token", want=want, fix=fix)
    if address in ("auto", "local"):
        return
    try:
        GcsClient(address=address)
    except AuthenticationError as error:
        raise PreflightError("the cluster refuses the token", got=f"{address}, with {'a wrong' if on else 'no'} token", want=want, fix=fix) from error
    except RpcError as error:
        raise PreflightError(
            "what answers there is no Ray cluster", got=f"{address}: {_first_line(error)}", want="host:port of a running head node", fix="check the port"
        ) from error


def check_reachable(address: str) -> None:
    """Refuse an address where nothing listens, in seconds rather than Ray's minute."""
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise PreflightError("this address is of a kind that a run cannot use", got=address, want="host:port of the cluster's head (6379 by default), or auto")
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except (OSError, ValueError) as error:
        raise PreflightError(
            "no Ray cluster answers there", got=f"{address}: {error}", want="host:port of a running head node", fix="check the address and the network"
        ) from error


def _check_gpus(session: Session, needed: float) -> None:
    """A local Ray cannot grow, so GPUs that it lacks would be waited for in vain."""
    have = session.resources().get("GPU", 0.0)
    if session.owned and needed > have:
        raise PreflightError("this machine has too few GPUs", got=f"{have:g}", want=f"{needed:g}", fix="set scaling.use_gpu to false, or use --address")


def _leave() -> None:
    import ray

    global _owned
    _owned = False
    ray.shutdown()


@contextmanager
def _terminated_by_exit() -> Iterator[None]:
    """Let SIGTERM raise SystemExit(143) in the main thread, so that ``finally`` blocks run; in a ``graceful`` block the first one only asks.

    Ray's own handler, set while it starts, writes a stack trace and aborts. So this is set after it, and the one from before Ray is not known here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    code = 128 + signal.SIGTERM
    received = False

    def leave(number: int, frame: Any) -> None:
        nonlocal received
        if asked_first():
            return
        received = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one must not cut the clean-up short
        sys.exit(code)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        if received:  # Ray forgets the code on the way out of ray.get
            sys.exit(code)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def usable_cores() -> int:
    """Cores that this process may run on, a container's limit included."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
