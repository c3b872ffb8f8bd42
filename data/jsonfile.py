"""Rows of one JSON document: a list, an object with a list under ``data``, or an object of objects; each row with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tunefleet.cluster.errors import DataError

SPACE = " \t\r\n"


def json_rows(text: str, path: str) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    """Yield (line, values, problem) for every row of a document. Raises DataError when it is no JSON, or holds no rows."""
    scan = _Scan(text, path)
    opening = scan.peek()
    if not opening:
        return
    if opening == "[":
        yield from _objects(scan)
    elif opening == "{":
        yield from _members(scan)
    else:
        raise scan.error("neither a list nor an object")
    if scan.peek():
        raise scan.error("something stands behind the end")


def _objects(scan: _Scan) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    for line, value in scan.items():
        yield line, value if isinstance(value, dict) else {}, "" if isinstance(value, dict) else f"{type(value).__name__}, not an object"


def _members(scan: _Scan) -> Iterator[tuple[int, Mapping[str, Any], str]]:
    """Rows of an object: those of its list ``data``, else its values, when all of them are objects."""
    found: list[tuple[int, Mapping[str, Any], str]] = []
    names: list[str] = []
    listed = False
    for name in scan.names():
        names.append(name)
        if name == "data" and scan.peek() == "[":
            listed = True
            yield from _objects(scan)
        else:
            line, value = scan.value()
            found.append((line, value if isinstance(value, dict) else {}, "" if isinstance(value, dict) else f"{name} is no object"))
    if listed:
        return
    if any(problem for _, _, problem in found):
        keys = ", ".join(names[:6])
        raise DataError(
            f"{scan.path}: holds no list of rows",
            got=f"an object with {keys}",
            want='a list, {"data": [...]}, or an object of rows',
            fix="make it a list of objects",
        )
    yield from found


class _Scan:
    """A place in a JSON text, moved value by value, so that every row knows its line."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path, self.at, self.counted, self.line = text, path, 0, 0, 1
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space, or an empty string at the end."""
        while self.at < len(self.text) and self.text[self.at] in SPACE:
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, wanted: str) -> None:
        """Step over one character. Raises DataError when another stands there."""
        if self.peek() != wanted:
            raise self.error(f"{wanted} expected")
        self.at += 1

    def value(self) -> tuple[int, Any]:
        """The next value and its line."""
        self.peek()
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        try:
            value, self.at = self.decoder.raw_decode(self.text, self.at)
        except (ValueError, RecursionError) as error:
            raise self.error(str(error)) from error
        return self.line, value

    def items(self) -> Iterator[tuple[int, Any]]:
        """The values of a list."""
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.take(",")
        self.at += 1

    def names(self) -> Iterator[str]:
        """The names of an object; whoever iterates takes the value of each."""
        self.take("{")
        while self.peek() != "}":
            name = str(self.value()[1])
            self.take(":")
            yield name
            if self.peek() != "}":
                self.take(",")
        self.at += 1

    def error(self, what: str) -> DataError:
        """A problem of the document as a whole, at this place."""
        line = self.text.count("\n", 0, self.at) + 1
        return DataError(f"{self.path}:{line}: not JSON", got=what, want="a list of objects, or one object a line in a .jsonl file", fix="mend the file")
