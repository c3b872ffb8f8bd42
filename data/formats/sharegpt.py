"""Rows ``{conversations: [{from, value}, ...], system, tools}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.turns import text_of, tools_of, turn


class Sharegpt:
    """Conversations with speakers human, gpt, system, function_call and observation."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["sharegpt"] = "sharegpt"

    columns: ClassVar[str] = "conversations (and system, tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A column conversations, and no pair of preferences."""
        return "conversations" in columns and not columns & {"chosen", "rejected"}

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """The system text first where there is one, then all turns; calls of tools become the template's ``tool_calls``."""
        turns = values.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise DataError("conversations is no list of turns", got=repr(turns)[:80], want="[{from, value}, ...]")
        system = text_of(values.get("system"), "system")
        first = (Message("system", system),) if system else ()
        return Conversation((*first, *(turn(value, i) for i, value in enumerate(turns))), tools_of(values.get("tools")))
