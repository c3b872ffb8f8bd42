"""Run a function on several gloo processes of this machine: a multi-process test is one function call.

    def totals(scale):                       # module level, in a test file
        world = World.join()
        return world.sum({"x": scale * world.rank})

    def test_sums_meet():
        assert gang(2, totals, 3.0) == [{"x": 3.0}, {"x": 3.0}]

The processes are forked from a server that has torch, transformers, deepspeed and peft imported already, so a gang costs well under a second
after the first; each gets the environment that this process has now, not the one of when the server began. What a rank raises is raised here,
with its own traceback as the cause; a rank that dies raises GangDiedError. An answer that does not come in its time does too, so no test hangs.
"""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing as mp
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = [
    "torch",
    "torch.distributed",
    "numpy",
    "safetensors.torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # DeepSpeed imports it at its first step, with all of dynamo
    "peft",
]


class GangDiedError(Exception):
    """A rank ended without an answer (killed, crashed), or the gang ran past its time."""

    def __init__(self, rank: int, exit_code: int | None, why: str = "") -> None:
        super().__init__(f"rank {rank} ended with exit code {exit_code}{why}")
        self.rank, self.exit_code = rank, exit_code


class RankTracebackError(Exception):
    """The traceback of a rank, as text: the cause of what is raised here."""


def gang(size: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """``function(*args)`` on ``size`` ranks that share a gloo process group; answers in the order of ranks.

    ``function`` is defined at module level; arguments and answers are pickled between these processes only.
    """
    context = _server()
    with tempfile.TemporaryDirectory(prefix="gang-") as folder:
        pipes, processes = [], []
        for rank in range(size):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(rank, size, folder, there, _Call.of(function, args)), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            processes.append(process)
        try:
            return _answers(pipes, processes, timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def process_of(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process that runs ``function(*args)`` by itself, in no gang; who asks for it ends it. See gang for the rest."""
    process = _server().Process(target=_alone, args=(_Call.of(function, args),), daemon=True)
    process.start()
    return process


@dataclass(frozen=True)
class _Call:
    """What a process is to do: the module and file of the function, the environment, function and arguments pickled."""

    module: str
    file: str
    environment: dict[str, str]
    pickled: bytes

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple[Any, ...]) -> _Call:
        file = inspect.getsourcefile(function)
        assert file is not None
        return cls(function.__module__, file, dict(os.environ), pickle.dumps((function, args)))

    def prepared(self) -> Callable[[], Any]:
        """The call, ready in the process that is to make it."""
        _import(self.module, self.file)
        function, args = pickle.loads(self.pickled)
        return partial(function, *args)


def _alone(call: _Call) -> None:
    os.environ.clear()
    os.environ.update(call.environment)
    call.prepared()()


def _answers(pipes: list[Connection], processes: list[Any], timeout: float) -> list[Any]:
    answers: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    while len(answers) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in answers}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise GangDiedError(min(waiting.values()), None, f": nothing heard for {timeout} s")
        for pipe in ready:
            rank = waiting[pipe]  # type: ignore[index]
            try:
                good, value, text = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                processes[rank].join()
                raise GangDiedError(rank, processes[rank].exitcode) from None
            if not good:
                raise value from RankTracebackError(f"on rank {rank}\n{text}")
            answers[rank] = value
    return [answers[rank] for rank in range(len(pipes))]


def _server() -> Any:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _rank(rank: int, size: int, folder: str, pipe: Connection, call: _Call) -> None:
    os.environ.clear()
    os.environ.update(call.environment, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))
    try:
        import torch.distributed as dist

        function = call.prepared()
        dist.init_process_group("gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=size)
        answer = (True, function(), "")
        pickled = pickle.dumps(answer)
        dist.destroy_process_group()
    except BaseException as error:  # noqa: BLE001 - it is raised again in the test
        pickled = _pickled_error(error)
    pipe.send_bytes(pickled)


def _pickled_error(error: BaseException) -> bytes:
    text = traceback.format_exc()
    try:
        data = pickle.dumps((False, error, text))
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - an error that does not pickle still says what it was
        data = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), text))
    return data


def _import(name: str, file: str) -> None:
    """Import a test file under the name that it has in the test process (pytest's importlib mode puts its folder on no path)."""
    if name in sys.modules or _importable(name):
        return
    parts = name.split(".")
    for depth in range(1, len(parts)):  # pickle asks for the parents too
        sys.modules.setdefault(".".join(parts[:depth]), ModuleType(".".join(parts[:depth])))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
