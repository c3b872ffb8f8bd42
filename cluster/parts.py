"""Lines on a storage whose objects cannot grow: numbered parts, ``metrics/attempt-1-00001.jsonl``, joined to ``metrics.jsonl`` when a run closes.

A part is written once, by conditional create, and its number follows the one before. Whoever takes over writing seals the writers before: it creates
their next part, empty. A writer that was stopped and wakes up late then finds its number taken, and ends: that is its fence, and no clock has a say.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tunefleet.cluster.errors import OutputError, StorageError
from tunefleet.cluster.storage import Storage

_NAME = re.compile(r"(?:attempt-(?P<attempt>\d+)|part)-(?P<number>\d+)\.jsonl")
_LONGEST_PAUSE_S = 60.0
_ABREAST = 16


@dataclass(frozen=True, order=True, slots=True)
class Part:
    """A part of the lines ``name``: number ``number`` of an attempt. ``attempt`` 0 is a sequence that several writers share."""

    attempt: int
    number: int

    def of(self, name: str) -> str:
        """The name of its object."""
        writer = f"attempt-{self.attempt}" if self.attempt else "part"
        return f"{stem(name)}{writer}-{self.number:05d}.jsonl"


def stem(name: str) -> str:
    """Where the parts of ``metrics.jsonl`` lie: ``metrics/``."""
    return f"{name.removesuffix('.jsonl')}/"


def parts_of(storage: Storage, name: str) -> list[Part]:
    """The parts that there are, in order."""
    found = (_NAME.fullmatch(path.removeprefix(stem(name))) for path in storage.list(stem(name)))
    return sorted(Part(int(match["attempt"] or 0), int(match["number"])) for match in found if match)


def read_parts(storage: Storage, name: str, parts: Sequence[Part]) -> list[bytes]:
    """The content of parts; empty for one that was joined meanwhile."""

    def read(part: Part) -> bytes:
        try:
            return storage.read(part.of(name))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return b""
            raise

    with ThreadPoolExecutor(_ABREAST) as pool:
        return list(pool.map(read, parts))


def append_part(storage: Storage, name: str, data: bytes, after: int = 0) -> int:
    """Add a part to the sequence that several writers share, and return its number. The data tells its writers apart (see ``Storage.create``).

    ``after``: the number of this writer's part before; with it nothing is listed, as long as nobody else wrote in between.
    """
    number = after or _last_shared(storage, name)
    while not storage.create(Part(0, number := number + 1).of(name), data):
        number = max(number, _last_shared(storage, name))
    return number


def _last_shared(storage: Storage, name: str) -> int:
    return max((part.number for part in parts_of(storage, name) if not part.attempt), default=0)


def seal(storage: Storage, name: str) -> int:
    """Let no attempt so far write another part; the number of the last attempt, 0 where there was none."""
    ends: dict[int, Part] = {part.attempt: part for part in parts_of(storage, name) if part.attempt}
    for last in ends.values():
        number = last.number if storage.size(last.of(name)) else 0  # an empty part is a seal
        while number and not storage.create(Part(last.attempt, number := number + 1).of(name), b""):
            pass  # it was faster: its line counts, and the next number is the seal
    return max(ends, default=0)


def join(storage: Storage, name: str, whole: bytes) -> None:
    """Write what all parts hold as one object, and remove them. Seals stay: they are the fences of the attempts before, and count them."""
    seal(storage, name)
    storage.put(name, whole)

    def remove(part: Part) -> None:
        if not part.attempt or storage.size(part.of(name)):
            storage.delete(part.of(name))

    with ThreadPoolExecutor(_ABREAST) as pool:
        list(pool.map(remove, parts_of(storage, name)))


class Writer:
    """Writes lines from a thread, those that come together as one part. ``store`` writes one; ``pause_s`` says how long to gather, by the age of the run."""

    def __init__(self, store: Callable[[bytes], None], pause_s: Callable[[float], float]) -> None:
        self._store, self._pause_s = store, pause_s
        self._begun_s = time.monotonic()
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._busy = self._hurry = self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Hand over a line. Raises what went wrong with those before."""
        with self._changed:
            self._raise()
            self._waiting.append(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Return when all lines are stored. Raises what went wrong."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error is not None or not (self._waiting or self._busy))
            self._hurry = False
            self._raise()

    def close(self) -> None:
        """Store what is left, and end the thread."""
        try:
            self.flush()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while self._error is None:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                data, self._waiting, self._busy = b"".join(self._waiting), [], True
            try:
                self._store(data)
            except BaseException as error:  # noqa: BLE001 - it is raised by the next add or flush
                self._error = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._hurry or self._closed or self._error, timeout=self._pause_s(time.monotonic() - self._begun_s))


def gathering_s(age_s: float) -> float:
    """How long lines are gathered: a hundredth of the run's age, so that a long run has thousands of parts and not millions."""
    return min(_LONGEST_PAUSE_S, max(1.0, age_s / 100))


class Attempt:
    """The lines of one attempt, as parts of its own; those before it are sealed. Made by one process at a time, the holder of the lease."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._next = Part(seal(storage, name) + 1, 1)
        self.writer = Writer(self._create, gathering_s)

    def _create(self, data: bytes) -> None:
        if not self._storage.create(self._next.of(self._name), data):
            raise OutputError(
                f"{self._storage.address}: taken over by another run",
                got=f"{self._next.of(self._name)} is there already",
                want="one writer at a time",
                fix="let that run go on; this one ends here",
            )
        self._next = Part(self._next.attempt, self._next.number + 1)
