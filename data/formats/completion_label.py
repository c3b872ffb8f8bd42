"""Rows ``{prompt, completion, label}`` or ``{messages, label}`` whose label says whether the answer is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation, Judged
from tunefleet.data.turns import answer_of, asked_of, context, system_of, tools_of, turns_of

PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"), ("input", "output"))
CHATS = ("messages", "conversations")
JUDGEMENTS = {"true": True, "false": False, "1": True, "0": False, "-1": False, "good": True, "bad": False}


class CompletionLabel:
    """A prompt, one answer, and whether it is a good one. Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 3 (unpaired feedback)."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["completion_label"] = "completion_label"

    columns: ClassVar[str] = "prompt, completion, label or question, answer, label or messages, label or conversations, label"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """A label, and exactly one prompt with its answer."""
        return "label" in columns and len(_pairs(columns)) + len(columns.intersection(CHATS)) == 1 and not columns & {"chosen", "rejected", "instruction"}

    def read(self, values: Mapping[str, Any]) -> Judged:
        """The prompt as turns that are not learnt, then the answer; of a chat the last turn is the answer."""
        good, tools, first = judgement(values.get("label")), tools_of(values.get("tools")), system_of(values.get("system"))
        pairs, chats = _pairs(frozenset(values)), [name for name in CHATS if name in values]
        if len(pairs) + len(chats) != 1:
            raise DataError("not exactly one prompt with its answer", got=", ".join(sorted(map(str, values))), want=self.columns)
        if pairs:
            asked = context(first + asked_of(values[pairs[0][0]], pairs[0][0]))
            return Judged(Conversation((*asked, *answer_of(values[pairs[0][1]], pairs[0][1], len(asked))), tools), good, len(asked))
        turns = first + turns_of(values[chats[0]], chats[0])
        if turns[-1].role != "assistant":
            raise DataError("the last turn is not the assistant's", got=turns[-1].role, want="the answer that the label judges, last")
        return Judged(Conversation((*context(turns[:-1]), turns[-1]), tools), good, len(turns) - 1)


def judgement(value: Any) -> bool:
    """Good or bad, out of true, 1, "good" and their like. Raises DataError for anything else."""
    spelt = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().lower()
    if spelt not in JUDGEMENTS:
        raise DataError("the label does not say good or bad", got=repr(value)[:80], want=f"one of {', '.join(JUDGEMENTS)}")
    return JUDGEMENTS[spelt]


def _pairs(columns: frozenset[str]) -> list[tuple[str, str]]:
    return [pair for pair in PAIRS if columns.issuperset(pair)]
