"""What a tokenised example is made of: the columns of a shard, and how an example becomes them.

An objective passes its layout in. A store's fingerprint holds the layout, never the objective's settings, so that another beta does not
tokenise again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from tunefleet.data.examples import Example
    from tunefleet.data.tokens import Encoder

Dtype = Literal["int32", "int64", "uint8", "float32"]
Columns = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a shard: one value a token, or one value an example."""

    name: str
    dtype: Dtype
    per_token: bool = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """One group as it is written to a shard. ``length`` is its cost in tokens; ``truncated`` says that its end was cut off."""

    columns: Columns
    length: int
    supervised: int
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One group as an objective sees it: its position in the split (its id), and its columns."""

    id: int
    columns: Columns


@dataclass(frozen=True)
class Layout:
    """The columns of a shard and the function that fills them. ``version`` changes whenever ``encode`` would write other numbers."""

    name: str
    version: int
    columns: tuple[Column, ...]
    encode: Callable[[Example, Encoder], Iterator[Encoded]]


def _answers(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """Conversations and pairs with the answers supervised; of a plain text every token is an answer."""
    yield from encoder.answers(example)


def _text(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """A document cut into examples of max_length tokens, every token supervised."""
    yield from encoder.pieces(example)


TOKENS = (Column("ids", "int32"), Column("supervised", "uint8"))
ANSWERS = Layout("answers", 1, TOKENS, _answers)
TEXT = Layout("text", 1, TOKENS, _text)
