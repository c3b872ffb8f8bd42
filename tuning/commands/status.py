"""How a run or a study stands, read from its output alone; no cluster is asked."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.printing import print_json, print_table, print_text

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage

VERB = Verb(
    subject="OUTPUT",
    subject_help="the output of a run or a study: a folder or s3://bucket/prefix",
    options=(Option("--json", "print it as JSON on stdout"),),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Print it; 0 also where the run has failed: that is how it stands."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.tuning.study import STUDY

    storage = open_storage(options.subject)
    told = study_status(storage) if storage.exists(STUDY) else run_status(storage, time.time())
    if options.json:
        print_json(told)
        return 0
    print_text(told["said"])
    rows = [(key.replace("_", " "), str(value)) for key, value in told.items() if key != "said" and value not in (None, "", {}, [])]
    print_table(str(storage.address), ("what", "is"), rows)
    return 0


def run_status(storage: Storage, now: float) -> dict[str, Any]:
    """Where a run stands at ``now``, seconds since 1970. Raises OutputError where there is none."""
    from tunefleet.cluster.lease import holder
    from tunefleet.trainers.output import LEASE
    from tunefleet.trainers.report.gather import gather
    from tunefleet.trainers.report.standing import result, standing, verdict

    found = gather(storage, now)
    where, said = standing(found), verdict(found)
    line = found.metrics[-1] if found.metrics else {}
    saved = [event.get("step") for event in found.all_of("checkpoint_complete") if event.get("optimizer")]
    return {
        "said": f"{said.said} {said.why}".strip(),
        "name": found.run.get("name"),
        "state": where.kind,
        "step": where.step,
        "steps": where.steps,
        "loss": line.get("loss"),
        "tokens_per_second": line.get("tokens_per_second"),
        "checkpoint_step": saved[-1] if saved else None,
        "evaluation": result(found).get("tuned"),
        "restarts": len(found.all_of("group_failed")),
        "held_by": _held_by(holder(storage, LEASE)),
        "unread": list(found.unread),
    }


def study_status(storage: Storage) -> dict[str, Any]:
    """Where a study stands: its trials by state, and the best of them. A trial's last line counts."""
    from tunefleet.cluster.lease import holder
    from tunefleet.cluster.metrics import read_lines
    from tunefleet.tuning.lines import TRIALS
    from tunefleet.tuning.study import BEST, LEASE

    trials = {line["id"]: line for line in read_lines(storage, TRIALS) if "id" in line}
    states = Counter(str(trial.get("status")) for trial in trials.values())
    said = f"{len(trials)} trials: {', '.join(f'{number} {state}' for state, number in states.most_common())}." if trials else "No trial has begun yet."
    best = BEST if storage.exists(BEST) else None
    return {"said": said, "trials": dict(states), "best": best, "held_by": _held_by(holder(storage, LEASE))}


def _held_by(held: Mapping[str, Any] | None) -> str | None:
    return f"{held['holder']} on {held['host']}, process {held['pid']}" if held else None
