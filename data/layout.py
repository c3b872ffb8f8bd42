"""What a tokenised example is made of: the columns of a shard, and how an example becomes them.

An objective passes its layout in. A store's fingerprint holds the layout, never the objective's settings, so that another beta does not
tokenise again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tunefleet.data.examples import Conversation, Example, Judged, Kinds, Labelled, Pair, Preference, Text, Triplet

if TYPE_CHECKING:
    import numpy as np

    from tunefleet.data.tokens import Encoder

Dtype = Literal["int32", "int64", "uint8", "float32"]
Columns = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a shard: a list of values an example (most often one a token, hence the name), or one value an example."""

    name: str
    dtype: Dtype
    per_token: bool = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """One group as it is written to a shard: an example, or the sequences that are compared with each other, which never part.

    ``length`` is the tokens of all its sequences, ``supervised`` how many of them carry loss (1 for a group that is learnt as a whole, 0 where
    nothing can be learnt from it). ``answer`` is the number of the last learnt answer of a conversation that it holds (-1: the last of all).
    ``truncated`` says that the end of a sequence was cut off, ``uncut`` how long the longest of them was before.
    """

    columns: Columns
    length: int
    supervised: int
    truncated: bool = False
    lost: int = 0  # supervised tokens that were cut off
    answer: int = -1
    uncut: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One group as an objective sees it: its position in the split (its id), and its columns."""

    id: int
    columns: Columns


@dataclass(frozen=True)
class Layout:
    """The columns of a shard, the kinds of example it takes (all where none is named), and the function that fills the columns.

    ``version`` changes whenever ``encode`` would write other numbers.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    encode: Callable[[Example, Encoder], Iterator[Encoded]]
    takes: Kinds = ()


class Sequence(NamedTuple):
    """Tokens that stand together in a group; ``name`` is empty where a group has only them. ``supervised`` is None where no single token is."""

    name: str
    ids: np.ndarray[Any, Any]
    supervised: np.ndarray[Any, Any] | None


def sequences(columns: Columns) -> Iterator[Sequence]:
    """The sequences of a group, told by the names of its columns: ``ids``, ``NAME_ids``, and ``NAME_lengths`` where several stand in one column."""
    for column, ids in columns.items():
        name = column.removesuffix("ids").removesuffix("_")
        prefix = f"{name}_" if name else ""
        if column != f"{prefix}ids":
            continue
        if f"{prefix}lengths" not in columns:
            yield Sequence(name, ids, columns.get(f"{prefix}supervised"))
            continue
        end = 0
        for number, length in enumerate(columns[f"{prefix}lengths"].tolist(), start=1):
            yield Sequence(f"{name} {number}", ids[end : end + length], None)
            end += length


def _answers(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """Conversations and pairs with the answers supervised; of a plain text every token is an answer."""
    assert isinstance(example, Conversation | Text)
    yield from encoder.answers(example)


def _text(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """A document cut into examples of max_length tokens, every token supervised."""
    assert isinstance(example, Conversation | Text)
    yield from encoder.pieces(example)


def _preference(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """Both answers, each with the prompt before it and cut to max_length by itself. Nothing can be learnt where one of them is cut off whole."""
    assert isinstance(example, Preference)
    chosen, rejected = encoder.supervised(example.chosen), encoder.supervised(example.rejected)
    columns = {f"{name}_{column}": value for name, one in (("chosen", chosen), ("rejected", rejected)) for column, value in one.columns.items()}
    learnt = chosen.supervised + rejected.supervised if chosen.supervised and rejected.supervised else 0
    lost, uncut = chosen.lost + rejected.lost, max(chosen.uncut, rejected.uncut)
    yield Encoded(columns, chosen.length + rejected.length, learnt, chosen.truncated or rejected.truncated, lost, uncut=uncut)


def _judged(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """An answer with the prompt before it, and whether it is good."""
    import numpy as np

    assert isinstance(example, Judged)
    one = encoder.supervised(example.conversation)
    yield replace(one, columns={**one.columns, "good": np.array([example.good], np.uint8)}, answer=-1)


def _labelled(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """A text (or two as one sequence, told apart by ``segments``) as the tokenizer frames it, and the numbers of its labels, ascending."""
    import numpy as np

    assert isinstance(example, Labelled)
    coded = encoder.framed(*example.texts)
    labels = np.sort(np.asarray([encoder.label(label) for label in example.labels], np.int32))
    yield Encoded({"ids": coded.ids, "segments": coded.segments, "labels": labels}, len(coded.ids), 1, coded.truncated, uncut=coded.uncut)


def _pair(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """Two texts, each a sequence of its own, and their score."""
    import numpy as np

    assert isinstance(example, Pair)
    first, second = encoder.framed(example.first), encoder.framed(example.second)
    length = len(first.ids) + len(second.ids)
    columns = {"first_ids": first.ids, "second_ids": second.ids, "score": np.array([example.score], np.float32)}
    yield Encoded(columns, length, 1, first.truncated or second.truncated, uncut=max(first.uncut, second.uncut))


def _triplet(example: Example, encoder: Encoder) -> Iterator[Encoded]:
    """A query, the text that answers it, and all that do not, end to end in one column."""
    import numpy as np

    assert isinstance(example, Triplet)
    query, positive, *negatives = (encoder.framed(text) for text in (example.query, example.positive, *example.negatives))
    columns = {
        "query_ids": query.ids,
        "positive_ids": positive.ids,
        "negative_ids": np.concatenate([np.zeros(0, np.int32), *(one.ids for one in negatives)]),
        "negative_lengths": np.asarray([len(one.ids) for one in negatives], np.int32),
    }
    all_of = (query, positive, *negatives)
    yield Encoded(columns, sum(len(one.ids) for one in all_of), 1, any(one.truncated for one in all_of), uncut=max(one.uncut for one in all_of))


TOKENS = (Column("ids", "int32"), Column("supervised", "uint8"))
ANSWERS = Layout("answers", 2, TOKENS, _answers, (Conversation, Text))
TEXT = Layout("text", 1, TOKENS, _text, (Text, Conversation))
_PREFERRED = tuple(Column(f"{name}_{column.name}", column.dtype) for name in ("chosen", "rejected") for column in TOKENS)
PREFERENCE = Layout("preference", 1, _PREFERRED, _preference, (Preference,))
JUDGED = Layout("judged", 1, (*TOKENS, Column("good", "uint8", per_token=False)), _judged, (Judged,))
CLASSIFICATION = Layout("classification", 1, (Column("ids", "int32"), Column("segments", "uint8"), Column("labels", "int32")), _labelled, (Labelled,))
_SCORED = (Column("first_ids", "int32"), Column("second_ids", "int32"), Column("score", "float32", per_token=False))
PAIRS = Layout("pairs", 1, _SCORED, _pair, (Pair,))
_RANKED = tuple(Column(name, "int32") for name in ("query_ids", "positive_ids", "negative_ids", "negative_lengths"))
TRIPLETS = Layout("triplets", 1, _RANKED, _triplet, (Triplet,))
LAYOUTS = (ANSWERS, TEXT, PREFERENCE, JUDGED, CLASSIFICATION, PAIRS, TRIPLETS)
