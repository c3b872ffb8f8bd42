"""The words of a few rows, read again from their files: a report shows what it speaks of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from tunefleet.cluster.errors import DataError
from tunefleet.data.examples import Conversation, Example, Labelled, Message, Pair, Preference, Text, Triplet, conversations_of
from tunefleet.data.facts import Facts
from tunefleet.data.survey import Parsed, Part, Reading

CHARACTERS = 1200


def words_of_rows(rows: Iterable[int], facts: Facts, readings: Sequence[Reading]) -> dict[int, str]:
    """The text of every row, cut to a length that can be looked at. ``readings`` say how each source is read; a file that can no longer be is left out."""
    wanted: dict[tuple[int, int], dict[int, int]] = {}
    for row in rows:
        part, file, line = (int(facts.columns[name][row]) for name in ("part", "file", "line"))
        wanted.setdefault((part, file), {})[line] = row
    found: dict[int, str] = {}
    for (part, file), lines in wanted.items():
        found |= {lines[parsed.row.line]: shown(parsed) for parsed in _lines(readings[part], readings[part].part.files[file], lines)}
    return found


def shown(parsed: Parsed) -> str:
    """A row as a person reads it: its turns under their roles, its texts, its label. Of an unreadable one the values as they are."""
    text = _in_words(parsed.example) if parsed.example is not None else f"{parsed.problem}\n{dict(parsed.row.values)}"
    cut = len(text) - CHARACTERS
    return text if cut <= 0 else f"{text[:CHARACTERS]} ... ({cut:,} more characters)"


def _lines(reading: Reading, file: str, lines: Iterable[int]) -> Iterable[Parsed]:
    """The rows that stand at these lines; nothing behind the last is read."""
    wanted = set(lines)
    part = reading.part
    alone = Part(part.source.model_copy(update={"path": file}), part.name, part.held, (file,))
    try:
        rows = takewhile(lambda parsed: parsed.row.line <= max(wanted), Reading(alone, kind=reading.kind).parsed())
        return [parsed for parsed in rows if parsed.row.line in wanted]
    except (DataError, OSError):
        return []


def _in_words(example: Example) -> str:
    match example:
        case Text(text=text):
            return text
        case Preference(chosen=chosen, rejected=rejected, shared=shared):
            asked, liked, other = chosen.messages[:shared], chosen.messages[shared:], rejected.messages[shared:]
            return f"{_turns(asked)}\n\n[chosen]\n{_turns(liked)}\n\n[rejected]\n{_turns(other)}"
        case Labelled(texts=texts, labels=labels):
            return "\n".join((*texts, f"[label] {', '.join(labels) or 'none'}"))
        case Pair(first=first, second=second, score=score):
            return f"{first}\n{second}\n[score] {score:g}"
        case Triplet(query=query, positive=positive, negatives=negatives):
            return "\n".join((f"[query] {query}", f"[positive] {positive}", *(f"[negative] {text}" for text in negatives)))
    said = "\n".join(_turns(conversation.messages) for conversation in conversations_of(example))
    return said if isinstance(example, Conversation) else f"{said}\n[judged] {'good' if example.good else 'bad'}"


def _turns(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" + (f" {_as_json(message.extra)}" if message.extra else "") for message in messages)


def _as_json(extra: Mapping[str, Any]) -> str:
    return json.dumps(dict(extra), ensure_ascii=False, default=str)
