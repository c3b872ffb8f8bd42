"""Fragments in safetensors files. Each file's header holds the table of its fragments, so that no file needs another one to be understood.

Nothing is ever unpickled: a file is a JSON header and plain numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from tunefleet.cluster.storage import Storage, Stored

FILE_BYTES = 1_000_000_000 - (16 << 20)  # with its header, a file is an object of at most 1 GB
FORMAT = "tunefleet fragments 1"
_DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float64": "F64"}


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements of one slot of one parameter, from ``start`` in its flat order. ``shape`` is that of the whole parameter, ``values`` are on the host."""

    name: str
    slot: str
    shape: tuple[int, ...]
    start: int
    values: torch.Tensor


def files_of(fragments: Iterable[Fragment], limit: int = FILE_BYTES) -> Iterator[list[Fragment]]:
    """Fragments grouped into files of at most ``limit`` bytes of numbers; one that is larger is cut."""
    group: list[Fragment] = []
    room = limit
    for fragment in fragments:
        width, begin = fragment.values.element_size(), 0
        while begin < fragment.values.numel():
            if room < width:
                yield group
                group, room = [], limit
            values = fragment.values[begin : begin + room // width]
            group.append(replace(fragment, start=fragment.start + begin, values=values))
            begin, room = begin + values.numel(), room - values.numel() * width
    if group:
        yield group


def encode(fragments: Sequence[Fragment]) -> bytes:
    """One file, in a single copy of the numbers: the library's own writer makes two or three, which at a gigabyte is most of what a save costs here."""
    import torch

    ordered = sorted(fragments, key=lambda fragment: -fragment.values.element_size())  # so that every tensor is aligned
    table = {_key(f): {"name": f.name, "slot": f.slot, "shape": list(f.shape), "start": f.start} for f in ordered}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "fragments": json.dumps(table)}}
    end = 0
    for f in ordered:
        begin, end = end, end + f.values.numel() * f.values.element_size()
        header[_key(f)] = {"dtype": _DTYPES[str(f.values.dtype)], "shape": [f.values.numel()], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = (f.values.contiguous().view(torch.uint8).numpy().data for f in ordered)
    return b"".join([len(text).to_bytes(8, "little"), text, *numbers])


class FragmentReader:
    """Reads ranges of parameters out of files, whoever wrote them. A file is checked against its sha256 before its first number is read."""

    def __init__(self, storage: Storage, files: Iterable[Stored]) -> None:
        self.storage = storage
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[tuple[str, str], list[tuple[int, int, Stored, str]]] = {}
        self._open: dict[str, Any] = {}
        for file in files:
            self._read_table(file)
        for places in self._places.values():
            places.sort(key=lambda place: place[0])

    def slots(self) -> set[str]:
        """The slots that there are for at least one parameter."""
        return {slot for slot, _ in self._places}

    def fill(self, slot: str, name: str, start: int, target: torch.Tensor) -> None:
        """Copy the elements from ``start`` on into a one-dimensional tensor, in its dtype and on its device.

        Raises CheckpointError when the files do not hold all of them.
        """
        stop, done = start + target.numel(), start
        for first, count, file, key in self._places.get((slot, name), []):
            begin, end = max(done, first), min(stop, first + count)
            if begin == done and begin < end:
                values = self._checked(file).get_slice(key)[begin - first : end - first]
                target[begin - start : end - start].copy_(values)
                done = end
        if done < stop:
            raise CheckpointError(
                f"the checkpoint does not hold all of {name}",
                got=f"{slot} up to element {done}",
                want=f"elements {start} to {stop}",
                fix="resume from another checkpoint",
            )

    def whole(self, slot: str, name: str) -> torch.Tensor:
        """A whole parameter, on the host, in the dtype it was written in."""
        import torch

        _, _, file, key = self._places[slot, name][0]
        dtype = self._checked(file).get_slice(key)[0:0].dtype
        target = torch.empty(math.prod(self.shapes[name]), dtype=dtype)
        self.fill(slot, name, 0, target)
        return target.view(self.shapes[name])

    def _read_table(self, file: Stored) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.storage.local(file.name, size=file.bytes), framework="pt") as opened:
                metadata = opened.metadata() or {}
                table = json.loads(metadata["fragments"])
                for key, row in table.items():
                    self.shapes[row["name"]] = tuple(row["shape"])
                    (count,) = opened.get_slice(key).get_shape()
                    self._places.setdefault((row["slot"], row["name"]), []).append((row["start"], count, file, key))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file.name} is no file of fragments", got=repr(error), want=FORMAT, fix="resume from another checkpoint") from error

    def _checked(self, file: Stored) -> Any:
        from safetensors import safe_open

        if file.name not in self._open:
            path = self.storage.local(file.name, sha256=file.sha256, size=file.bytes)
            self._open[file.name] = safe_open(path, framework="pt")
        return self._open[file.name]


def _key(fragment: Fragment) -> str:
    return f"{fragment.slot}/{fragment.name}/{fragment.start}"
