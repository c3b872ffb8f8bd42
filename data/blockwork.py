"""What is done to one block of rows on one core: read, tokenise, gather the facts, keep it all in the store.

It depends on nothing but the block and what stands in ``Work``, so it may be done anywhere, in any order, and again.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.data.blocks import Block, read_block
from tunefleet.data.columnfile import to_bytes
from tunefleet.data.examples import Example, Text, labels_of
from tunefleet.data.facts import Facts, facts_of
from tunefleet.data.keys import hashed
from tunefleet.data.layout import Column, Encoded, Layout
from tunefleet.data.pieces import EXAMPLES, Piece, piece_name, read_pieces, write_piece
from tunefleet.data.rows import Row
from tunefleet.data.scratch import Scratch
from tunefleet.data.settings import Source
from tunefleet.data.shards import LABELS, ColumnBuffer, File
from tunefleet.data.survey import Parsed, Part, Reading, problem_of
from tunefleet.data.tokens import Encoder
from tunefleet.data.wording import wording

VERSION = 4  # rises whenever the same block would become another piece
BATCH_ROWS = 1000
BATCH_CHARACTERS = 4 << 20
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class Work:
    """What is the same for every block of a preparation.

    ``encoder`` names tokenizer, template and length: by it a process knows what it has loaded. ``near``: whether near duplicates are looked for.
    """

    store: str
    layout: Layout
    tokenizer: Any
    template: str | None
    max_length: int
    encoder: str
    near: bool


@dataclass(frozen=True)
class Task:
    """A block and how it is read. ``share``: examples that are drawn below it may be held out; 1 for sources that are held out as a whole."""

    key: str
    block: Block
    source: Source
    format: str
    decision: str
    share: float


def block_key(work: Work, block: Block, source: Source, kind: str, share: float) -> str:
    """A hash of all that decides what becomes of a block."""
    layout = [work.layout.name, work.layout.version, [[c.name, c.dtype, c.per_token] for c in work.layout.columns]]
    suffix = block.path.rpartition(".")[2].lower()
    value = [VERSION, block.content, suffix, source.kind, source.header, source.columns, source.separator, kind, layout, work.encoder, work.near, share]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class Done:
    """The pieces of a block, and how many of them had to be made."""

    pieces: list[Piece]
    made: int

    def stored(self, scratch: Scratch) -> Done:
        """The same, with what it says of every row in a scratch file."""
        return Done([piece.stored(scratch) for piece in self.pieces], self.made)

    @property
    def tokenised(self) -> int:
        """Rows of the pieces that had to be made."""
        return sum(len(piece.facts) for piece in self.pieces[len(self.pieces) - self.made :])


def do_block(work: Work, task: Task) -> Done:
    """The pieces of a block, made as far as they do not stand. Raises DataError, with file and line, for rows that nothing can be learnt from."""
    store = open_storage(work.store)
    pieces = read_pieces(store, task.key)
    found = len(pieces)
    if pieces and pieces[-1].last:
        return Done(pieces, 0)
    encoder = _encoder(work)
    encoder.begin()
    reading = Reading(Part(task.source, "", False, (task.block.path,)), work.layout.takes, kind=task.format, decision=task.decision)
    rows = islice(read_block(task.source, task.block), sum(len(piece.facts) for piece in pieces), None)
    making = _Making(work, task, encoder)
    batches = _batches(rows)
    batch = next(batches, [])
    while True:
        making.add([reading.parse(row) for row in batch])
        batch = next(batches, [])
        if not batch or making.bytes >= PIECE_BYTES:
            pieces.append(making.close(store, len(pieces), last=not batch))
            making = _Making(work, task, encoder)
        if not batch:
            return Done(pieces, len(pieces) - found)


class _Making:
    """A piece while its rows are added."""

    def __init__(self, work: Work, task: Task, encoder: Encoder) -> None:
        self.work, self.task, self.encoder = work, task, encoder
        self.buffer = ColumnBuffer(work.layout)
        self.facts: list[Facts] = []
        self.examples: dict[str, list[int]] = {name: [] for name in EXAMPLES}
        self.words: list[bytes] = []
        self.labels: dict[str, int] = {}
        self.rows = 0

    @property
    def bytes(self) -> int:
        """Of tokens and words so far."""
        return self.buffer.bytes + sum(map(len, self.words))

    def add(self, rows: Sequence[Parsed]) -> None:
        """Tokenise some rows."""
        self.encoder.know({label for row in rows if row.example is not None for label in labels_of(row.example)})
        self.encoder.read_ahead([row.example for row in rows if row.example is not None])
        encoded = [_encoded(row.example, self.work.layout, self.encoder) if row.example is not None else "" for row in rows]
        facts = facts_of(rows, encoded, near=self.work.near)
        self.facts.append(facts)
        for place, (row, made, opening) in enumerate(zip(rows, encoded, facts.columns["opening"].tolist(), strict=True)):
            if row.example is not None and not isinstance(made, str):
                self._add_examples(self.rows + place, row.example, made, opening)
        self.rows += len(rows)

    def _add_examples(self, row: int, example: Example, made: Sequence[Encoded], opening: int) -> None:
        """The examples of a row, without the empty ones, and without those that nothing can be learnt from where others can. ``opening``: see Keys."""
        learnt = any(one.supervised for one in made)
        limit = draw_limit(self.task.share)
        for one in made:
            if not one.length or (learnt and not one.supervised):
                continue
            draw = hashed(one.columns["ids"].tobytes()) if isinstance(example, Text) else opening
            size = self.buffer.add(self._numbered(one))
            for name, value in (("row", row), ("length", one.length), ("bytes", size), ("supervised", one.supervised), ("draw", draw)):
                self.examples[name].append(value)
            if draw < limit:
                said = wording(example, one, self.encoder.tokenizer, whole=len(made) == 1 and not one.truncated)
                self.words.append(json.dumps(said, ensure_ascii=False).encode())

    def _numbered(self, encoded: Encoded) -> Encoded:
        """With the labels' numbers in this piece: those of all rows are not known yet."""
        import numpy as np

        if LABELS not in encoded.columns:
            return encoded
        texts = [self.encoder.labels[number] for number in encoded.columns[LABELS].tolist()]
        numbers = np.asarray([self.labels.setdefault(text, len(self.labels)) for text in texts], np.int32)
        return replace(encoded, columns={**encoded.columns, LABELS: numbers})

    def close(self, store: Storage, number: int, *, last: bool) -> Piece:
        """Write the piece."""
        import numpy as np

        def put(kind: str, data: bytes) -> File:
            name = piece_name(self.task.key, number, kind)
            stored = store.put(name, data) if data else None
            return File(name=name, bytes=stored.bytes if stored else 0, sha256=stored.sha256 if stored else "")

        columns: Sequence[Column] = self.work.layout.columns
        rows = len(self.examples["row"])
        facts = Facts.joined(self.facts)
        facts.columns["line"][:] -= self.task.block.line - 1
        piece = Piece(
            key=self.task.key,
            facts=facts,
            examples={name: np.asarray(self.examples[name], dtype) for name, dtype in EXAMPLES.items()},
            tokens=put("arrow", to_bytes(columns, self.buffer.values(), rows)),
            words=put("jsonl", b"".join(line + b"\n" for line in self.words)),
            labels=tuple(self.labels),
            decisions=tuple(self.encoder.decisions),
            last=last,
        )
        write_piece(store, number, piece)
        return piece


def draw_limit(share: float) -> int:
    """Draws below it are held out."""
    return math.ceil(share * 2.0**64)


def _encoded(example: Example, layout: Layout, encoder: Encoder) -> Sequence[Encoded] | str:
    """The examples of a row, or why it has none."""
    try:
        return list(layout.encode(example, encoder))
    except DataError as error:
        return problem_of(error)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows that are tokenised at once: many, unless they are long."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _characters(row.values)
        if len(batch) == BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 8


class _Loaded(threading.local):
    """The encoder that this thread used last: a tokenizer takes seconds to load."""

    name: str = ""
    encoder: Encoder | None = None


_loaded = _Loaded()


def _encoder(work: Work) -> Encoder:
    if _loaded.encoder is None or _loaded.name != work.encoder:
        _loaded.name, _loaded.encoder = work.encoder, Encoder(work.tokenizer, work.template, work.max_length)
    return _loaded.encoder
