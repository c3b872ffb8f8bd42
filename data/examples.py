"""The kinds of example that a row format can read out of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``extra`` holds what a template may read beside the content (tool_calls, name, reasoning_content).

    ``learnt`` False keeps an assistant's turn as context: nothing of it is supervised.
    """

    role: str
    content: str
    extra: Mapping[str, Any] | None = None
    learnt: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order; the assistant's are what is learnt. A prompt with one answer is a conversation of two turns."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A document."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, of which one is better. Both conversations begin with the same ``shared`` turns: the prompt, nothing of it learnt."""

    chosen: Conversation
    rejected: Conversation
    shared: int


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer that was found good or bad, without another to compare it with. The first ``shared`` turns are the prompt."""

    conversation: Conversation
    good: bool
    shared: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text, or two that are looked at together, and its labels. ``several`` says that a row may have any number of them; else it has one."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    several: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and how alike they are."""

    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class Triplet:
    """A query, a text that answers it, and any number of texts that do not (none: those of the other rows serve)."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


Example = Conversation | Text | Preference | Judged | Labelled | Pair | Triplet
Kinds = tuple[type[Example], ...]

IN_WORDS: Mapping[type[Example], str] = {
    Conversation: "conversations",
    Text: "documents",
    Preference: "pairs of a chosen and a rejected answer",
    Judged: "answers judged good or bad",
    Labelled: "texts with labels",
    Pair: "pairs of texts with a score",
    Triplet: "queries with texts that answer them",
}


def in_words(kinds: Sequence[type[Example]]) -> str:
    """Kinds of example for a message."""
    return " or ".join(IN_WORDS[kind] for kind in kinds)


def conversations_of(example: Example) -> tuple[Conversation, ...]:
    """What of an example the chat template writes."""
    match example:
        case Conversation():
            return (example,)
        case Preference():
            return (example.chosen, example.rejected)
        case Judged():
            return (example.conversation,)
    return ()


def texts_of(example: Example) -> tuple[str, ...]:
    """What of an example is plain text."""
    match example:
        case Text():
            return (example.text,)
        case Labelled():
            return example.texts
        case Pair():
            return (example.first, example.second)
        case Triplet():
            return (example.query, example.positive, *example.negatives)
    return ()


def labels_of(example: Example) -> tuple[str, ...]:
    """The labels of an example; none for kinds that have none."""
    return example.labels if isinstance(example, Labelled) else ()


def label_order(label: str) -> tuple[bool, int, str]:
    """The key by which a vocabulary of labels is sorted: whole numbers by their value, then words."""
    number = label.removeprefix("-")
    whole = number.isascii() and number.isdigit() and len(number) < 19
    return (not whole, int(label) if whole else 0, label)
