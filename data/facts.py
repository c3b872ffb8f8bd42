"""What the quality gate knows of a row: some two hundred bytes in numpy columns, made block by block on any machine, and judged together.

The facts of a block depend on nothing but its rows, the encoder and whether sketches are made, so they can be made anywhere, stored, and joined;
``tunefleet.data.gate`` judges those of all rows at once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from tunefleet.data.examples import Conversation, Example, Judged, Labelled, Message, Pair, Preference, conversations_of, texts_of
from tunefleet.data.keys import hashed, keys_of
from tunefleet.data.layout import Encoded
from tunefleet.data.scratch import Scratch
from tunefleet.data.settings import Quality
from tunefleet.data.survey import Parsed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Bools = npt.NDArray[np.bool_]

COLUMNS: Mapping[str, str] = {
    "part": "uint16",  # the number of the source
    "file": "uint32",  # the number of the file in it
    "line": "uint32",
    "opening": "uint64",  # keys: see tunefleet.data.keys; 0 is none
    "context": "uint64",
    "claim": "uint64",
    "whole": "uint64",
    "answer": "uint64",  # what is said to the claim, in lower case and with single spaces: two claims with other answers contradict each other
    "spelling": "uint64",  # the same as it is written, where it is short enough to be a label; 0 elsewhere
    "id": "uint64",  # of a column id
    "tokens": "int32",  # of all the row's examples, as they are after the cut to max_length
    "supervised": "int32",  # of them
    "lost": "int32",  # supervised tokens that the cut took away
    "uncut": "int32",  # tokens of its longest sequence before the cut: the max_length that cuts nothing
    "flags": "uint16",
}
LABEL_CHARACTERS = 64
NAMES = 1000  # spellings whose text is kept, a block
ALL_NAMES = 100 * NAMES  # and of all blocks together, about
PROBLEMS = 3  # unreadable rows whose reason is kept, a block


class Flag(IntFlag):
    """What is wrong with a row, or special about it, seen by itself."""

    INVALID = 1
    TRUNCATED = 2
    UNSUPERVISED = 4
    EMPTY = 8  # not one token
    ROLES = 16  # turns out of order
    BLANK = 32  # a turn, an answer or a text without a visible character
    LABEL = 64  # the answer is a label by the kind of example


@dataclass(frozen=True)
class Facts:
    """Facts of rows in reading order, unreadable rows included: they have a place, a flag and nothing else.

    ``sketch`` is (R, BANDS), or (R, 0) where near duplicates are not looked for. ``problems`` says of some unreadable rows why they are;
    ``names`` gives some spellings in words.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    sketch: Hashes
    problems: Mapping[int, str]
    names: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.columns["part"])

    def has(self, flag: Flag) -> Bools:
        """Which rows have a flag."""
        found: Bools = (self.columns["flags"] & flag.value) != 0
        return found

    def at(self, part: int, file: int, lines: int = 0) -> Facts:
        """The same rows as those of source number ``part`` and its file number ``file``, ``lines`` further down."""
        import numpy as np

        places: dict[str, npt.NDArray[Any]] = {"part": np.full(len(self), part, np.uint16), "file": np.full(len(self), file, np.uint32)}
        return Facts({**self.columns, **places, "line": self.columns["line"] + np.uint32(lines)}, self.sketch, self.problems, self.names)

    def between(self, start: int, stop: int) -> Facts:
        """Some of the rows, without a copy of what is known of them."""
        return Facts({name: values[start:stop] for name, values in self.columns.items()}, self.sketch[start:stop], {}, {})

    def to_bytes(self) -> bytes:
        """For a file or another process; ``from_bytes`` reads it without trusting it."""
        import numpy as np

        stream = io.BytesIO()
        words = json.dumps([list(self.problems.items()), list(self.names.items())]).encode()
        arrays: dict[str, Any] = {
            "sketch": self.sketch,
            "words": np.frombuffer(words, np.uint8),
            **{f"of_{name}": values for name, values in self.columns.items()},
        }
        np.savez(stream, **arrays)
        return stream.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> Facts:
        """What ``to_bytes`` wrote. Nothing is unpickled."""
        import numpy as np

        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            problems, names = json.loads(arrays["words"].tobytes())
            return Facts({name: arrays[f"of_{name}"] for name in COLUMNS}, arrays["sketch"], dict(problems), dict(names))

    def only(self, names: Sequence[str]) -> Facts:
        """The same rows with some of their columns, and without sketches."""
        return Facts({name: self.columns[name] for name in names}, self.sketch[:, :0], self.problems, self.names)

    def stored(self, scratch: Scratch) -> Facts:
        """The same facts in a scratch file."""
        columns = {name: scratch.kept(values) for name, values in self.columns.items()}
        return Facts(columns, scratch.kept(self.sketch), self.problems, self.names)

    @staticmethod
    def joined(blocks: Sequence[Facts], scratch: Scratch | None = None) -> Facts:
        """The facts of all blocks, in their order, in a scratch file where there is one. There is one block or more; all have the same columns."""
        import numpy as np

        def together(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
            shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
            return np.concatenate(arrays, out=scratch.empty(shape, arrays[0].dtype) if scratch else None)

        problems: dict[int, str] = {}
        names: dict[int, str] = {}
        rows = 0
        for block in blocks:
            problems |= {rows + row: problem for row, problem in block.problems.items()}
            names |= block.names if len(names) < ALL_NAMES else {}
            rows += len(block)
        columns = {name: together([block.columns[name] for block in blocks]) for name in blocks[0].columns}
        return Facts(columns, together([block.sketch for block in blocks]), problems, names)


def needs_sketches(quality: Quality) -> bool:
    """Whether a policy looks for rows that nearly equal each other."""
    return quality.near_duplicates != "off" or quality.near_leakage != "off"


def facts_of(rows: Sequence[Parsed], encoded: Sequence[Sequence[Encoded] | str], *, near: bool) -> Facts:
    """Facts of some rows of one file, source and file number 0: ``at`` says which they are.

    ``encoded`` holds for every row the examples that it became, before any policy, or why it cannot be encoded; for a row that cannot be parsed it is
    not looked at. ``near`` makes sketches.
    """
    import numpy as np

    from tunefleet.data.sketches import sketches

    columns = {name: np.zeros(len(rows), dtype) for name, dtype in COLUMNS.items()}
    problems: dict[int, str] = {}
    names: dict[int, str] = {}
    texts = []
    for row, (parsed, made) in enumerate(zip(rows, encoded, strict=True)):
        columns["line"][row] = parsed.row.line
        if parsed.example is None or isinstance(made, str):
            columns["flags"][row] = int(Flag.INVALID)
            texts.append("")
            if len(problems) < PROBLEMS:
                problems[row] = made if parsed.example is not None and isinstance(made, str) else parsed.problem
            continue
        values = {**_of_example(parsed.example, names), **_of_tokens(made), "id": _id_key(parsed.row.values.get("id"))}
        values["flags"] = values.pop("form") | values.pop("cut")
        for name, value in values.items():
            columns[name][row] = value
        texts.append(text_of(parsed.example) if near else "")
    return Facts(columns, sketches(texts) if near else np.zeros((len(rows), 0), np.uint64), problems, names)


def text_of(example: Example) -> str:
    """All words of an example, for the search of near duplicates. The answers of a pair are words of it, its prompt once."""
    said = [message.content for conversation in conversations_of(example)[:1] for message in conversation.messages]
    if isinstance(example, Preference):
        said += [message.content for message in example.rejected.messages[example.shared :]]
    return "\n".join((*said, *texts_of(example)))


def _of_example(example: Example, names: dict[int, str]) -> dict[str, int]:
    keys = keys_of(example)
    answer = _answer_of(example)
    plain = " ".join(answer.casefold().split())
    spelling = hashed(answer.encode()) if plain and len(answer) <= LABEL_CHARACTERS else 0
    if spelling and len(names) < NAMES:
        names[spelling] = answer
    return {
        "opening": keys.opening,
        "context": keys.context,
        "claim": keys.claim,
        "whole": keys.whole,
        "answer": hashed(plain.encode()) if plain else keys.whole,
        "spelling": spelling,
        "form": _form(example) + isinstance(example, Labelled | Judged) * Flag.LABEL.value,
    }


def _of_tokens(encoded: Sequence[Encoded]) -> dict[str, int]:
    supervised = sum(one.supervised for one in encoded)
    cut = any(one.truncated for one in encoded) * Flag.TRUNCATED.value  # numbers: flags cost ten times as much to join
    cut += (not supervised) * Flag.UNSUPERVISED.value + (not any(one.length for one in encoded)) * Flag.EMPTY.value
    return {
        "tokens": sum(one.length for one in encoded),
        "supervised": supervised,
        "lost": sum(one.lost for one in encoded),
        "uncut": max((one.uncut for one in encoded), default=0),
        "cut": cut,
    }


def _answer_of(example: Example) -> str:
    """What an example says to its claim, in words; nothing where no words say it."""
    match example:
        case Conversation(messages=messages):
            return next((m.content for m in reversed(messages) if m.role == "assistant"), "")
        case Judged(good=good):
            return "good" if good else "bad"
        case Labelled(labels=labels):
            return ", ".join(sorted(labels))
        case Pair(score=score):
            return f"{score:g}"
    return ""


def _form(example: Example) -> int:
    """The flags of what is wrong with an example's form."""
    spoken = conversations_of(example)
    blank = any(not text.strip() for text in texts_of(example))
    blank |= any(not m.content.strip() and not m.extra for conversation in spoken for m in conversation.messages)
    ordered = all(_in_order(conversation.messages) for conversation in spoken)
    return blank * Flag.BLANK.value + (not ordered) * Flag.ROLES.value


def _in_order(messages: Sequence[Message]) -> bool:
    """Whether turns stand as a chat has them: the system first, then users and assistants in turn, a tool after the assistant that called it."""
    roles = [message.role for message in messages]
    while roles and roles[0] == "system":
        roles.pop(0)
    may_follow = {"": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant")}
    return all(role in may_follow.get(before, ()) for before, role in zip(["", *roles], roles, strict=False))


def _id_key(value: Any) -> int:
    return hashed(str(value).encode("utf-8", "surrogatepass")) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else 0
