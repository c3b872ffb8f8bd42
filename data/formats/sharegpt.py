"""Rows ``{conversations: [{from, value}, ...], system, tools}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation
from tunefleet.data.turns import system_of, tools_of, turns_of


class Sharegpt:
    """Conversations with speakers human, gpt, system, function_call and observation."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["sharegpt"] = "sharegpt"

    columns: ClassVar[str] = "conversations (and system, tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A column conversations, and nothing that judges it."""
        return "conversations" in columns and not columns & {"chosen", "rejected", "label"}

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """The system text first where there is one, then all turns; calls of tools become the template's ``tool_calls``."""
        turns = turns_of(values.get("conversations"), "conversations")
        return Conversation(system_of(values.get("system")) + turns, tools_of(values.get("tools")))
