"""The kinds of example that a row format can read out of a row."""

from __future__ import annotations

from collections.abc import Mapping
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


Example = Conversation | Text
