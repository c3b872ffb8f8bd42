"""Rows of a prompt and its answer: prompt/completion, prompt/response, question/answer, query/response, or input/output without an instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation
from tunefleet.data.turns import answer_of, asked_of, system_of, tools_of

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"), ("input", "output"))


class PromptCompletion:
    """One prompt, one answer; both may be lists of turns, of which only the answer's are learnt."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["prompt_completion"] = "prompt_completion"

    columns: ClassVar[str] = "prompt, completion or question, answer or input, output (and system, tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Exactly one of the pairs, and nothing that makes it alpaca, a preference or a judged completion."""
        return len(_pairs(columns)) == 1 and not columns & {"instruction", "chosen", "rejected", "label"}

    def read(self, values: Mapping[str, Any]) -> Conversation:
        """A conversation of two turns, or of the turns given."""
        pairs = _pairs(frozenset(values))
        if len(pairs) != 1:
            raise DataError("not exactly one pair of prompt and answer", got=", ".join(sorted(values)), want=" or ".join("/".join(p) for p in PAIRS))
        prompt, answer = pairs[0]
        asked = system_of(values.get("system")) + asked_of(values[prompt], prompt)
        return Conversation((*asked, *answer_of(values[answer], answer, len(asked))), tools_of(values.get("tools")))


def _pairs(columns: frozenset[str]) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if columns.issuperset(pair)]
