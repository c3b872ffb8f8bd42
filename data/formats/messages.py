"""Rows ``{messages: [{role, content}, ...], tools: [...]}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation
from tunefleet.data.turns import tools_of, turn


class Messages:
    """Conversations as chat interfaces have them."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["messages"] = "messages"

    columns: ClassVar[str] = "messages (and tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A column messages, and no pair of preferences."""
        return "messages" in columns and not columns & {"chosen", "rejected"}

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """All turns, in order."""
        turns = values.get("messages")
        if not isinstance(turns, list) or not turns:
            raise DataError("messages is no list of turns", got=repr(turns)[:80], want="[{role, content}, ...]")
        return Conversation(tuple(turn(value, i) for i, value in enumerate(turns)), tools_of(values.get("tools")))
