"""Rows ``{instruction, input, output, system, history}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.turns import system_of, text_of


class Alpaca:
    """An instruction with an optional input, and its output. Source: Taori et al. 2023 (their prompt is left to the chat template)."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["alpaca"] = "alpaca"

    columns: ClassVar[str] = "instruction, output (and input, system, history)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Instruction and output."""
        return {"instruction", "output"} <= columns

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """Turns of the history first; the input follows the instruction after an empty line."""
        instruction, given = (text_of(values.get(name), name) for name in ("instruction", "input"))
        prompt = "\n\n".join(part for part in (instruction, given) if part)
        if not prompt:
            raise DataError("instruction and input are both empty", want="a prompt in instruction")
        turns = [*system_of(values.get("system"))]
        for pair in values.get("history") or []:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise DataError("history is no list of pairs", got=repr(pair)[:80], want="[[prompt, answer], ...]")
            turns += [Message("user", text_of(pair[0], "history")), Message("assistant", text_of(pair[1], "history"))]
        answer = text_of(values.get("output"), "output", empty=False)
        return Conversation((*turns, Message("user", prompt), Message("assistant", answer)))
