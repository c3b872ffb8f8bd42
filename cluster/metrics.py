"""Lines of JSON that grow while a run goes: written by its workers, followed by its driver. A file in a folder, numbered parts on S3."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tunefleet.cluster import parts
from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Storage

Record = dict[str, Any]
_POLL_S, _REMOTE_POLL_S = 0.25, 1.0


class Lines:
    """One JSON object a line, which one process at a time adds to. Where they are written from a thread, ``flush`` waits until they stand."""

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self._writer = None if storage.appends else parts.Attempt(storage, name).writer
        self._mend()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one line. A number that is not finite becomes null, since JSON has no other word for it."""
        if self._writer is None:
            self.storage.append(self.name, _line(record))
        else:
            self._writer.add(_line(record))

    def flush(self) -> None:
        """Return when every line stands in the storage. Raises what went wrong: StorageError, OutputError where another run took over."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Store what is left."""
        if self._writer is not None:
            self._writer.close()

    def truncate_after(self, step: int) -> int:
        """Drop the lines of later steps, each file atomically, and return how many. Lines without a step stay."""
        names = [self.name] if self.storage.exists(self.name) else []
        if self._writer is not None:
            names += [part.of(self.name) for part in parts.parts_of(self.storage, self.name)]
        dropped = 0
        for name in names:
            records = list(_whole(self.storage, name, self.storage.read(name)))
            kept = [record for record in records if record.get("step") is None or record["step"] <= step]
            if len(kept) < len(records):
                self.storage.put(name, b"".join(map(_line, kept)))
            dropped += len(records) - len(kept)
        return dropped

    def _mend(self) -> None:
        """Cut off the half line that a killed writer left, so that the next line does not join it."""
        if self._writer is not None or not self.storage.exists(self.name):
            return
        data = self.storage.read(self.name)
        if data and not data.endswith(b"\n"):
            self.storage.put(self.name, data[: data.rfind(b"\n") + 1])


class SharedLines:
    """Lines that several processes add to, such as events. ``background``: from a thread, where writing one takes a request."""

    def __init__(self, storage: Storage, name: str, *, background: bool = False) -> None:
        self.storage, self.name = storage, name
        self._last = 0
        self._writer = parts.Writer(self._store, lambda age_s: 0.0) if background and not storage.appends else None

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one line."""
        (self._store if self._writer is None else self._writer.add)(_line(record))

    def close(self) -> None:
        """Store what is left."""
        if self._writer is not None:
            self._writer.close()

    def _store(self, data: bytes) -> None:
        if self.storage.appends:
            self.storage.append(self.name, data)
        else:
            self._last = parts.append_part(self.storage, self.name, data, self._last)


def has_lines(storage: Storage, name: str) -> bool:
    """Whether a line was ever written."""
    return storage.exists(name) or (not storage.appends and bool(parts.parts_of(storage, name)))


def delete_lines(storage: Storage, name: str) -> None:
    """Remove all lines; on S3 with the fences of their writers, so only the holder of the lease may do it."""
    storage.delete(name)
    if not storage.appends:
        storage.delete_tree(parts.stem(name))


def join_lines(storage: Storage, name: str, order: Callable[[Record], float] | None = None) -> None:
    """Make one file of what was written in parts, in an order of its own where one is given; in a folder it is one already."""
    if storage.appends or not has_lines(storage, name):
        return
    records = read_lines(storage, name)
    parts.join(storage, name, b"".join(map(_line, sorted(records, key=order) if order else records)))


def read_lines(storage: Storage, name: str) -> list[Record]:
    """Every record, in order; none when there is no file. A half line at the end is left out.

    Raises StorageError, with the number of the line, for one that is no JSON object.
    """
    later: list[bytes] = []
    if not storage.appends:
        later = parts.read_parts(storage, name, parts.parts_of(storage, name))
    data = storage.read(name) if storage.exists(name) else b""  # after its parts: they are joined first, and removed then
    known = set(data.split(b"\n")) if any(later) else set()
    fresh = [line + b"\n" for part in later for line in part.split(b"\n")[:-1] if line not in known]
    return list(_whole(storage, name, data)) + list(_whole(storage, name, b"".join(fresh)))


class Tail:
    """Follows lines from a thread, and hands over what is added after it began. A context manager; its end reads what is left."""

    def __init__(self, storage: Storage, on_line: Callable[[str, Record], None], *, names: Sequence[str] = ("metrics.jsonl", "events.jsonl")) -> None:
        self._storage, self._on_line = storage, on_line
        self._offsets = {name: self._size(name) for name in names if storage.appends}
        self._seen = {name: set(parts.parts_of(storage, name)) for name in names if not storage.appends}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tail", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._done.set()
        self._thread.join()
        with suppress(*([StorageError] if kind is not None else [])):  # what is raised already matters more
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
                self._tell(name, whole)
        for name, seen in self._seen.items():
            new = [part for part in parts.parts_of(self._storage, name) if part not in seen]
            for part, data in zip(new, parts.read_parts(self._storage, name, new), strict=True):
                seen.add(part)
                self._tell(name, data)

    def _tell(self, name: str, data: bytes) -> None:
        for record in _records(data):
            self._on_line(name, record)

    def _follow(self) -> None:
        while not self._done.wait(_POLL_S if self._storage.appends else _REMOTE_POLL_S):
            with suppress(*([] if self._storage.appends else [StorageError])):  # an object store may be ill for a while; the workers judge that
                self.poll()

    def _size(self, name: str) -> int:
        return self._storage.size(name) if self._storage.exists(name) else 0


def _whole(storage: Storage, name: str, data: bytes) -> Iterator[Record]:
    """The records of whole lines."""
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        record = _parse(line)
        if record is None:
            raise StorageError(f"{storage.address}/{name}:{number}: not a line of JSON", got=repr(line[:80]), want="one JSON object a line")
        yield record


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
