"""Reading ahead: the shards of the coming positions are fetched, checked and opened in the background, so that no step waits for them."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tunefleet.cluster.errors import StorageError

if TYPE_CHECKING:
    from tunefleet.data.order import Course


class Shards(Protocol):
    """The shards of a split, or of several as one, as far as they are opened ahead."""

    def open_ahead(self, number: int, *, wait: bool) -> bool:
        """Open a shard that is not needed yet; whether it is open now."""
        ...

    def let_go(self, needed: Collection[int]) -> None:
        """Close all but these."""
        ...


def coming(course: Course, shard_rows: list[int], epoch: int, position: int, count: int) -> list[int]:
    """The shards of the next ``count`` positions, also of the epochs that follow: each once, in the order of first need."""
    ids = []
    while count > 0:
        stop = min(position + count, course.rows)
        ids.append(course.at(epoch, position, stop))
        count, epoch, position = count - (stop - position), epoch + 1, 0
    shards = np.searchsorted(list(accumulate(shard_rows)), np.concatenate(ids), side="right")
    numbers, first = np.unique(shards, return_index=True)
    return [int(number) for number in numbers[np.argsort(first)]]


class ReadAhead:
    """Keeps the shards of the next window's worth of rows open; what lies behind is let go of. ``at`` says where the reader stands."""

    def __init__(self, shards: Shards, shard_rows: list[int], course: Course, window: int) -> None:
        self._shards, self._shard_rows, self._course = shards, shard_rows, course
        self._count = min(-(-sum(shard_rows) * window // len(shard_rows)), sum(shard_rows))
        self._place = -1

    def at(self, epoch: int, position: int) -> None:
        """The reader is about to read this position. Returns at once, and does nothing where little has changed."""
        place = epoch * self._course.rows + position
        if self._place < 0 or not 0 <= place - self._place < max(1, self._count // 4):
            self._place = place
            self._thread.submit(self._read, place)

    def _read(self, place: int) -> None:
        """Open what comes: first what nobody is fetching, so that the ranks of a node share the work, then the rest.

        What goes wrong here goes wrong again when the shard is needed, and is raised there.
        """
        if place != self._place:
            return
        needed = coming(self._course, self._shard_rows, *divmod(place, self._course.rows), self._count)
        self._shards.let_go(needed)
        for wait in (False, True):
            for number in needed:
                if place != self._place or not threading.main_thread().is_alive():
                    return  # the reader has gone on, or the process ends
                try:
                    self._shards.open_ahead(number, wait=wait)
                except StorageError:
                    return

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
