"""Weights & Biases, by ``pip install 'tunefleet[wandb]'``. Offline by default: files in the run's output that ``wandb sync`` uploads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.tracker import Place, Point


class Wandb:
    """Steps are a value of their own (``training/step``, ``evaluation/step``), since an evaluation may come in after later steps of the training."""

    class Config(Settings):
        """Where the numbers go. The key comes from WANDB_API_KEY alone."""

        kind: Literal["wandb"] = "wandb"
        mode: Literal["offline", "online"] = Field(default="offline", description="offline writes files to sync later, online sends at once")
        project: str = Field(default="tunefleet", description="the project on the server")
        entity: str | None = Field(default=None, description="user or team on the server; null takes the key's own")

    package = "wandb"

    def __init__(self, config: Config) -> None:
        self.config = config

    def begin(self, place: Place, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Begin a run, or go on with one; nothing about the machine, the code or the command line is sent."""
        import secrets

        import wandb

        name = before["id"] if before else secrets.token_hex(6)
        place.folder.mkdir(parents=True, exist_ok=True)
        quiet = {"console": "off", "silent": True, "disable_git": True, "disable_code": True, "save_code": False}
        private = {"x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True}
        self._run = wandb.init(
            dir=str(place.folder),
            project=self.config.project,
            entity=self.config.entity,
            name=place.name,
            id=name,
            resume="allow",
            config=dict(place.settings),
            settings=wandb.Settings(mode=self.config.mode, **quiet, **private),
        )
        for group in ("training", "evaluation"):
            self._run.define_metric(f"{group}/step", hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._folders = [*(before["folders"] if before else []), str(Path(self._run.settings.sync_dir).relative_to(place.folder))]
        self._home = place.folder
        return {"id": name, "folders": self._folders}

    def show(self, points: Sequence[Point]) -> None:
        """Hand over to its own process."""
        for point in points:
            self._run.log({f"{point.group}/step": point.step, **point.values})

    def take_back(self, step: int) -> bool:
        """It cannot."""
        return False

    def drop(self) -> None:
        """End the run; what lies offline and was never synced is removed, what a server has stays there beside the new one."""
        self._run.finish(exit_code=1)
        for name in self._folders:
            folder = self._home / name
            if self.config.mode == "offline" and not list(folder.glob("*.synced")):
                shutil.rmtree(folder, ignore_errors=True)

    def end(self, *, done: bool) -> None:
        """Wait until its process has everything."""
        self._run.finish(exit_code=0 if done else 1)
