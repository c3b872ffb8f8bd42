"""Whether this machine or cluster can carry a run, asked before anything is spent. Every check returns problems as values; importing nothing heavy."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tunefleet.cluster.errors import PreflightError, RequestError, StorageError
from tunefleet.cluster.storage import Storage, open_storage

STACK = {
    "ray": ("2.60", "3"),
    "torch": ("2.10", ""),
    "deepspeed": ("0.19.3", "0.20"),
    "transformers": ("5.20", "6"),
    "peft": ("0.21", "0.22"),
    "pyarrow": ("22", ""),
    "safetensors": ("0.6", ""),
}
"""Supported versions: from the first, below the second. The same ranges as in pyproject.toml; a test compares them."""

_CODE_FROM_ARROW = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
_LEAST_SHM_BYTES = 256 << 20


def preflight(output: str | None = None, *, environment: Mapping[str, str] = os.environ) -> list[RequestError]:
    """Every problem of this machine: versions, the environment, shared memory, and the output folder when one is given."""
    problems: list[RequestError] = [*version_problems(), *environment_problems(environment), *memory_problems()]
    if output is not None:
        problems += storage_problems(open_storage(output))
    return problems


def version_problems(stack: Mapping[str, tuple[str, str]] = STACK) -> list[RequestError]:
    """Packages that are missing or outside the supported range."""
    return [problem for name, (least, below) in stack.items() if (problem := _version_problem(name, least, below))]


def environment_problems(environment: Mapping[str, str]) -> list[RequestError]:
    """Settings of the environment under which reading data would run code that the data brings along (CVE-2026-41486)."""
    value = environment.get(_CODE_FROM_ARROW, "")
    if value.lower() in ("", "0", "false"):
        return []
    return [PreflightError(f"{_CODE_FROM_ARROW} is on", got=value, want="off: with it, opening an Arrow file runs code from that file", fix="unset it")]


def memory_problems(path: Path = Path("/dev/shm")) -> list[RequestError]:  # noqa: S108 - it is looked at, nothing is put there
    """Too little shared memory for Ray's object store. Where there is no such folder, as on macOS, there is no problem."""
    if not path.is_dir():
        return []
    total = shutil.disk_usage(path).total
    if total >= _LEAST_SHM_BYTES:
        return []
    want = f"at least {_LEAST_SHM_BYTES >> 20} MiB"
    return [PreflightError("too little shared memory", got=f"{path} has {total >> 20} MiB", want=want, fix="start the container with --shm-size=1g")]


def storage_problems(storage: Storage) -> list[RequestError]:
    """Whether the output can be written: one small file is put there and removed again."""
    probe = f"probe-{uuid.uuid4().hex}"
    try:
        storage.put(probe, b"x")
        storage.delete(probe)
    except StorageError as error:
        return [PreflightError(f"output: cannot be written: {error.what}", got=error.got, want=error.want, fix=error.fix)]
    return []


def resource_problems(
    *,
    workers: int,
    cpus_per_worker: int,
    use_gpu: bool,
    actors: int,
    actor_cpu: float,
    actor_gpu: float,
    available: Mapping[str, float],
    local: bool,
) -> list[RequestError]:
    """Sums that can never be scheduled: Ray would wait for them for ever.

    ``available``: what the cluster has in all, by Ray's names. ``local``: logical CPUs grow with the need, so only GPUs can be too few.
    """
    need = {"CPU": workers * cpus_per_worker + actors * actor_cpu, "GPU": (workers if use_gpu else 0) + actors * actor_gpu}
    problems: list[RequestError] = []
    for name, amount in need.items():
        have = available.get(name, 0.0)
        if amount <= have or (local and name == "CPU"):
            continue
        each = (f"{cpus_per_worker}", f"{actor_cpu:g}") if name == "CPU" else (f"{int(use_gpu)}", f"{actor_gpu:g}")
        parts = f"{workers} workers with {each[0]} each" + (f" and {actors} evaluation actors with {each[1]} each" if actors else "")
        fix = "set scaling.use_gpu to false, or ask for fewer" if name == "GPU" else "lower scaling.num_workers or scaling.cpus_per_worker"
        problems.append(
            PreflightError(
                f"scaling: {name}s that can never be had",
                got=f"{amount:g} {name}s asked for: {parts}",
                want=f"at most {have:g}, all that {'this machine' if local else 'the cluster'} has",
                fix=fix + (", or set evaluation.placement to inline" if actors else ""),
            )
        )
    return problems


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match.group().split("."))) if match else ()


def supported(found: str, least: str, below: str) -> bool:
    """Whether a version lies in [least, below); an empty bound is none."""
    return numbers(found) >= numbers(least) and (not below or numbers(found) < numbers(below))


def _version_problem(name: str, least: str, below: str) -> PreflightError | None:
    want = f">={least}" + (f",<{below}" if below else "")
    try:
        found = version(name)
    except PackageNotFoundError:
        return PreflightError(f"{name} is not installed", want=want, fix=f'pip install "{name}{want}"')
    if supported(found, least, below):
        return None
    return PreflightError(f"{name}: this version is not supported", got=found, want=want, fix=f'pip install "{name}{want}"')
