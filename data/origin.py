"""Which kind of source rows come from: named in the run file, or told by what the path names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.plugins import kinds, plugin
from tunefleet.data.files import COMPRESSED, find_files, suffix_of
from tunefleet.data.settings import Source

SOURCES = "tunefleet.data.sources"
HUB = "hub"
HUB_ADDRESS = f"{HUB}://"
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

Numbered = tuple[int, Mapping[str, Any], str]
"""Line (or number of the row, from 1), values, problem (empty for a good row)."""


class Origin(Protocol):
    """What a file of tunefleet/data/sources holds: a class with a nested Config, and these three."""

    suffixes: ClassVar[tuple[str, ...]]
    """What the names of its files end in; empty for a kind that is found in another way, and must then be named."""

    def addresses(self, source: Source) -> list[str]:
        """What there is to read, in order: each can be read by itself, on any node. Raises DataError where there is nothing."""
        ...

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """The rows of one address in order, few of them held at a time. Raises DataError for one that is broken as a whole."""
        ...


@cache
def make_origin(kind: str) -> Origin:
    """The source kind of a name, also a dotted one. Raises SettingsError, with the nearest name, for one that does not exist."""
    chosen = plugin(SOURCES, kind)
    made: Origin = chosen(chosen.Config())
    return made


def is_hub(source: Source) -> bool:
    """Whether a source is a data set of a hub: said to be, or because its path can only mean that (``org/name``, where there is no such folder here)."""
    path = source.path
    looks = _HUB_ID.fullmatch(path) and suffix_of(path) not in suffixes() and not Path(path).exists() and not Path(path.partition("/")[0]).is_dir()
    return source.kind == HUB or (source.kind == "auto" and bool(looks))


def kind_of(source: Source) -> str:
    """The kind of a whole source; ``auto`` where every file has its own."""
    if source.kind != "auto":
        return source.kind
    if is_hub(source):
        return HUB
    return "arrow" if is_saved(source.path) else "auto"


def addresses(source: Source) -> list[str]:
    """Everything that a source names, in order. Raises DataError for files that are missing or of unknown kind."""
    kind = kind_of(source)
    if kind != "auto":
        return make_origin(kind).addresses(source)
    found = find_files(source.path, suffixes())
    for name in found:
        if suffix_of(name) not in suffixes():
            known = ", ".join(sorted(suffixes()))
            raise DataError(
                f"{name}: unknown kind of file",
                got=suffix_of(name) or "no suffix",
                want=f"one of {known} (also with {', '.join(COMPRESSED)})",
                fix="rename or convert it, or name the kind of this source",
            )
    return found


def origin_at(source: Source, address: str) -> Origin:
    """What reads one address of a source."""
    if address.startswith(HUB_ADDRESS):
        return make_origin(HUB)
    return make_origin(source.kind if source.kind != "auto" else suffixes()[suffix_of(address)])


def fixed_content(address: str) -> str | None:
    """A hash of what an address holds, where the address itself says it (a commit of a hub's data set); None where it must be read."""
    return hashlib.sha256(address.encode()).hexdigest() if address.startswith(HUB_ADDRESS) else None


def is_saved(path: str) -> bool:
    """Whether a folder is what ``save_to_disk`` of ``datasets`` writes."""
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    return any(system.isfile(f"{inner}/{name}") for name in ("state.json", "dataset_dict.json")) and system.isdir(inner)


@cache
def suffixes() -> dict[str, str]:
    """The kind that reads files of each suffix."""
    return {suffix: kind for kind in kinds(SOURCES) for suffix in make_origin(kind).suffixes}
