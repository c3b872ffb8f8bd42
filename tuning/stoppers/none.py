"""No stopper: every trial runs to its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler


class Never:
    """Stops nothing."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["none"] = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        """None."""
        yield from ()

    def scheduler(self, goal: Goal) -> TrialScheduler:
        """First in, first out."""
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()

    def why(self) -> str:
        """Never said."""
        return "no reason"
