"""One JSON document: a list of rows, an object with a list under ``data``, or an object of rows. It is read whole; large data belongs into JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.files import find_files, open_text
from tunefleet.data.jsonfile import json_rows
from tunefleet.data.origin import Numbered, make_origin
from tunefleet.data.settings import Source


class JsonDocument:
    """A document, or lines of JSON under the name of one."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["json_document"] = "json_document"

    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files."""
        return find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every row, with the line where it begins."""
        with open_text(address) as stream:
            first, second = stream.readline(), stream.readline()
            lines = bool(second.strip()) and _is_object(first)
            text = "" if lines else first + second + stream.read()
        if lines:
            yield from make_origin("jsonl").read(source, address)
        else:
            yield from json_rows(text, address)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
