"""What the outputs of a cut study say beyond trials.jsonl: its driver was killed before it could write that down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.files import by_set, read_results
from tunefleet.trainers.launch import result_of
from tunefleet.trainers.ledger import read_events
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.stage import DONE
from tunefleet.tuning.goal import STEP, numbers
from tunefleet.tuning.lines import FINISHED, RUNNING, STOPPED, TrialLine, last_lines, never_less
from tunefleet.tuning.trial import cost_since


def missing_lines(lines: Sequence[TrialLine], metric: str) -> list[TrialLine]:
    """Lines for what is true of trials that ran or were being stopped: what they cost, evaluations that stand, and runs that are done.

    They are to follow the lines there are. ``metric``: what trials are compared by.
    """
    found: list[TrialLine] = []
    for line in last_lines(lines).values():
        if line.status in (RUNNING, STOPPED):
            output = open_storage(line.output)
            cost = _cost(output, [one for one in lines if one.id == line.id])
            found += _of_trial(output, line, cost, metric) if line.open else _with_cost(line, cost)
    return found


def _of_trial(output: Storage, line: TrialLine, cost: Mapping[str, float], metric: str) -> Iterator[TrialLine]:
    done = output.exists(DONE)
    kept = newest_step(output)
    for content in read_results(output):
        if line.step < content[STEP] and (done or content[STEP] <= kept):  # what lies beyond the checkpoint is done anew
            line = replace(line, step=content[STEP], metrics=numbers(content, by_set(content), metric), time=time.time())
            yield line
    if done:
        found = result_of(line.output).evaluation
        ended = replace(line, step=found[STEP], metrics=numbers(found, by_set(found), metric)) if found else line
        yield replace(ended, status=FINISHED, why="", cut=False, compute=cost, time=time.time())
    else:
        yield from _with_cost(line, cost)


def _with_cost(line: TrialLine, cost: Mapping[str, float]) -> Iterator[TrialLine]:
    if cost != line.compute:
        yield replace(line, compute=cost, time=time.time())


def _cost(output: Storage, lines: Sequence[TrialLine]) -> dict[str, float]:
    """What a trial has cost by all its lines: up to its last start by trials.jsonl, since then by what its run wrote; never less than was known."""
    start = max((event["time"] for event in read_events(output) if event["event"] == "started"), default=None)
    if start is None:
        return dict(lines[-1].compute)
    before = next((line.compute for line in reversed(lines) if line.time <= start), {})
    return never_less(lines[-1].compute, before, cost_since(output, start))
