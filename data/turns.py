"""Turns of a conversation out of a row: roles under their usual names, contents as text, calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
        return Message("assistant", "", {"tool_calls": _calls(value.get(content_key), place)})
    used = {role_key, content_key, "weight", "train"}
    extra = {name: item for name, item in value.items() if name not in used and item is not None}  # Parquet fills absent keys with null
    learnt = value.get("weight") not in (0, 0.0) and value.get("train") is not False
    return Message(ROLES[given.lower()], text_of(value.get(content_key), f"turn {place}", empty=bool(extra)), extra or None, learnt)


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
    """Descriptions of tools: a list, or the JSON text of one; bare functions are wrapped as templates expect. Raises DataError."""
    listed = _parsed(value, "tools") if isinstance(value, str) else value
    if not listed:
        return ()
    if not isinstance(listed, list) or not all(isinstance(tool, Mapping) for tool in listed):
        raise DataError("tools are no list of objects", got=type(listed).__name__, want="[{name, description, parameters}, ...], or that as JSON text")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in listed)


def _calls(value: Any, place: int) -> list[Mapping[str, Any]]:
    """Calls of tools as ``{type: function, function: {name, arguments}}``, out of the JSON text of one call or of several."""
    parsed = _parsed(value, f"turn {place}")
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise DataError(f"turn {place} is no call of a tool", got=str(value)[:80], want='{"name": ..., "arguments": {...}} as JSON')
    return [{"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}} for call in calls]


def _parsed(value: Any, name: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON", got=str(error), want="JSON text") from error
