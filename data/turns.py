"""Turns of a conversation out of a row: roles under their usual names, contents as text, tools and calls of them as templates expect them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunefleet.cluster.errors import DataError, nearest
from tunefleet.data.examples import Message

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function": "tool",
    "function_call": "assistant",
}


def turn(value: Any, place: int) -> Message:
    """One turn, spelt ``{role, content}`` or ``{from, value}``; further keys go to the template.

    ``weight: 0`` and ``train: false`` (both customary) keep an assistant's turn out of the loss. Raises DataError.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"turn {place} is no object", got=type(value).__name__, want="{role, content} or {from, value}")
    role_key, content_key = ("from", "value") if "from" in value and "role" not in value else ("role", "content")
    given = value.get(role_key)
    if not isinstance(given, str) or given.lower() not in ROLES:
        close = nearest(str(given).lower(), ROLES)
        raise DataError(f"turn {place} has an unknown role", got=str(given), want=", ".join(ROLES), fix=f"did you mean {close}?" if close else "")
    if given == "function_call":
        return Message("assistant", "", {"tool_calls": calls_of(value.get(content_key), f"turn {place}")})
    used = {role_key, content_key, "weight", "train", "tool_calls", "function_call"}
    extra = {name: item for name, item in value.items() if name not in used and item is not None}
    called = value.get("tool_calls") or value.get("function_call")  # the second is how OpenAI spelt a single call before
    if called:
        extra["tool_calls"] = calls_of(called, f"turn {place}")
    learnt = value.get("weight") not in (0, 0.0) and value.get("train") is not False
    return Message(ROLES[given.lower()], text_of(value.get(content_key), f"turn {place}", empty=bool(extra)), extra or None, learnt)


def turns_of(value: Any, name: str, first: int = 0) -> tuple[Message, ...]:
    """A list of turns, or one turn. ``first`` is the number of the first. Raises DataError for anything else, and for an empty list."""
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{name} is no list of turns", got=repr(value)[:80], want="[{role, content}, ...] or [{from, value}, ...]")
    return tuple(turn(item, first + i) for i, item in enumerate(listed))


def asked_of(value: Any, name: str) -> tuple[Message, ...]:
    """A prompt: a text, which becomes a turn of the user, or turns, of which none is learnt. Raises DataError."""
    return context(turns_of(value, name)) if isinstance(value, list | Mapping) else (Message("user", text_of(value, name, empty=False)),)


def answer_of(value: Any, name: str, first: int) -> tuple[Message, ...]:
    """An answer: a text, which becomes a turn of the assistant, or turns, of which at least one is the assistant's. Raises DataError."""
    if not isinstance(value, list | Mapping):
        return (Message("assistant", text_of(value, name, empty=False)),)
    turns = turns_of(value, name, first)
    if not any(said.role == "assistant" for said in turns):
        raise DataError(f"{name} has no turn of the assistant", got=", ".join(said.role for said in turns), want="an answer")
    return turns


def context(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The same turns with nothing to learn in them."""
    return tuple(replace(said, learnt=False) for said in turns)


def system_of(value: Any) -> tuple[Message, ...]:
    """The turn of a column ``system``, or none. Raises DataError."""
    text = text_of(value, "system")
    return (Message("system", text),) if text else ()


def text_of(value: Any, name: str, *, empty: bool = True) -> str:
    """Text, or a list of text parts joined. Raises DataError for anything else, and for nothing at all when that is not allowed."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text") or "") for part in value)
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{name} is no text", got=type(value).__name__, want="text")
    return value


def tools_of(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Descriptions of tools: a list, or the JSON text of one (or of each); bare functions are wrapped as templates expect. Raises DataError."""
    listed = _parsed(value, "tools")
    if not listed:
        return ()
    tools = [_parsed(tool, f"tool {i}") for i, tool in enumerate(listed)] if isinstance(listed, list) else []
    if not tools or not all(isinstance(tool, Mapping) for tool in tools):
        raise DataError("tools are no list of objects", got=type(listed).__name__, want="[{name, description, parameters}, ...], or that as JSON text")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def calls_of(value: Any, name: str) -> list[Mapping[str, Any]]:
    """Calls of tools as ``{type: function, function: {name, arguments}}`` (and ``id`` where there is one), arguments always an object.

    They may be given so, or as ``{name, arguments}``, one or a list, as objects or as JSON text, and the arguments as an object or as the JSON text of one.
    Raises DataError.
    """
    parsed = _parsed(value, name)
    calls = [_parsed(call, name) for call in parsed] if isinstance(parsed, list) else [parsed]
    if not calls:
        raise DataError(f"{name} calls no tool", got=repr(value)[:80], want='[{"type": "function", "function": {"name": ..., "arguments": {...}}}]')
    return [_call(call, name) for call in calls]


def _call(call: Any, name: str) -> Mapping[str, Any]:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str) or not inner["name"]:
        raise DataError(f"{name} is no call of a tool", got=str(call)[:80], want='{"name": ..., "arguments": {...}}')
    arguments = _parsed(inner.get("arguments"), f"{name}, arguments of {inner['name']}") or {}
    if not isinstance(arguments, Mapping):
        raise DataError(f"{name}: the arguments of {inner['name']} are no object", got=repr(arguments)[:80], want='{"city": "Paris"}, or that as JSON text')
    made = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if call.get("id") else made


def _parsed(value: Any, name: str) -> Any:
    """JSON text parsed; anything else as it is, and nothing for an empty text."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON", got=str(error), want="JSON text") from error
