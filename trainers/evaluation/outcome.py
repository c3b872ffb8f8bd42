"""What comes of one evaluation, whoever computed it, and what the watch asks of those who compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunefleet.trainers.evaluation.policy import Ticket

OnEvent = Callable[[str, dict[str, Any]], None]
"""Called with the kind of an event and its fields."""


@dataclass(frozen=True)
class Outcome:
    """The numbers of a ticket (the content of ``compare``), or why there are none. ``seconds`` is wall time of scoring and comparing.

    ``samples`` are the prompts of a samples file, or there is a ``samples_error``, which harms no number.
    """

    ticket: Ticket
    seconds: float
    comparison: Mapping[str, Any] | None = None
    error: str = ""
    samples: Sequence[Mapping[str, Any]] = ()
    samples_error: str = ""


class Placed(Protocol):
    """Evaluation at its place: actors beside the training, or the ranks themselves."""

    def begin(self, step: int) -> None:
        """Called once, on every rank that holds one, before training starts or goes on at ``step``."""
        ...

    def submit(self, ticket: Ticket) -> None:
        """Take weights to evaluate."""
        ...

    def wait(self, timeout_s: float) -> list[Outcome]:
        """What has come in since the last call, by step; waits at most this long for something, and not at all for 0."""
        ...

    def busy(self) -> bool:
        """Whether something was submitted that is neither in nor dropped."""
        ...

    def give_up(self, why: str) -> list[Outcome]:
        """Wait no longer for what is at work: an outcome with an error."""
        ...

    def names(self) -> set[str]:
        """Manifests that are still needed."""
        ...
