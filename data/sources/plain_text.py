"""Plain text: documents ended by the source's separator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.files import find_files, open_text
from tunefleet.data.origin import Numbered
from tunefleet.data.settings import Source

CHUNK_CHARACTERS = 1 << 20


class PlainText:
    """A chunk of the file and a document at a time. White space around a document is the separator's; a blank one is none."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["plain_text"] = "plain_text"

    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files."""
        return find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every document as ``{text: ...}``, with the line where it begins."""
        with open_text(address) as stream:
            yield from documents(source.separator, iter(lambda: stream.read(CHUNK_CHARACTERS), ""))


def documents(separator: str, chunks: Iterable[str]) -> Iterator[Numbered]:
    """Documents of plain text that comes in chunks, ended by a separator."""
    pending, tail, line = [""], "", 1
    keep = len(separator) - 1
    for chunk in chunks:
        *ended, rest = (tail + chunk).split(separator) if separator else (tail + chunk,)
        for part in ended:
            document, pending = "".join([*pending, part]), []
            yield from _document(document, line)
            line += document.count("\n") + separator.count("\n")
        cut = len(rest) - keep if separator else len(rest)
        tail = rest[max(cut, 0) :]
        pending.append(rest[: max(cut, 0)])
    yield from _document("".join([*pending, tail]), line)


def _document(text: str, line: int) -> Iterator[Numbered]:
    body = text.strip()
    if body:
        before = text[: len(text) - len(text.lstrip())].count("\n")
        yield line + before, {"text": body}, ""
