"""Prompts out of files of rows: of any row format that holds a question, with or without its answer; of plain text a prompt a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunefleet.cluster.errors import DataError
from tunefleet.data.choice import Format, choose_format
from tunefleet.data.examples import Conversation, Example, Judged, Message, Preference, Text
from tunefleet.data.files import suffix_of
from tunefleet.data.rows import Row, read_rows
from tunefleet.data.settings import Source

LINES = ".txt"
SHOWN = 5  # bad rows that an error names
_ANSWERS = {"prompt": "completion", "question": "answer", "instruction": "output", "query": "response", "input": "output"}
_KNOWN = frozenset({*_ANSWERS.values(), "messages", "conversations", "text", "chosen", "rejected", "response"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to answer: a text, or turns of which the last asks. ``values`` are the row's own columns."""

    where: str
    asked: str | tuple[Message, ...]
    tools: Sequence[Mapping[str, Any]]
    values: Mapping[str, Any]


def read_prompts(source: Source) -> list[Prompt]:
    """The prompts of all rows, in order. Raises DataError for files that are missing or empty, and for all rows together that hold no prompt."""
    found: list[Prompt] = []
    bad: list[str] = []
    for item in _prompts(source):
        if isinstance(item, Prompt):
            found.append(item)
        else:
            bad.append(item)
    refuse_bad(bad, len(found) + len(bad))
    if not found:
        raise DataError(f"{source.path}: holds no row", want="at least one prompt", fix="check the file")
    return found


def refuse_bad(bad: Sequence[str], rows: int) -> None:
    """Raise DataError for the rows that cannot be answered, each given as its place and what is wrong."""
    if bad:
        got = "; ".join(bad[:SHOWN]) + (f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else "")
        raise DataError(f"{len(bad):,} of {rows:,} rows cannot be answered", got=got, want="a prompt in every row", fix="mend these rows, or take them out")


def _prompts(source: Source) -> Iterator[Prompt | str]:
    """A prompt, or place and problem, of every row."""
    if suffix_of(source.path) == LINES:
        yield from _lines(source)
        return
    kind: Format | None = None
    for row in read_rows(source):
        values = _with_answer(row.values)
        if row.problem:
            yield f"{row.where}: {row.problem}"
            continue
        if kind is None:
            kind, _, _ = choose_format(source, Row(row.path, row.line, values))
        try:
            yield _prompt(row, kind.read(values))
        except DataError as error:
            yield f"{row.where}: {error.what}"


def _lines(source: Source) -> Iterator[Prompt | str]:
    """Every line of text files that is not blank."""
    for row in read_rows(source.model_copy(update={"separator": "\n", "format": "text"})):
        text = str(row.values.get("text", ""))
        yield f"{row.where}: {row.problem}" if row.problem else Prompt(row.where, text, (), {"prompt": text})


def _with_answer(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row that only asks, as if it had an answer: so every row format can read it. The answer is left out again."""
    if _KNOWN & values.keys():
        return values
    asking = next((name for name in _ANSWERS if name in values), None)
    return {**values, _ANSWERS[asking]: "?"} if asking else values


def _prompt(row: Row, example: Example) -> Prompt:
    match example:
        case Text():
            return Prompt(row.where, example.text, (), row.values)
        case Conversation():
            turns, tools = example.messages, example.tools
        case Preference():
            turns, tools = example.chosen.messages[: example.shared], example.chosen.tools
        case Judged():
            turns, tools = example.conversation.messages[: example.shared], example.conversation.tools
        case _:
            raise DataError("holds no prompt")
    last = next((i for i, turn in reversed(list(enumerate(turns))) if turn.role != "assistant"), None)
    if last is None:
        raise DataError("nobody asks in it")
    turns = turns[: last + 1]
    plain = len(turns) == 1 and turns[0].role == "user" and not turns[0].extra and not tools
    return Prompt(row.where, turns[0].content if plain else turns, tools, row.values)
