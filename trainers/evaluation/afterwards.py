"""What a run's suite says of its weights, once the run is done and its workers have let go of what they held."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tunefleet.trainers.evaluation.files import SUITE, digest, read_suite, write_suite
from tunefleet.trainers.evaluation.paired import MODELS
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.stage import read_done

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.trainers.run import RunFile


def score_suite(run: RunFile, storage: Storage, say: Callable[[str], None], *, alone: bool) -> None:
    """Write ``evaluation/suite.json``, unless it is there for the same weights, or the run has no suite.

    ``alone``: on this machine, so in this process unless the suite names actors; else by one actor of the cluster, or as many as it names. The run is done by
    then: what goes wrong is an event, and spoils nothing of it.
    """
    given, events = run.evaluation.suite, Events(storage)
    if given is None:
        return
    name = given if isinstance(given, str) else str(given.get("name", "suite"))
    if storage.exists(SUITE):
        if read_suite(storage).get("checkpoint") == digest(storage, read_done(storage)["weights"]):
            return
        storage.delete(SUITE)  # of weights that were trained on since
    from tunefleet.trainers.evaluation.standalone import evaluate
    from tunefleet.trainers.evaluation.suite import load_suite

    try:
        with events.during("suite", "evaluation", "finishing", suite=name):
            suite = load_suite(given)
            found = evaluate(run.output, run, suite=suite, actors=suite.actors or (0 if alone else 1), say=say)
            write_suite(storage, found)
    except Exception as error:  # noqa: BLE001 - the run is done, whatever a model or a stranger's code raises now
        events.add("suite_failed", phase="finishing", suite=name, error=f"{type(error).__name__}: {error}".splitlines()[0])
        return
    general = {name: part for name, part in found["sets"].items() if part.get("general")}
    kept = {name: {model: {metric: one["value"] for metric, one in part[model].items()} for model in MODELS} for name, part in general.items()}
    events.add("suite_scored", suite=name, tuned=found["tuned"], base=found["base"], general=kept)
