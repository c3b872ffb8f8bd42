"""Lines of JSON that grow while a run goes: written by its workers, followed by its driver."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Storage

Record = dict[str, Any]


class Lines:
    """A file of one JSON object a line, which one process at a time appends to. Every line is on its way to the storage when ``add`` returns."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self._mend()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one line. A number that is not finite becomes null, since JSON has no other word for it."""
        self.storage.append(self.name, _line(record))

    def truncate_after(self, step: int) -> int:
        """Drop the lines of later steps, atomically, and return how many. Lines without a step stay."""
        records = read_lines(self.storage, self.name)
        kept = [record for record in records if record.get("step") is None or record["step"] <= step]
        if len(kept) < len(records):
            self.storage.put(self.name, b"".join(map(_line, kept)))
        return len(records) - len(kept)

    def _mend(self) -> None:
        """Cut off the half line that a killed writer left, so that the next line does not join it."""
        if not self.storage.exists(self.name):
            return
        data = self.storage.read(self.name)
        if data and not data.endswith(b"\n"):
            self.storage.put(self.name, data[: data.rfind(b"\n") + 1])


def read_lines(storage: Storage, name: str) -> list[Record]:
    """Every record of a file, in order; none when there is no file. A half line at the end is left out.

    Raises StorageError, with the number of the line, for one that is no JSON object.
    """
    if not storage.exists(name):
        return []
    records = []
    *whole, _ = storage.read(name).split(b"\n")
    for number, line in enumerate(whole, start=1):
        record = _parse(line)
        if record is None:
            raise StorageError(f"{storage.address}/{name}:{number}: not a line of JSON", got=repr(line[:80]), want="one JSON object a line")
        records.append(record)
    return records


class Tail:
    """Follows files of lines from a thread, and hands over what is added after it began. A context manager; its end reads what is left."""

    def __init__(self, storage: Storage, on_line: Callable[[str, Record], None], *, names: Sequence[str] = ("metrics.jsonl", "events.jsonl")) -> None:
        self._storage, self._on_line = storage, on_line
        self._offsets = {name: self._size(name) for name in names}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tail", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.poll()

    def poll(self) -> None:
        """Hand over what is new. A file that shrank was cut back to an earlier step: what stands in it is known already."""
        for name, offset in self._offsets.items():
            size = self._size(name)
            if size < offset:
                self._offsets[name] = size
            elif size > offset:
                data = self._storage.read_from(name, offset)
                whole = data[: data.rfind(b"\n") + 1]
                self._offsets[name] = offset + len(whole)
                for record in _records(whole):
                    self._on_line(name, record)

    def _follow(self) -> None:
        while not self._done.wait(0.25):
            self.poll()

    def _size(self, name: str) -> int:
        return self._storage.size(name) if self._storage.exists(name) else 0


def _records(data: bytes) -> Iterator[Record]:
    for line in data.splitlines():
        record = _parse(line)
        if record is not None:  # the middle of a line, when the file was cut and grew again between two looks
            yield record


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def finite(value: Any) -> Any:
    """Plain values with None for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
