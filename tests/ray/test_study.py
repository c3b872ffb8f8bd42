"""A study on Ray: two workers a trial, two trials at a time; one is stopped, one fails, the others finish, and nothing that holds resources is left."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from livestudies import RATE, small_study, trial_events, trial_lines, trials
from processes import contents, until
from raymetadata import metadata
from s3server import CANARY

from tunefleet.cluster.environment import variables
from tunefleet.cluster.storage import open_storage

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def before(ray_session: Any) -> tuple[set[str], float]:
    """What other tests of the session hold: placement groups, and the CPUs that are left."""
    import ray

    from tunefleet.cluster.leftovers import holding, remove_orphans

    remove_orphans()
    return set(holding()), ray.available_resources().get("CPU", 0.0)


@pytest.fixture(scope="module")
def study(before: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study that is done: a good trial, beside it one whose gradients blow up, and then one that learns too slowly."""
    from tunefleet.tuning.runstudy import tune_study

    folder = tmp_path_factory.mktemp("study")
    asha = {"kind": "asha", "grace_steps": 20, "reduction_factor": 3}
    made = small_study(
        folder,
        [3e-3, 1e30, 1e-6],
        run={"training": {"max_steps": 200}, "logging": {"trackers": ["tensorboard"]}, "evaluation": {"every_steps": 20, "samples": {"number": 0}}},
        stopper=asha,
    )
    with variables({"AWS_SESSION_TOKEN": f"{CANARY}-AWS"}):  # which Tune would send around
        return made, tune_study(made)


def test_each_trial_ends_as_it_should_and_a_failed_one_ends_nothing_else(study: Any) -> None:
    made, result = study
    found = trials(made)
    assert [line.status for line in found.values()] == ["finished", "failed", "stopped"]
    assert (result.best, result.trials) == ("00000", {"running": 0, "failed": 1, "finished": 1, "stopped": 1})
    assert "not finite" in found["00001"].why
    assert found["00002"].why.startswith("stopped at step 20")
    assert found["00000"].step == found["00000"].compute["steps"] == 200
    assert 20 <= found["00002"].step <= found["00002"].compute["steps"] < 200  # it may come to an evaluation more before it has stopped


def test_a_trial_is_an_ordinary_output_and_a_stopped_one_left_a_checkpoint_where_it_was_stopped(study: Any) -> None:
    made, _ = study
    done = open_storage(f"{made.output}/trials/00000")
    assert {"run.yaml", "metrics.jsonl", "events.jsonl", "done.json", "report.html"} <= set(done.list())
    assert [line["step"] for line in trial_lines(made, "00000")] == list(range(1, 201))
    stopped = open_storage(f"{made.output}/trials/00002")
    last = trial_lines(made, "00002")[-1]["step"]
    assert stopped.exists(f"checkpoints/step-{last:08d}/manifest.json")
    assert not stopped.exists("done.json")
    assert [event["event"] for event in trial_events(made, "00002")].count("stopping") == 1


def test_rows_were_prepared_and_the_base_was_scored_once_for_all(study: Any) -> None:
    made, _ = study
    prepared = [event for name in trials(made) for event in trial_events(made, name) if event["event"] == "prepared"]
    assert [event["created"] for event in prepared] == [False] * 3
    assert len({event["store"] for event in prepared}) == 1
    scores = [open_storage(f"{made.output}/{place}").read("evaluation/base.json") for place in ("base", "trials/00000", "trials/00002")]
    assert len(set(scores)) == 1
    assert "base_scored_apart" not in {event["event"] for name in trials(made) for event in trial_events(made, name)}


def test_best_yaml_is_a_run_file_ready_to_use(study: Any) -> None:
    from tunefleet.trainers.run import load_run

    made, result = study
    best = load_run(result.best_file)
    assert best.training.learning_rate == trials(made)["00000"].parameters[RATE] == 3e-3
    assert best.output == yaml.safe_load(json.dumps(made.run))["output"]


def test_no_placement_group_actor_or_worker_that_holds_resources_is_left(study: Any, before: tuple[set[str], float]) -> None:
    import ray

    from tunefleet.cluster.leftovers import holding

    groups, cpus = before
    until(lambda: set(holding()) <= groups, timeout_s=60)
    until(lambda: ray.available_resources().get("CPU", 0.0) >= cpus, timeout_s=60)
    made, _ = study
    pids = [worker["pid"] for name in trials(made) for event in trial_events(made, name) if event["event"] == "group_started" for worker in event["workers"]]
    assert len(pids) >= 6
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), timeout_s=60)


def test_no_secret_of_the_environment_is_in_a_study_or_in_anything_that_ray_keeps(study: Any, ray_session: Any) -> None:
    import ray

    made, _ = study
    assert all(CANARY in os.environ[name] for name in ("A_PASSWORD_OF_MINE", "SOME_API_KEY"))
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    files = contents(made.output, session)
    assert {"trials.jsonl", "report.html", "done.json", "manifest.json"} <= {path.name for path in files}
    assert any(path.name.startswith("events.out.tfevents") for path in files)
    assert any(path.suffix in (".log", ".err", ".out") for path in files)
    assert [str(path) for path, data in files.items() if CANARY.encode() in data] == []
    assert CANARY not in metadata(ray_session.address)


def test_what_is_resumed_when_it_is_done_changes_nothing(study: Any) -> None:
    from tunefleet.tuning.runstudy import tune_study

    made, result = study
    lines = open_storage(made.output).read("trials.jsonl")
    outputs = {name: open_storage(f"{made.output}/trials/{name}").read("events.jsonl") for name in trials(made)}
    assert tune_study(made, resume=True) == result
    assert open_storage(made.output).read("trials.jsonl") == lines
    assert {name: open_storage(f"{made.output}/trials/{name}").read("events.jsonl") for name in trials(made)} == outputs


def test_the_placement_group_of_a_maker_that_was_killed_is_swept_and_no_other(ray_session: Any) -> None:
    import ray
    from ray.util import placement_group

    from tunefleet.cluster.leftovers import holding, remove_orphans

    class Maker:
        def make(self) -> None:
            group = placement_group([{"CPU": 1}])
            ray.get(group.ready())

    remove_orphans()
    others = len(holding())
    mine = placement_group([{"CPU": 0.5}])
    ray.get(mine.ready())
    makers = [ray.remote(num_cpus=0)(Maker).remote() for _ in range(2)]
    ray.get([maker.make.remote() for maker in makers])
    assert len(holding()) == others + 3
    ray.kill(makers[0])
    until(remove_orphans, timeout_s=60)
    until(lambda: len(holding()) == others + 2, timeout_s=60)
    assert remove_orphans() == []
    ray.kill(makers[1])
    until(remove_orphans, timeout_s=60)
    ray.util.remove_placement_group(mine)
    until(lambda: len(holding()) == others, timeout_s=60)


@pytest.mark.slow
def test_the_placement_group_of_a_stopped_trial_is_gone_while_the_study_goes_on(before: tuple[set[str], float], tmp_path: Path) -> None:
    from tunefleet.cluster.errors import Stopped
    from tunefleet.cluster.leftovers import holding
    from tunefleet.trainers.stopping import ask_to_stop
    from tunefleet.tuning.runstudy import tune_study

    long = {"training": {"max_steps": 100_000}, "evaluation": {"every_steps": 20, "samples": {"number": 0}}}
    study = small_study(tmp_path, [3e-3, 2e-3], run=long, stopper={"kind": "stoppertoys.second"})
    seen: list[int] = []

    def workers() -> int:
        return sum("CPU" in group for group in set(holding()) - before[0])

    def watch() -> None:
        try:
            until(lambda: workers() == 2, timeout_s=600)
            until(lambda: trials(study)["00001"].status == "stopped", timeout_s=600)
            until(lambda: workers() == 1, timeout_s=120)
            seen.append(len(trial_lines(study, "00000")))
            until(lambda: len(trial_lines(study, "00000")) > seen[0] + 20, timeout_s=120)
            seen.append(workers())
        finally:
            ask_to_stop(open_storage(study.output), "the test")

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(Stopped):
        tune_study(study)
    watcher.join(60)
    assert seen[1:] == [1]
    assert {name: line.status for name, line in trials(study).items()} == {"00000": "running", "00001": "stopped"}
    until(lambda: workers() == 0, timeout_s=60)
