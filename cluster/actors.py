"""Ray actors that keep something heavy, a model, between pieces of work. The driver makes them; one that dies is started again and its piece done anew."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunefleet.cluster.errors import WorkerError

RETRIES = 2
"""How often a piece is begun again whose actor died. What the work itself raises is raised at once."""
_AHEAD = 2  # pieces that an actor has at once, so that it never waits for the driver


@dataclass(frozen=True)
class Actors:
    """Actors and their names. They live as long as their handles, here in the driver."""

    names: tuple[str, ...]
    handles: tuple[Any, ...]

    def close(self) -> None:
        """End them all, for good."""
        import ray

        for handle in self.handles:
            ray.kill(handle, no_restart=True)


def create_actors(kind: type, count: int, *arguments: Any, stem: str, cpu: float, gpu: float) -> Actors:
    """Make actors in the Ray session of this process, and return at once: whatever their class loads, it should load when it is first asked."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    stem = f"{stem}-{secrets.token_hex(4)}"
    names = tuple(f"{stem}-{i}" for i in range(count))
    remote = ray.remote(kind)
    how: dict[str, Any] = {"num_cpus": cpu, "num_gpus": gpu, "max_restarts": -1, "max_task_retries": RETRIES}
    how["scheduling_strategy"] = PlacementGroupSchedulingStrategy(None)  # a trial of Ray Tune has a placement group with no room for them
    return Actors(names, tuple(remote.options(name=name, **how).remote(*arguments) for name in names))


def restarted() -> str | None:
    """In an actor: its name, when Ray has started it again after a death."""
    import ray

    context = ray.get_runtime_context()
    return str(context.get_actor_name()) if context.was_current_actor_reconstructed else None


def spread(actors: Actors, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Have the ``do`` of every actor called with items, each actor as fast as it can; yield (number of the item, result) as they come.

    An actor gets its first item when it lives: one that finds no room in the cluster keeps nobody waiting while there is another. One that has nothing
    left to do takes an item that one other is still at, and the first result counts: that other may have gone with its node, and find no room again.
    Raises what ``do`` raised, and WorkerError for a piece whose actors died time and again.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    fresh = iter(range(len(items)))
    left = set(range(len(items)))
    waiting: dict[Any, tuple[int, Any]] = {}
    starting = {actor.__ray_ready__.remote(): actor for actor in actors.handles}

    def hand(actor: Any) -> None:
        number = next(fresh, None)
        if number is None and all(other is not actor for _, other in waiting.values()):
            held = Counter(one for one, _ in waiting.values())
            number = next((one for one in reversed(held) if one in left and held[one] == 1), None)  # the last is the least begun
        if number is not None:
            waiting[actor.do.remote(items[number])] = (number, actor)

    while left:
        (reference,), _ = ray.wait([*waiting, *starting], num_returns=1)
        new = starting.pop(reference, None)
        number, actor = (-1, new) if new is not None else waiting.pop(reference)
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            if new is None and (number not in left or any(one == number for one, _ in waiting.values())):
                continue  # another has done it, or is at it
            raise WorkerError(
                "an actor does not start" if new is not None else f"piece {number + 1} of {len(items)} could not be done",
                got=f"its actor died {RETRIES + 1} times: {str(error).splitlines()[0]}",
                want="an actor that lives",
                fix="look for a lack of memory; fewer actors or a smaller batch need less",
            ) from error
        first = number in left
        left.discard(number)
        for _ in range(_AHEAD if new is not None else 1):
            hand(actor)
        if first:
            yield number, result
