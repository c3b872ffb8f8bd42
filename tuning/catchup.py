"""What the outputs of a cut study say beyond trials.jsonl: its driver was killed before it could write that down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.trainers.evaluation.files import read_results
from tunefleet.trainers.launch import result_of
from tunefleet.trainers.manifest import newest_step
from tunefleet.trainers.stage import DONE
from tunefleet.tuning.goal import STEP
from tunefleet.tuning.lines import FINISHED, TrialLine, unfinished
from tunefleet.tuning.trial import TRIAL


def missing_lines(lines: Iterable[TrialLine]) -> list[TrialLine]:
    """Lines for what is true of the trials that were running: evaluations that stand, and runs that are done. They are to follow the lines there are."""
    return [found for line in unfinished(lines) for found in _of_trial(line)]


def _of_trial(line: TrialLine) -> Iterator[TrialLine]:
    output = open_storage(line.output)
    done = output.exists(DONE)
    kept = newest_step(output)
    for content in read_results(output):
        if line.step < content[STEP] and (done or content[STEP] <= kept):  # what lies beyond the checkpoint is done anew
            line = replace(line, step=content[STEP], metrics=content["tuned"], time=time.time())
            yield line
    if done:
        found = result_of(line.output).evaluation
        ended = replace(line, step=found[STEP], metrics=found["tuned"]) if found else line
        yield replace(ended, status=FINISHED, compute=_compute(output, line), time=time.time())


def _compute(output: Storage, line: TrialLine) -> dict[str, float]:
    """What the trial cost, as far as it is known: the last start's share where that could still say it."""
    known = {key: float(value) for key, value in line.compute.items()}
    if known or not output.exists(TRIAL):
        return known
    cost: dict[str, float] = json.loads(output.read(TRIAL))["cost"]
    return cost
