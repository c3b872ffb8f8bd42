"""ASHA live over the recorded grid, two trials of two workers at a time: what `tunefleet tune` found and spent against the grid, and what it left.

    python benchmarks/study_live.py KEEP         an hour on two busy cores; the study stays in the folder KEEP; writes benchmarks/results/<date>-study-live.json

The configurations, the rows and the model are those of `benchmarks/study_record.py`, whose newest record the outcome is compared with. Steps and losses are
what counts, not times. The command runs inside a session of Ray that outlives it by a moment, so that what it left there can be counted; then in a session of
processes of its own, of which none may be left. KEEP/study goes on where it was cut when the same folder is given again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from recording import RESULTS, machine, save, show
from study_record import EVERY, SPACE, STEPS, run_file

from tunefleet.cluster.metrics import read_lines
from tunefleet.cluster.storage import open_storage
from tunefleet.tuning.keeper import counted
from tunefleet.tuning.lines import last_lines, read_trials
from tunefleet.tuning.standings import best_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # their own way to look for processes
from processes import of_session, until

ABREAST, WORKERS = 2, 2
LEFT = "left.json"  # in KEEP: what the command left in its session of Ray


def study_file(folder: Path, steps: int) -> dict[str, Any]:
    """The study, over the run of `study_record.py` on two workers."""
    first = {key: axis.values[0] for key, axis in SPACE.items()}
    run = run_file(folder, first, "unused", steps).model_dump(mode="json")
    run["scaling"]["num_workers"], run["zero"]["stage"] = WORKERS, 2
    run["checkpoint"] = {"every_steps": 60, "keep": 1}
    return {
        "name": "asha-live",
        "run": run,
        "space": {key: {"choice": list(axis.values)} for key, axis in SPACE.items()},
        "searcher": {"kind": "grid", "seed": 0},
        "stopper": {"kind": "asha", "grace_steps": EVERY, "reduction_factor": 3},
        "budget": {"concurrent_trials": ABREAST},
        "output": str(folder / "study"),
    }


def tune(folder: Path) -> int:
    """Run the command in a session of Ray, and write what it left there."""
    import ray
    from ray._private.state import actors

    from tunefleet.cluster.leftovers import holding
    from tunefleet.cluster.session import connect
    from tunefleet.tuning.cli import main as tunefleet

    with connect(None, cpus_needed=ABREAST * WORKERS) as session:
        code = tunefleet(["tune", str(folder / "study.yaml"), "--resume=auto"])
        whole = session.resources()["CPU"]
        until(lambda: ray.available_resources().get("CPU", 0.0) >= whole, timeout_s=240)
        alive = [actor["ActorClassName"] for actor in actors().values() if actor["State"] != "DEAD"]
        (folder / LEFT).write_text(json.dumps({"placement_groups": holding(), "actors": alive, "cpus_held": whole - ray.available_resources()["CPU"]}))
    return code


def measured(folder: Path, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the study came to, and beside it the record of the grid."""
    source = max(RESULTS.glob("*-study-record.json"))
    record = json.loads(source.read_text())
    last = str(steps)
    recorded = {json.dumps(one["parameters"], sort_keys=True): one["losses"][last] for one in record["trials"]}
    lines = last_lines(read_trials(open_storage(str(folder / "study"))))
    best = best_of(lines, "loss", "min", repeats=1)
    assert best is not None
    found, grid_best, spent = best.metrics["loss"], min(recorded.values()), sum(line.compute["steps"] for line in lines.values())
    same = json.dumps(dict(best.parameters), sort_keys=True)
    outcome = {
        "best": {"parameters": dict(best.parameters), "loss": found, "recorded": recorded[same]},
        "grid_best": grid_best,
        "over_best": found / grid_best - 1,
        "steps": spent,
        "grid_steps": steps * len(recorded),
        "share_of_steps": spent / (steps * len(recorded)),
        "trials": counted(lines),
    }
    each = [{"parameters": dict(one.parameters), "status": one.status, "step": one.step, "loss": one.metrics.get("loss")} for one in lines.values()]
    return outcome, {"record": source.name, "workers": WORKERS, "abreast": ABREAST, "trials_each": each}


def main() -> None:
    """Run, look, write, show."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, metavar="KEEP", help="where the study is kept")
    options.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a whole trial, one of those at which the record was evaluated")
    options.add_argument("--tune", action="store_true", help=argparse.SUPPRESS)
    chosen, began = options.parse_args(), machine()
    folder = chosen.folder.resolve()
    if chosen.tune:
        sys.exit(tune(folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study_file(folder, chosen.steps), sort_keys=False))
    driver = subprocess.Popen([sys.executable, __file__, str(folder), "--tune"], start_new_session=True)
    if code := driver.wait():
        sys.exit(code)
    until(lambda: not of_session(driver.pid), timeout_s=240)
    outcome, about = measured(folder, chosen.steps)
    left = {**json.loads((folder / LEFT).read_text()), "processes": of_session(driver.pid)}
    events = read_lines(open_storage(str(folder / "study")), "events.jsonl")
    minutes = round((events[-1]["time"] - events[0]["time"]) / 60, 1)
    path = save("study-live", {"steps_each": chosen.steps, **outcome, "left": left, "minutes": minutes, **about}, began)
    rows = [[key, json.dumps(value)] for key, value in {**outcome, "left": left}.items()]
    show(f"27 configurations live, {ABREAST} trials at a time, {WORKERS} workers each ({path.name})", ["what", "found"], rows)


if __name__ == "__main__":
    main()
