"""The batches of the coming step, assembled by one thread while the current step is computed, so that no step waits for rows to be read and padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    import torch

    from tunefleet.data.layout import Record
    from tunefleet.data.stream import Round
    from tunefleet.trainers.objective import Batch

    Step = tuple[list[Round], list[Batch]]


class Source(Protocol):
    """What the loop reads from: the stream of shards, or the rollouts of an online method."""

    @property
    def settled(self) -> bool:
        """Whether a step can be read before the one before it is done: it does not depend on the weights."""
        ...

    def take(self, step: int) -> list[Round]:
        """This rank's rounds of a step; equally many on every rank."""
        ...


class Upcoming:
    """Rounds and their batches, step after step. While one is computed the next is made, and never more than the next.

    A step is a function of its number alone, so what was made ahead and is never taken (the run stops, or dies) leaves no trace. ``device``: pages that
    are to be copied to a GPU are locked here, so that the copy need not wait. To be used in a ``with``: its end ends the thread.
    """

    def __init__(self, source: Source, collate: Callable[[Sequence[Record]], Batch], device: torch.device, steps: int) -> None:
        self._source, self._collate, self._steps = source, collate, steps
        self._lock_pages = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="upcoming-step")
        self._ahead: tuple[int, Future[Step]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is waited for where the run has failed: a fetch of shards may take its time."""
        self._thread.shutdown(wait=kind is None, cancel_futures=True)

    def take(self, step: int) -> Step:
        """The rounds and batches of a step. What went wrong while they were made ahead is raised now, not at the step before."""
        ahead, self._ahead = self._ahead, None
        found = ahead[1].result() if ahead is not None and ahead[0] == step else self._make(step)
        if self._source.settled and step + 1 < self._steps:
            self._ahead = (step + 1, self._thread.submit(self._make, step + 1))
        return found

    def _make(self, step: int) -> Step:
        rounds = self._source.take(step)
        batches = [self._collate(r.records) for r in rounds]
        if self._lock_pages:
            batches = [{name: tensor.pin_memory() for name, tensor in batch.items()} for batch in batches]
        return rounds, batches
