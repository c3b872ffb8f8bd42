"""The one place that reaches into Ray Tune: trials as its actors, fed and recorded by us. Imported only where a study runs, since it imports Ray.

Tune's own snapshot, loggers and tables are not used: what counts stands in the outputs of the trials and in trials.jsonl.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, Stopper, Trainable
from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from tunefleet.cluster.environment import variables
from tunefleet.cluster.storage import open_storage
from tunefleet.trainers.handover import Pointer, point
from tunefleet.tuning.goal import STEP
from tunefleet.tuning.keeper import Keeper
from tunefleet.tuning.space import Point
from tunefleet.tuning.trial import END_S, Attempt, Plan, output_of

POINTER = "pointer.json"
TOLD = "told"  # in a result: the whole report, in a line, since Tune flattens what is nested
RECOVERIES = 2
"""How often a trial is started again whose own process died; failures of its workers are the run's own business."""
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": str(round(END_S + 30)),
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1000000",
}
# Tune would send the driver's to every trial in a runtime environment, which Ray logs and keeps among its metadata. Nodes have their own.
_CREDENTIALS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"})


class TrialActor(Trainable):  # type: ignore[misc]  # Ray has no types
    """A trial for Ray Tune. Its checkpoint is a pointer at one of ours."""

    def setup(self, config: Point, plan: Plan) -> None:
        """Nothing starts before the first step: a pointer may still come."""
        os.chdir(os.environ["TUNE_ORIG_WORKING_DIR"])  # Tune has moved this process to a folder of its own
        self._plan, self._parameters = plan, dict(config)
        self._begin_at = plan.begin_at.get(self.trial_id)
        self._attempt: Attempt | None = None
        self._own = open_storage(output_of(plan.study.output, self.trial_id))
        self._reported = 0

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or the end."""
        if self._attempt is None:
            self._attempt = Attempt(self._plan, self.trial_id, self._parameters, self._begin_at)
            self._attempt.start()
        report = self._attempt.next()
        self._reported = report[STEP]
        metric = self._plan.study.metric
        return {**{key: report[key] for key in (STEP, metric) if key in report}, "done": report.get("done", False), TOLD: json.dumps(report)}

    def save_checkpoint(self, checkpoint_dir: str) -> str:
        """Write a pointer at the checkpoint that was reported last, which stays until the next pointer."""
        found = point(self._own, uuid.uuid4().hex, self._reported)
        Path(checkpoint_dir, POINTER).write_text(json.dumps(found.to_json() if found else None), encoding="utf-8")
        return checkpoint_dir

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from another trial's checkpoint; from its own a trial goes on anyhow, and from a later one."""
        pointer = read_pointer(Path(checkpoint_dir))
        self._begin_at = pointer if pointer is not None and pointer.output != self._own.address else None

    def cleanup(self) -> None:
        """End in order within a time. After that Tune ends this process, and everything that it started ends with it."""
        if self._attempt is not None:
            self._attempt.end(END_S)


def read_pointer(folder: Path) -> Pointer | None:
    """What ``save_checkpoint`` wrote."""
    value = json.loads((folder / POINTER).read_text(encoding="utf-8"))
    return Pointer(**value) if value else None


class Feed(SearchAlgorithm):  # type: ignore[misc]
    """Gives Tune the trials that the keeper has it begin, under the study's own names."""

    def __init__(self, keeper: Keeper, slot: float) -> None:
        self.keeper, self.slot = keeper, slot
        self._experiment: Any = None

    def add_configurations(self, experiments: Any) -> None:
        """Called once by Tune."""
        (self._experiment,) = experiments

    def next_trial(self) -> Trial | None:
        """The next trial to begin, when there is room for one. Whether the study is over changes here only: Tune asks between two looks at it."""
        self.keeper.settle()
        begun = self.keeper.next()
        if begun is None:
            self._finished = self.keeper.over()
            return None
        spec = self._experiment.spec
        return Trial(
            spec["run"],
            config=dict(begun.parameters),
            trial_id=begun.id,
            experiment_tag=begun.id,
            storage=spec["storage"],
            placement_group_factory=tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": self.slot}]),
            max_failures=RECOVERIES,
        )

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over, or is being stopped."""
        self.keeper.ended(trial_id, report_of(result), died=error)


class Recorder(Callback):  # type: ignore[misc]
    """Tells the keeper what Tune sees."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's actor runs: for the first time, again, or with what PBT has given it."""
        pointer = read_pointer(Path(trial.checkpoint.path)) if trial.checkpoint else None
        self.keeper.started(trial.trial_id, dict(trial.config), pointer)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        """An evaluation."""
        self.keeper.reported(trial.trial_id, report_of(result))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial's process died, and is started again."""
        self.keeper.died(trial.trial_id, last_line(str(trial.get_error() or "")))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """A few times a second."""
        self.keeper.settle()


class BudgetStopper(Stopper):  # type: ignore[misc]
    """Ends every trial that reports after the budget is spent."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial is to end."""
        return not result.get("done") and self.keeper.spent() is not None

    def stop_all(self) -> bool:
        """Never: each ends in order."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Tune takes a snapshot of what stops it; ours is read from trials.jsonl."""
        return {}


def last_line(text: str) -> str:
    """The last line with something in it: of a traceback, what was raised."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def report_of(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """The report that a result of Tune's was made of; nothing where a trial died before its first."""
    found: dict[str, Any] = json.loads((result or {}).get(TOLD, "{}"))
    return found


def run_trials(plan: Plan, keeper: Keeper, scheduler: TrialScheduler, *, concurrent: int) -> None:
    """Run trials until the keeper has no more, and the last has ended."""
    ENV_VARS_TO_PROPAGATE.difference_update(_CREDENTIALS)
    slot = int(9900 / concurrent) / 10000  # of the driver's node, where every trial's own process belongs; a slice of it is what a trial holds
    settings = {**_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(concurrent)}  # Tune takes them from the environment of the driver only
    with tempfile.TemporaryDirectory(prefix="tunefleet-tune-", ignore_cleanup_errors=True) as folder, variables(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tune.run(
            tune.with_parameters(TrialActor, plan=plan),
            name="study",
            storage_path=folder,
            search_alg=Feed(keeper, slot),
            scheduler=scheduler,
            stop=BudgetStopper(keeper),
            callbacks=[Recorder(keeper)],
            verbose=0,
            raise_on_failed_trial=False,
        )
