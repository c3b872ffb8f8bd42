"""Contestants that take turns on one machine, so that its drift is fair to all: each lives in processes of its own and trains only when it is called.

A contestant is a function of a ``Gate`` and its work. It calls ``gate.stepped`` after every optimizer step; there it stands still while others have
their turn, so a loop that belongs to somebody else's trainer can be measured from a callback.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

READY_TIMEOUT_S = 600.0


@dataclass
class Turn:
    """What one rank did in one turn. ``useful``: tokens that are no padding; ``computed``: with padding. ``losses``: of each step, where it is told.

    ``cpu_seconds`` (of all its threads) tell how much of ``seconds`` others took: on an idle machine they are ``seconds`` times threads.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    useful: int = 0
    computed: int = 0
    losses: list[float] = field(default_factory=list)


class Gate:
    """A rank's end of the turns."""

    def __init__(self, pipe: Connection, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._pipe, self._left, self._turn, self._began = pipe, 0, Turn(), (0.0, 0.0)

    def open(self) -> None:
        """Everything is made: wait for the first turn. To be called once, before the first step."""
        self._pipe.send(None)
        self._wait()

    def count(self, useful: int, computed: int) -> None:
        """Tokens of a micro-batch."""
        self._turn.useful += useful
        self._turn.computed += computed

    def stepped(self, loss: float | None = None) -> None:
        """An optimizer step is done; at the end of the turn this waits for the next one. Ends the process after the last."""
        self._turn.steps += 1
        if loss is not None:
            self._turn.losses.append(loss)
        if self._turn.steps == self._left:
            self._turn.seconds, self._turn.cpu_seconds = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            self._pipe.send(asdict(self._turn))
            self._wait()

    def _wait(self) -> None:
        try:
            self._left = self._pipe.recv()
        except EOFError:  # the referee is gone
            self._left = 0
        if not self._left:
            os._exit(0)  # another's trainer is somewhere up the stack, and has nothing to finish
        self._turn, self._began = Turn(), (time.perf_counter(), time.process_time())


class Contestant:
    """The ranks of one contestant, seen from the referee."""

    def __init__(self, name: str, function: Callable[..., None], work: Any, *, ranks: int, threads: int, folder: Path) -> None:
        self.name = name
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the new process starts
        context = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(ranks):
            here, there = context.Pipe()
            process = context.Process(target=_live, args=(there, rank, ranks, threads, str(folder / f"{name}.store"), function, work), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            if not pipe.poll(READY_TIMEOUT_S):
                raise TimeoutError(f"{name} did not become ready in {READY_TIMEOUT_S} s")
            pipe.recv()

    def turn(self, steps: int) -> Turn:
        """So many optimizer steps: tokens summed over ranks, seconds of the slowest, losses of rank 0."""
        for pipe in self._pipes:
            pipe.send(steps)
        found = [Turn(**pipe.recv()) for pipe in self._pipes]
        return Turn(
            seconds=max(t.seconds for t in found),
            cpu_seconds=sum(t.cpu_seconds for t in found),
            steps=steps,
            useful=sum(t.useful for t in found),
            computed=sum(t.computed for t in found),
            losses=found[0].losses,
        )

    def close(self) -> None:
        """End its processes."""
        for pipe in self._pipes:
            pipe.send(0)
        for process in self._processes:
            process.join()


@contextmanager
def contest(entries: Sequence[tuple[str, Callable[..., None], Any]], *, ranks: int = 1, threads: int = 2) -> Iterator[list[Contestant]]:
    """Start every (name, function, work), one after the other; ``threads`` a rank."""
    with TemporaryDirectory(prefix="turns-") as folder:
        contestants = [Contestant(name, function, work, ranks=ranks, threads=threads, folder=Path(folder)) for name, function, work in entries]
        try:
            yield contestants
        finally:
            for contestant in contestants:
                contestant.close()


def rounds(contestants: Sequence[Contestant], *, rounds: int, steps: int, warmup: int) -> dict[str, list[Turn]]:
    """Every contestant's turns, by name: in each round all have one, in turning order, so that none always follows the same other."""
    for contestant in contestants:
        contestant.turn(warmup)
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            turns[contestant.name].append(contestant.turn(steps))
    return turns


def _live(pipe: Connection, rank: int, ranks: int, threads: int, store: str, function: Callable[..., None], work: Any) -> None:
    os.environ.update(DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # trainers print as they go; the tables are the referee's
    import torch

    torch.set_num_threads(threads)
    function(Gate(pipe, rank, ranks), work, store)
