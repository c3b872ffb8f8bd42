"""What makes two examples the same: 64-bit hashes of their exact text, independent of tokenizer and template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunefleet.data.examples import Conversation, Example, Message, Text


@dataclass(frozen=True, slots=True)
class Keys:
    """``opening`` is everything before the first answer: what a held-out share is drawn by, so that chats that begin alike stay together.

    ``context`` is everything before the last answer (0 where nothing is answered): two answers to it contradict each other, and it must not stand on both
    sides. ``whole`` is all of it. For a document all of it is the opening.
    """

    opening: int
    context: int
    whole: int


def keys_of(example: Example) -> Keys:
    """The three hashes of an example."""
    if isinstance(example, Text):
        key = hashed(example.text.encode())
        return Keys(key, 0, key)
    places = [i for i, message in enumerate(example.messages) if message.role == "assistant"] or [len(example.messages)]
    answered = places[-1] < len(example.messages)
    opening = _hash_turns(example, example.messages[: places[0]])
    context = opening if len(places) == 1 else _hash_turns(example, example.messages[: places[-1]])
    return Keys(opening, context if answered else 0, _hash_turns(example, example.messages))


def words_of(example: Example) -> list[str]:
    """The words of all turns, for the search of near duplicates."""
    if isinstance(example, Text):
        return example.text.split()
    return [word for message in example.messages for word in message.content.split()]


def exchanges(conversation: Conversation) -> list[tuple[Sequence[Message], str]]:
    """Every learnt answer of the assistant, with the turns before it."""
    messages = conversation.messages
    return [(messages[:i], m.content) for i, m in enumerate(messages) if m.role == "assistant" and m.learnt]


def hashed(data: bytes) -> int:
    """A 64-bit hash that never changes: a row stays on its side of the split for ever."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _hash_turns(conversation: Conversation, messages: Sequence[Message]) -> int:
    turns: list[Any] = [[m.role, m.content, m.extra] if m.extra else [m.role, m.content] for m in messages]
    value = [turns, conversation.tools] if conversation.tools else turns
    return hashed(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode())
