"""Pieces: what became of a block of rows, kept in the store under a hash of all that decides it.

    blocks/3f/3f9c...-00000.arrow     the examples, in the columns of a shard
    blocks/3f/3f9c...-00000.jsonl     the words of those that may be held out, where there are any
    blocks/3f/3f9c...-00000.facts     written last: the checksums of the two, what the quality gate knows of the rows, and where each example comes from

A block is one piece, or several where a file cannot be cut. So a preparation that was killed goes on where it stood, and one of rows that were added to finds
what it made of the others.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Storage
from tunefleet.data.facts import Facts
from tunefleet.data.scratch import Scratch
from tunefleet.data.shards import File

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCKS = "blocks"
EXAMPLES: Mapping[str, str] = {
    "row": "int32",  # of the piece
    "length": "int32",
    "bytes": "int32",  # of its columns
    "supervised": "int32",
    "draw": "uint64",  # a share is held out of those with the smallest
}


@dataclass(frozen=True)
class Piece:
    """Examples of a block, in order, and the facts of its rows; lines are counted from the block's first, and part and file are 0.

    ``key`` is its block's. ``tokens``: the file of examples. ``words``: the file of the words of those whose draw may hold them out. ``labels``: the number of
    each in this piece is its place. ``last``: whether the block ends with it.
    """

    key: str
    facts: Facts
    examples: Mapping[str, npt.NDArray[Any]]
    tokens: File
    words: File
    labels: tuple[str, ...]
    decisions: tuple[str, ...]
    last: bool

    def stored(self, scratch: Scratch) -> Piece:
        """The same piece, with what it says of every row in a scratch file."""
        return replace(self, facts=self.facts.stored(scratch), examples={name: scratch.kept(values) for name, values in self.examples.items()})


def piece_name(key: str, number: int, kind: str) -> str:
    """``kind``: arrow, jsonl or facts."""
    return f"{BLOCKS}/{key[:2]}/{key}-{number:05d}.{kind}"


def key_of(name: str) -> str:
    """The key in a piece's name."""
    return name.rpartition("/")[2].rpartition("-")[0]


def write_piece(store: Storage, number: int, piece: Piece) -> None:
    """Let a piece count: its other files are there."""
    import numpy as np

    said = {"tokens": piece.tokens.model_dump(), "words": piece.words.model_dump(), "labels": piece.labels, "decisions": piece.decisions, "last": piece.last}
    arrays: dict[str, Any] = {name: piece.examples[name] for name in EXAMPLES}
    stream = io.BytesIO()
    np.savez(stream, facts=np.frombuffer(piece.facts.to_bytes(), np.uint8), said=np.frombuffer(json.dumps(said).encode(), np.uint8), **arrays)
    body = stream.getvalue()
    store.put(piece_name(piece.key, number, "facts"), hashlib.sha256(body).digest() + body)


def read_piece(store: Storage, key: str, number: int) -> Piece | None:
    """A finished piece; None where there is none, or one that was altered: it is made anew."""
    import numpy as np

    name = piece_name(key, number, "facts")
    try:
        whole = store.read(name) if store.exists(name) else b""
    except StorageError:  # gone in between
        return None
    if not whole or hashlib.sha256(whole[32:]).digest() != whole[:32]:
        return None
    with np.load(io.BytesIO(whole[32:]), allow_pickle=False) as arrays:
        said = json.loads(arrays["said"].tobytes())
        facts = Facts.from_bytes(arrays["facts"].tobytes())
        examples = {name: arrays[name] for name in EXAMPLES}
    tokens, words = File.model_validate(said["tokens"]), File.model_validate(said["words"])
    if any(file.bytes and not _stands(store, file) for file in (tokens, words)):
        return None
    return Piece(key, facts, examples, tokens, words, tuple(said["labels"]), tuple(said["decisions"]), said["last"])


def read_pieces(store: Storage, key: str) -> list[Piece]:
    """The finished pieces of a block from its first on; the block is finished when the last of them says so."""
    pieces: list[Piece] = []
    while (piece := read_piece(store, key, len(pieces))) is not None:
        pieces.append(piece)
        if piece.last:
            break
    return pieces


def _stands(store: Storage, file: File) -> bool:
    """Whether a file is there in its size; its bytes are checked when they are used."""
    return store.exists(file.name) and store.size(file.name) == file.bytes
