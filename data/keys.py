"""What makes two examples the same: 64-bit hashes of their exact text, independent of tokenizer and template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunefleet.data.examples import Conversation, Example, Judged, Labelled, Message, Pair, Preference, Text, Triplet, texts_of


@dataclass(frozen=True, slots=True)
class Keys:
    """``opening`` is everything before the first answer: what a held-out share is drawn by, so that chats that begin alike stay together.

    ``context`` is everything before the last answer (0 where nothing is answered): it must not stand on both sides. ``claim`` is what can be said in several
    ways that contradict each other: two rows with one claim and another ``whole`` do (0: nothing can). ``whole`` is all of it. For a document all of it is
    the opening.
    """

    opening: int
    context: int
    claim: int
    whole: int


def keys_of(example: Example) -> Keys:
    """The hashes of an example.

    A prompt claims its answer; a pair of answers claims which is better, a judged answer whether it is good, a text its labels, two texts their score (in
    whatever order they stand). A query claims nothing: several texts may answer it.
    """
    match example:
        case Conversation():
            return _conversation_keys(example)
        case Text(text=text):
            key = hashed(text.encode())
            return Keys(key, 0, 0, key)
        case Preference(chosen=chosen, rejected=rejected, shared=shared):
            prompt, best, other = _asked(chosen, shared), _hash_turns(chosen, chosen.messages), _hash_turns(rejected, rejected.messages)
            return Keys(_opening(chosen), prompt, _combined(*sorted((best, other))), _combined(best, other))
        case Judged(conversation=judged, good=good, shared=shared):
            answer = _hash_turns(judged, judged.messages)
            return Keys(_opening(judged), _asked(judged, shared), answer, _combined(answer, int(good)))
        case Labelled(texts=texts, labels=labels):
            key = _combined(*(hashed(text.encode()) for text in texts))
            return Keys(hashed(texts[0].encode()), key, key, _combined(key, *(hashed(label.encode()) for label in sorted(labels))))
        case Pair(first=first, second=second, score=score):
            key = _combined(*sorted(hashed(text.encode()) for text in (first, second)))
            return Keys(hashed(first.encode()), key, key, _combined(key, hashed(repr(score).encode())))
        case Triplet(query=query):
            key = hashed(query.encode())
            return Keys(key, key, 0, _combined(*(hashed(text.encode()) for text in texts_of(example))))


def _conversation_keys(example: Conversation) -> Keys:
    places = [i for i, message in enumerate(example.messages) if message.role == "assistant"] or [len(example.messages)]
    answered = places[-1] < len(example.messages)
    opening = _hash_turns(example, example.messages[: places[0]])
    context = opening if len(places) == 1 else _hash_turns(example, example.messages[: places[-1]])
    known = context if answered else 0
    return Keys(opening, known, known, _hash_turns(example, example.messages))


def exchanges(conversation: Conversation) -> list[tuple[Sequence[Message], str]]:
    """Every learnt answer of the assistant, with the turns before it."""
    messages = conversation.messages
    return [(messages[:i], m.content) for i, m in enumerate(messages) if m.role == "assistant" and m.learnt]


def hashed(data: bytes) -> int:
    """A 64-bit hash that never changes: a row stays on its side of the split for ever."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _opening(conversation: Conversation) -> int:
    return _conversation_keys(conversation).opening


def _asked(conversation: Conversation, shared: int) -> int:
    return _hash_turns(conversation, conversation.messages[:shared])


def _combined(*parts: int) -> int:
    return hashed(b"".join(part.to_bytes(8, "little") for part in parts))


def _hash_turns(conversation: Conversation, messages: Sequence[Message]) -> int:
    turns: list[Any] = [[m.role, m.content, m.extra] if m.extra else [m.role, m.content] for m in messages]
    value = [turns, conversation.tools] if conversation.tools else turns
    return hashed(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str).encode())
