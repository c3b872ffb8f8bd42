"""Rows of a prompt and its answer: prompt/completion, prompt/response, question/answer, query/response, or input/output without an instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.turns import text_of, tools_of, turn

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"), ("input", "output"))


class PromptCompletion:
    """One prompt, one answer; both may be lists of turns, of which only the answer's are learnt."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["prompt_completion"] = "prompt_completion"

    columns: ClassVar[str] = "prompt, completion or question, answer or input, output (and system)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Exactly one of the pairs, and nothing that makes it alpaca or a judged completion."""
        return len(_pairs(columns)) == 1 and not columns & {"instruction", "chosen", "rejected"} and not {"completion", "label"} <= columns

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """A conversation of two turns, or of the turns given."""
        pairs = _pairs(frozenset(values))
        if len(pairs) != 1:
            raise DataError("not exactly one pair of prompt and answer", got=", ".join(sorted(values)), want=" or ".join("/".join(p) for p in PAIRS))
        prompt, answer = (values[name] for name in pairs[0])
        if isinstance(prompt, list) and isinstance(answer, list):
            given = (turn(value, i) for i, value in enumerate(prompt))
            asked = tuple(Message(t.role, t.content, t.extra, learnt=False) for t in given)
            return Conversation((*asked, *(turn(value, len(prompt) + i) for i, value in enumerate(answer))), tools_of(values.get("tools")))
        system = text_of(values.get("system"), "system")
        first = (Message("system", system),) if system else ()
        asked = (*first, Message("user", text_of(prompt, pairs[0][0], empty=False)))
        return Conversation((*asked, Message("assistant", text_of(answer, pairs[0][1], empty=False))))


def _pairs(columns: frozenset[str]) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if columns.issuperset(pair)]
