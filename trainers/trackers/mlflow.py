"""MLflow, by ``pip install 'tunefleet[mlflow]'``: a tracking server, or a SQLite file in the run's output."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.tracker import Place, Point

AT_ONCE = 900  # numbers in one request; a server takes 1,000


class Mlflow:
    """One MLflow run, by its own client alone: the fluent one would also send the command line and the user's name."""

    class Config(Settings):
        """Where the numbers go. Credentials come from MLflow's environment variables alone."""

        kind: Literal["mlflow"] = "mlflow"
        tracking_uri: str | None = Field(default=None, description="server or database; null takes MLFLOW_TRACKING_URI, else a SQLite file in the output")
        experiment: str = Field(default="tunefleet", description="the experiment that the run belongs to; made where there is none")

    package = "mlflow"

    def __init__(self, config: Config) -> None:
        self.config = config

    def begin(self, place: Place, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Make a run with the settings as parameters, or go on with one."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        place.folder.mkdir(parents=True, exist_ok=True)
        address = self.config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place.folder}/mlflow.db"
        self._client = MlflowClient(tracking_uri=address)
        if before is not None:
            self._run: str = before["run"]
            self._client.update_run(self._run, status="RUNNING")
            return dict(before)
        experiment = self._client.get_experiment_by_name(self.config.experiment)
        made = experiment.experiment_id if experiment else self._client.create_experiment(self.config.experiment)
        self._run = self._client.create_run(made, run_name=place.name, tags={"tunefleet": "1"}).info.run_id
        parameters = [Param(key, value[:500]) for key, value in place.settings.items()]
        for start in range(0, len(parameters), 100):
            self._client.log_batch(self._run, params=parameters[start : start + 100])
        return {"run": self._run}

    def show(self, points: Sequence[Point]) -> None:
        """Send."""
        from mlflow.entities import Metric

        numbers = [Metric(name, float(value), int(point.time * 1000), point.step) for point in points for name, value in point.values.items()]
        for start in range(0, len(numbers), AT_ONCE):
            self._client.log_batch(self._run, metrics=numbers[start : start + AT_ONCE], synchronous=True)

    def take_back(self, step: int) -> bool:
        """It cannot."""
        return False

    def drop(self) -> None:
        """Delete the run; MLflow keeps deleted runs until its own clean-up."""
        self._client.set_terminated(self._run, status="KILLED")
        self._client.delete_run(self._run)

    def end(self, *, done: bool) -> None:
        """Set the run's status."""
        self._client.set_terminated(self._run, status="FINISHED" if done else "FAILED")
