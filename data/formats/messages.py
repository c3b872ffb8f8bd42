"""Rows ``{messages: [{role, content}, ...], tools: [...]}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation
from tunefleet.data.turns import system_of, tools_of, turns_of


class Messages:
    """Conversations as chat interfaces have them."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["messages"] = "messages"

    columns: ClassVar[str] = "messages (and system, tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A column messages, and nothing that judges it."""
        return "messages" in columns and not columns & {"chosen", "rejected", "label"}

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """All turns, in order."""
        turns = turns_of(values.get("messages"), "messages")
        return Conversation(system_of(values.get("system")) + turns, tools_of(values.get("tools")))
