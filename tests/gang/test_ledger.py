"""Real workers that are killed, 2, then 1, then 2 again: a ledger of what each optimizer step was computed from has every row of an epoch once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gangs import GangDiedError, gang
from runs import events, lines, make_stage, small_run, work

from tunefleet.data.store import Store

pytestmark = [pytest.mark.gang, pytest.mark.fault]


def work_with_ledger(stage: dict[str, Any], attempt: int, folder: str, rank_and_step: tuple[int, int] | None) -> None:
    """Write down the rows of every step whose update was made; kill one rank in the middle of a step, after its backward passes."""
    from tunefleet.trainers.engine import Engine
    from tunefleet.trainers.upcoming import Upcoming

    finish, take = Engine.step, Upcoming.take
    current: dict[str, Any] = {}

    def remember(self: Upcoming, step: int) -> Any:
        found = take(self, step)
        current.update(step=step, ids=[record.id for r in found[0] if r.real for record in r.records])
        return found

    def write(self: Engine, rate: float) -> Any:
        if current and rank_and_step == (self.world.rank, current["step"]):
            os.kill(os.getpid(), signal.SIGKILL)
        done = finish(self, rate)
        if current:  # the rehearsal has no step
            with Path(folder, f"{attempt}-{self.world.rank}.jsonl").open("a") as file:
                file.write(json.dumps({"attempt": attempt, **current}) + "\n")
        return done

    Upcoming.take, Engine.step = remember, write  # type: ignore[method-assign]
    work(stage, attempt)


def test_every_row_is_used_once_an_epoch_by_workers_that_are_killed_and_change_in_number(tmp_path: Path) -> None:
    run = small_run(tmp_path, training={"max_steps": 14}, checkpoint={"every_steps": 4}, evaluation={"every_steps": None}, export={"at_end": False})
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    groups: list[tuple[int, tuple[int, int] | None]] = [(2, (1, 6)), (1, (0, 10)), (2, None)]  # ranks, and who dies at which step
    for attempt, (ranks, dies) in enumerate(groups, start=1):
        scaled = run.model_copy(update={"scaling": run.scaling.model_copy(update={"num_workers": ranks})})
        call = (work_with_ledger, make_stage(scaled).to_json(), attempt, str(ledger), dies)
        if dies is None:
            gang(ranks, *call)
        else:
            with pytest.raises(GangDiedError):
                gang(ranks, *call)

    entries = [json.loads(line) for file in sorted(ledger.iterdir()) for line in file.read_text().splitlines()]
    sets: dict[int, dict[int, list[int]]] = {}
    for entry in entries:
        sets.setdefault(entry["step"], {}).setdefault(entry["attempt"], []).extend(entry["ids"])
    rows = Store.open(make_stage(run).store).split("train").rows
    steps = -(-rows // 7)
    assert sorted(sets) == list(range(14))
    assert 14 // steps >= 1
    assert any(len(done) == 2 for done in sets.values()), "something was done again"
    for done in sets.values():
        assert len({tuple(sorted(ids)) for ids in done.values()}) == 1, "a step that is done again is the same step"
    used = {step: sorted(done[max(done)]) for step, done in sets.items()}
    for epoch in range(14 // steps):
        assert Counter(row for step in range(epoch * steps, (epoch + 1) * steps) for row in used[step]) == Counter(range(rows))
    digests = [hashlib.sha256(np.asarray(used[step], "<i8").tobytes()).hexdigest()[:16] for step in range(14)]
    assert [line["examples"] for line in lines(run)] == digests, "the run's own record of its examples is true"
    assert [event["step"] for event in events(run) if event["event"] == "resumed"] == [4, 8]
