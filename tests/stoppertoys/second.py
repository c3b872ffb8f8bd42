"""A stopper that stops the study's second trial at its first evaluation, and no other."""

from collections.abc import Iterator
from typing import Any, Literal

from tunefleet.cluster.errors import RequestError
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.goal import Goal


class Second:
    class Config(Settings):
        kind: Literal["stoppertoys.second"] = "stoppertoys.second"

    def __init__(self, config: Config) -> None:
        self.config = config

    def problems(self, goal: Goal) -> Iterator[RequestError]:
        yield from ()

    def scheduler(self, goal: Goal) -> Any:
        from ray.tune.schedulers import FIFOScheduler, TrialScheduler

        class Stops(FIFOScheduler):
            def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
                return str(TrialScheduler.STOP if trial.trial_id == "00001" else TrialScheduler.CONTINUE)

        return Stops()

    def why(self) -> str:
        return "it is the second"
