"""Turns as a chat template wants them: most take the arguments of a call of a tool as an object, some as JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.data.examples import Message

Arguments = Literal["object", "text"]
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # transformers lets a template find them under either of the first two
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
_TOOL = {"type": "function", "function": {"name": "find_place", "description": "-", "parameters": _PARAMETERS}}
_CALL = {"id": "call00000", "type": "function", "function": {"name": "find_place", "arguments": {"city": "Paris"}}}
_PROBE = (Message("user", "a"), Message("assistant", "", {"tool_calls": [_CALL]}))


def plain_turns(messages: Sequence[Message], arguments: Arguments) -> list[dict[str, Any]]:
    """Turns as the plain objects that a template reads."""
    return [{"role": message.role, "content": message.content, **_extra(message, arguments)} for message in messages]


def thoughts_of(message: Message) -> str:
    """What the assistant thought before it spoke, where the row tells it apart."""
    found = next((value for name in THOUGHTS if (value := (message.extra or {}).get(name))), "")
    return found if isinstance(found, str) else ""


def wanted_arguments(write: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], str]) -> Arguments:
    """How a template writes a call as JSON that can be read back, found by trying: as objects, unless only text does it."""
    for arguments in ("object", "text"):
        try:
            written = write(plain_turns(_PROBE, arguments), [_TOOL])
        except DataError:
            continue
        if "Paris" in written and not any(odd in written for odd in ("{'city'", '\\"city\\"')):  # Python's way to write an object, and text in quotes again
            return arguments
    return "object"


def _extra(message: Message, arguments: Arguments) -> dict[str, Any]:
    extra = dict(message.extra or {})
    if extra.get("tool_calls") and arguments == "text":
        extra["tool_calls"] = [_with_text(call) for call in extra["tool_calls"]]
    return extra


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
