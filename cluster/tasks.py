"""Many small pieces of work, one function: done here, one after the other, or by the cores of a Ray cluster."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.session import connect

Common = TypeVar("Common")
Item = TypeVar("Item")
Done = TypeVar("Done")

RETRIES = 3
"""How often a piece is begun again whose process died, or that could not read or write. What is wrong with the work itself is raised at once."""
_unpacked: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {}  # what this process works with, by its hash
_AHEAD = 2  # pieces a core that wait in the cluster: enough that none idles, few enough that results do not pile up


class Tasks(Protocol):
    """Somewhere to have work done."""

    @property
    def cores(self) -> int:
        """How many pieces are done at once."""

    def run(self, function: Callable[[Common, Item], Done], common: Common, items: Sequence[Item]) -> Iterator[tuple[int, Done]]:
        """Yield (number of the item, its result) in whatever order they come. ``common`` is sent to a process once, not with every item.

        Raises what the function raised. Whoever stops iterating ends the rest.
        """


class Here:
    """This process."""

    cores = 1

    def run(self, function: Callable[[Common, Item], Done], common: Common, items: Sequence[Item]) -> Iterator[tuple[int, Done]]:
        """See Tasks; in order."""
        for number, item in enumerate(items):
            yield number, function(common, item)


class Cluster:
    """The cores of the Ray session of this process. The function and its arguments must pickle; what a process keeps of ``common`` is up to the function.

    Ray tasks and not a Ray Data pipeline: what flows is not rows but pieces of work of some megabytes whose results lie in the storage, so there is nothing for
    Ray Data to batch, shuffle or spill. With the same pieces it was no faster (benchmarks/data_prepare.py --ray-data, in turns in one run). Tasks give what
    a preparation needs besides: a result as soon as it is there, whatever its place; a retry for work that died and none for a bad row, whose error comes
    back as it was raised; and an end to the rest as soon as one is found.
    """

    @property
    def cores(self) -> int:
        """Logical CPUs that the cluster has now; it may grow while it works."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def run(self, function: Callable[[Common, Item], Done], common: Common, items: Sequence[Item]) -> Iterator[tuple[int, Done]]:
        """See Tasks."""
        import ray
        from ray.exceptions import RayTaskError

        remote = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=[OSError, StorageError])(_alone)
        packed = ray.cloudpickle.dumps((function, common))
        name, shared = hashlib.sha256(packed).hexdigest(), ray.put(packed)
        waiting: dict[Any, int] = {}
        numbers = iter(range(len(items)))
        try:
            while True:
                for number in numbers:
                    waiting[remote.remote(name, shared, items[number])] = number
                    if len(waiting) >= _AHEAD * self.cores:
                        break
                if not waiting:
                    return
                ready, _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready[0])
                try:
                    result = ray.get(ready[0])
                except RayTaskError as error:
                    raise error.cause from None
                yield number, result
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


@contextmanager
def cluster_tasks(address: str | None = None) -> Iterator[Tasks]:
    """The cores of a cluster, or of a Ray session of this machine that lasts as long as the block; one that this process has already is used."""
    with connect(address, cpus_needed=1):
        yield Cluster()


def _alone(name: str, packed: bytes, item: Any) -> Any:
    """A piece on one core: a library that would use all of them is told not to."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if name not in _unpacked:  # once a process: the tokenizer of a large vocabulary takes a second to unpickle
        from ray import cloudpickle

        _unpacked.clear()
        _unpacked[name] = cloudpickle.loads(packed)
    function, common = _unpacked[name]
    return function(common, item)
