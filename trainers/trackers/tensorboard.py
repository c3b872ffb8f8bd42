"""TensorBoard: event files in the run's output, shown by ``tensorboard --logdir RUN/trackers/tensorboard``. It keeps numbers in single precision."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.trainers.tracker import Place, Point


class Tensorboard:
    """Every start writes a file of its own, whose name sorts behind the others'; what is taken back is crossed out in it."""

    class Config(Settings):
        """TensorBoard needs no settings."""

        kind: Literal["tensorboard"] = "tensorboard"

    package = "tensorboardX"

    def __init__(self, config: Config) -> None:
        self.config = config

    def begin(self, place: Place, before: Mapping[str, Any] | None) -> dict[str, Any]:
        """Open a new file; the settings are shown as text at step 0 of a run's first one."""
        self._folder, self._files = place.folder, int(before["files"]) if before else 0
        self._open(None)
        if before is None:
            rows = "\n".join(f"| {key} | {value.replace('|', '/')} |" for key, value in place.settings.items())
            self._writer.add_text("run file", f"| key | value |\n|---|---|\n{rows}", 0)
        return {"files": self._files + 1000}  # a start crosses out seldom; the next one's files sort behind all of this one's

    def show(self, points: Sequence[Point]) -> None:
        """Write and flush."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, float(value), point.step, walltime=point.time or None)
        self._writer.flush()

    def take_back(self, step: int) -> bool:
        """A new file that crosses out every later step of the ones before."""
        self._writer.close()
        self._open(step + 1)
        return True

    def drop(self) -> None:
        """Remove all files."""
        self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def end(self, *, done: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _open(self, purge: int | None) -> None:
        from tensorboardX import SummaryWriter

        self._files += 1
        self._writer = SummaryWriter(str(self._folder), purge_step=purge, filename_suffix=f".{self._files:09d}", flush_secs=10)
