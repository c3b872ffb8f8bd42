"""JSON lines: an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.files import find_files, open_bytes
from tunefleet.data.origin import Numbered
from tunefleet.data.settings import Source


class JsonLines:
    """A line at a time; one that is no object, or no UTF-8, is a bad row and takes no other with it."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["jsonl"] = "jsonl"

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files."""
        return find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every line that is not blank. A mark at the beginning of the file (BOM) and carriage returns are none of it."""
        with open_bytes(address) as stream:
            yield from json_lines(stream)


def json_lines(lines: Iterable[bytes]) -> Iterator[Numbered]:
    """The objects of lines, counted from 1; blank ones are passed over."""
    for line, raw in enumerate(lines, start=1):
        try:
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
            if text:
                value = json.loads(text)
                yield line, value if isinstance(value, dict) else {}, "" if isinstance(value, dict) else f"{type(value).__name__}, not an object"
        except UnicodeDecodeError as error:
            yield line, {}, f"not UTF-8: {error.reason} at byte {error.start}"
        except (ValueError, RecursionError) as error:
            yield line, {}, f"not JSON: {error}"
