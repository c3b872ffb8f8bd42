"""The splits of a store as they are written: training rows, held-out rows, and the words of the held-out ones for reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tunefleet.data.examples import Example
from tunefleet.data.layout import Encoded, Layout
from tunefleet.data.shards import ShardWriter
from tunefleet.data.survey import Parsed, Part
from tunefleet.data.wording import wording

HOLDOUT = "holdout"
HELD_ROWS = "rows-holdout.jsonl"


@dataclass(frozen=True, slots=True)
class Item:
    """A row that stays: its part, its example, its number among the good rows, and the hash of its opening."""

    part: Part
    parsed: Parsed
    number: int
    opening: int

    @property
    def example(self) -> Example:
        """The example; a row that stays has one."""
        assert self.parsed.example is not None
        return self.parsed.example


class Sink:
    """The splits being written, and the text of the held-out rows beside them. ``sets`` gives each held-out source's range of ids."""

    def __init__(self, folder: Path, layout: Layout, tokenizer: Any, parts: Sequence[Part], *, held: bool) -> None:
        self.tokenizer = tokenizer
        self.writers = {split: ShardWriter(folder, split, layout) for split in ("train", *((HOLDOUT,) if held else ()))}
        self.sets: dict[str, list[int]] = {}
        self._waiting = list(parts)
        self._shared = not any(part.held for part in parts)  # the held-out rows are a share of the training ones
        self.ids = 0
        self._path = folder / HELD_ROWS
        self._rows: TextIO | None = None

    def __enter__(self) -> Sink:
        self._rows = self._path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows is not None:
            self._rows.close()

    def add(self, item: Item, answer: int, encoded: Encoded, *, held: bool) -> None:
        """Write one example to its split; ``answer`` is the number of the answer that it holds, -1 the last. The rows of a part come one after the other."""
        while item.part in self._waiting:
            self._begin(self._waiting.pop(0))
        self.writers[HOLDOUT if held else "train"].add(encoded)
        if held and self._rows is not None:
            name = item.part.name if item.part.held else HOLDOUT
            self._rows.write(json.dumps({"id": self.ids, "source": name, **wording(item.example, answer, encoded, self.tokenizer)}, ensure_ascii=False) + "\n")
            self.ids += 1
            self.sets.setdefault(name, [self.ids - 1, self.ids])[1] = self.ids

    def close(self) -> dict[str, Any]:
        """Write what is left; returns the splits of the index."""
        for part in self._waiting:
            self._begin(part)
        return {split: writer.close() for split, writer in self.writers.items()}

    def _begin(self, part: Part) -> None:
        """A source has its place in every split that its rows may go to."""
        for split, writer in self.writers.items():
            if part.held == (split == HOLDOUT) or (split == HOLDOUT and self._shared):
                writer.source(part.name)
