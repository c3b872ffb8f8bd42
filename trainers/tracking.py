"""Tells trackers what a run's files say, from the driver: in a thread of each tracker's own, so that one that fails or hangs never harms the run.

The files are the truth. What was told is compared with them before the first line, whenever a step comes twice, and at the end; so a tracker shows
every step once, with the numbers that stand in metrics.jsonl, also after a resume went back to a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.masking import masked
from tunefleet.cluster.plugins import plugin
from tunefleet.trainers.ledger import Events
from tunefleet.trainers.run import TRACKERS, RunFile
from tunefleet.trainers.stage import DONE, METRICS
from tunefleet.trainers.stage import TRACKERS as FOLDER
from tunefleet.trainers.tracker import Key, Place, Point, Tracker, points_of, told_settings, training_point

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage

END_S = 60.0
"""How long the end of a run waits for a tracker that is still telling."""

Told = dict[Key, Mapping[str, float]]


@dataclass(frozen=True)
class Mending:
    """What makes a tracker equal to the files: take back what is later than a step (None: nothing), then tell these points."""

    take_back: int | None
    tell: tuple[Point, ...]


def mending(told: Told, truth: Mapping[Key, Point]) -> Mending:
    """Compare what was told with what stands in the files."""
    wrong = [step for (group, step), values in told.items() if (found := truth.get((group, step))) is None or found.values != values]
    back = min(wrong) - 1 if wrong else None
    stays = told if back is None else {key for key in told if key[1] <= back}
    return Mending(back, tuple(point for key, point in truth.items() if key not in stays))


class Tracking:
    """Feeds the trackers of a run. A context manager; its end waits until all is told, for a minute at most."""

    def __init__(self, run: RunFile, storage: Storage, say: Callable[[str], None]) -> None:
        kinds = [vars(settings)["kind"] for settings in run.logging.trackers]
        names = [f"{kind}-{i}" if kind in kinds[:i] else kind for i, kind in enumerate(kinds)]
        self._feeds = [Feed(settings, name, run, storage, say) for settings, name in zip(run.logging.trackers, names, strict=True)]

    def __enter__(self) -> Tracking:
        for feed in self._feeds:
            feed.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + END_S
        for feed in self._feeds:
            feed.lines.put(None)
        for feed in self._feeds:
            feed.thread.join(max(0.0, deadline - time.monotonic()))
            if feed.thread.is_alive():
                feed.give_up(f"not done {END_S:g} s after the run")

    def line(self, name: str, record: Mapping[str, Any]) -> None:
        """A new line of metrics.jsonl or events.jsonl. Returns at once."""
        if name == METRICS or record.get("event") == "evaluation_finished":
            for feed in self._feeds:
                feed.lines.put(record)


class Feed:
    """One tracker and the thread that tells it."""

    def __init__(self, settings: Any, name: str, run: RunFile, storage: Storage, say: Callable[[str], None]) -> None:
        self.settings, self.name, self.run, self.storage, self.say = settings, name, run, storage, say
        self.lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._told: Told = {}
        self._over = False

    def give_up(self, why: str) -> None:
        """Say once that this tracker is told no more."""
        if not self._over:
            self._over = True
            why = masked(" ".join(why.split()))[:300]
            self.say(f"note: the tracker {self.name} is told no more: {why}")
            Events(self.storage).add("tracker_failed", tracker=self.name, why=why)

    def _work(self) -> None:
        try:
            with _local_folder(self.storage.sub(f"{FOLDER}/{self.name}")) as folder:
                self._feed(plugin(TRACKERS, vars(self.settings)["kind"])(self.settings), Place(self.run.name, told_settings(self.run), folder))
        except BaseException as error:  # noqa: BLE001 - a stranger's library; the run goes on without it
            self.give_up(f"{type(error).__name__}: {error}")

    def _feed(self, tracker: Tracker, place: Place) -> None:
        state, truth = self._state(), points_of(self.storage)
        before = _still_told(state, truth)
        identity = tracker.begin(place, state["identity"] if state else None)
        if state and before is None:  # an earlier driver was killed while it told: what it told last is not known
            identity = self._anew(tracker, place)
        self._told = dict(before or {})
        self._note({"identity": identity, "clean": False})
        identity = self._mend(tracker, place, truth, identity)
        while (line := self.lines.get()) is not None and not self._over:
            identity = self._tell(tracker, place, line, identity)
        identity = self._mend(tracker, place, points_of(self.storage), identity)
        tracker.end(done=self.storage.exists(DONE))
        self._note({"identity": identity, "clean": True, "told": [list(key) for key in self._told], "digest": _digest(self._told)})

    def _tell(self, tracker: Tracker, place: Place, line: Mapping[str, Any], identity: dict[str, Any]) -> dict[str, Any]:
        """One line; the files are looked at when it speaks of a step that was told otherwise, and for evaluations."""
        point = training_point(line) if "event" not in line else None
        if point is None or self._told.get(point.key, point.values) != point.values:
            return self._mend(tracker, place, points_of(self.storage), identity)
        if point.key not in self._told:
            self._show(tracker, [point])
        return identity

    def _mend(self, tracker: Tracker, place: Place, truth: Mapping[Key, Point], identity: dict[str, Any]) -> dict[str, Any]:
        found = mending(self._told, truth)
        if found.take_back is not None:
            if tracker.take_back(found.take_back):
                self._told = {key: values for key, values in self._told.items() if key[1] <= (found.take_back or 0)}
            else:
                identity, self._told = self._anew(tracker, place), {}
                self._note({"identity": identity, "clean": False})
                found = mending(self._told, truth)
        self._show(tracker, found.tell)
        return identity

    def _anew(self, tracker: Tracker, place: Place) -> dict[str, Any]:
        tracker.drop()
        return tracker.begin(place, None)

    def _show(self, tracker: Tracker, points: Sequence[Point]) -> None:
        if points:
            tracker.show(points)
            self._told |= {point.key: point.values for point in points}

    def _state(self) -> dict[str, Any] | None:
        name = f"{FOLDER}/{self.name}.json"
        return json.loads(self.storage.read(name)) if self.storage.exists(name) else None

    def _note(self, state: Mapping[str, Any]) -> None:
        self.storage.put(f"{FOLDER}/{self.name}.json", json.dumps(state).encode())


@contextmanager
def _local_folder(storage: Storage) -> Iterator[Path]:
    """The folder of a storage; of one that is elsewhere a copy, which is brought back when all went well."""
    if "://" not in storage.address:
        yield Path(storage.address)
        return
    with TemporaryDirectory(prefix="tunefleet-tracker-") as temporary:
        folder = Path(temporary)
        for name in storage.list():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(storage.read(name))
        yield folder
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
        for name in set(storage.list()) - set(files):
            storage.delete(name)
        for name, path in files.items():
            storage.put_file(name, path)


def _still_told(state: Mapping[str, Any] | None, truth: Mapping[Key, Point]) -> Told | None:
    """What an earlier driver told, when it ended in order and the files still say the same; None when that is not known."""
    if not state or not state["clean"]:
        return None
    keys: list[Key] = [(group, step) for group, step in state["told"]]
    if any(key not in truth for key in keys):
        return None
    told: Told = {key: truth[key].values for key in keys}
    return told if _digest(told) == state["digest"] else None


def _digest(told: Told) -> str:
    return hashlib.sha256(json.dumps([[*key, dict(values)] for key, values in sorted(told.items())], sort_keys=True).encode()).hexdigest()
