"""The coming step is made while the current one runs: one and no more, its errors at the step that they belong to, and a clean end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tunefleet.data.layout import Record
from tunefleet.data.stream import Round
from tunefleet.trainers.upcoming import Upcoming

CPU = torch.device("cpu")


class Steps:
    """Step n has n + 1 rounds of one record. ``made`` tells which have been asked for; ``broken`` cannot be made."""

    def __init__(self, *, settled: bool = True, broken: int = -1) -> None:
        self.settled, self.broken = settled, broken
        self.made: list[int] = []
        self.asked = threading.Event()

    def take(self, step: int) -> list[Round]:
        self.made.append(step)
        self.asked.set()
        if step == self.broken:
            raise OSError(f"step {step} cannot be read")
        return [Round([Record(10 * step + i, {"ids": np.arange(i + 1)})], real=True) for i in range(step + 1)]


def collate(records: Sequence[Record]) -> dict[str, torch.Tensor]:
    return {"id": torch.tensor([record.id for record in records])}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("upcoming-step")]


@pytest.mark.parametrize("settled", [True, False])
def test_every_step_is_what_its_number_says(settled: bool) -> None:
    steps = Steps(settled=settled)
    with Upcoming(steps, collate, CPU, 5) as upcoming:
        for step in range(2, 5):
            rounds, batches = upcoming.take(step)
            assert [r.records[0].id for r in rounds] == [int(batch["id"]) for batch in batches] == [10 * step + i for i in range(step + 1)]
    assert steps.made == [2, 3, 4], "each once, and none beyond the last"


def test_the_next_step_and_no_more_is_made_while_one_runs() -> None:
    steps = Steps()
    with Upcoming(steps, collate, CPU, 9) as upcoming:
        for step in range(3):
            upcoming.take(step)
            steps.asked.clear()
            assert step + 1 in steps.made or steps.asked.wait(60), "nobody has asked for it"
    assert steps.made == [0, 1, 2, 3]


def test_a_step_that_depends_on_the_weights_is_made_when_it_is_taken() -> None:
    steps = Steps(settled=False)
    with Upcoming(steps, collate, CPU, 9) as upcoming:
        upcoming.take(0)
        assert not threads()
    assert steps.made == [0]


def test_what_goes_wrong_is_raised_at_its_own_step() -> None:
    steps = Steps(broken=2)
    with Upcoming(steps, collate, CPU, 9) as upcoming:
        assert len(upcoming.take(0)[0]) == 1
        assert len(upcoming.take(1)[0]) == 2
        with pytest.raises(OSError, match="step 2 cannot be read"):
            upcoming.take(2)
    assert steps.made == [0, 1, 2]


def test_a_run_that_stops_before_a_broken_step_does_not_hear_of_it_and_no_thread_is_left() -> None:
    with Upcoming(Steps(broken=1), collate, CPU, 9) as upcoming:
        upcoming.take(0)
    assert not threads()
