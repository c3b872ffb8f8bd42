"""Rows ``{prompt, chosen, rejected}``, ``{messages or conversations, chosen, rejected}``, or ``{chosen, rejected}`` that begin alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.settings import Settings
from tunefleet.data.examples import Conversation, Message, Preference
from tunefleet.data.turns import answer_of, asked_of, context, system_of, text_of, tools_of

PROMPTS = ("prompt", "question", "messages", "conversations")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_SPOKEN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class Preferences:
    """One prompt, and two answers to it of which the first is better. Where the answers repeat the prompt, it is what both begin with."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["preference"] = "preference"

    columns: ClassVar[str] = "chosen, rejected (and prompt, question, messages, conversations, system, tools)"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, columns: frozenset[str]) -> bool:
        """Chosen and rejected, and at most one column of prompts."""
        return {"chosen", "rejected"} <= columns and len(columns.intersection(PROMPTS)) <= 1

    def read(self, values: Mapping[str, Any]) -> Preference:
        """The prompt as turns that are not learnt, then either answer."""
        missing = [name for name in ("chosen", "rejected") if values.get(name) in (None, "", [])]
        if missing:
            raise DataError(f"{missing[0]} is missing", got=", ".join(sorted(map(str, values))), want="two answers, chosen and rejected")
        if values["chosen"] == values["rejected"]:
            raise DataError("chosen and rejected are the same", got=str(values["chosen"])[:80], want="two answers of which one is better")
        given = [name for name in PROMPTS if values.get(name) not in (None, "", [])]
        if len(given) > 1:
            raise DataError("several columns hold a prompt", got=", ".join(given), want="one of them")
        before = context((*system_of(values.get("system")), *(asked_of(values[given[0]], given[0]) if given else ())))
        chosen, rejected, inside = _answers(values, len(before), prompted=bool(given))
        repeated = given and inside and inside[0].role != "assistant"
        asked = _merged(before, inside) if repeated else before + inside
        if not any(said.role != "system" for said in asked):
            raise DataError(
                "there is no prompt", got="chosen and rejected share no beginning", want="a column prompt, or answers that begin with the same turns or lines"
            )
        tools = tools_of(values.get("tools"))
        return Preference(Conversation((*asked, *chosen), tools), Conversation((*asked, *rejected), tools), len(asked))


Turns = tuple[Message, ...]


def _answers(values: Mapping[str, Any], place: int, *, prompted: bool) -> tuple[Turns, Turns, Turns]:
    """Both answers, and the turns that both began with before them."""
    pair = values["chosen"], values["rejected"]
    if not prompted and all(isinstance(answer, str) for answer in pair):
        first, second, asked = _told_apart(*pair)
        return first, second, asked
    chosen, rejected = answer_of(pair[0], "chosen", place), answer_of(pair[1], "rejected", place)
    return _parted(chosen, rejected) if min(len(chosen), len(rejected)) > 1 else (chosen, rejected, ())


def _parted(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """The turns that both have in common come out of the answers; each must keep a turn of the assistant."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    for name, said in (("chosen", chosen[shared:]), ("rejected", rejected[shared:])):
        if said[0].role != "assistant":
            raise DataError(
                f"{name} does not part from the other in an answer", got=f"a turn of the {said[0].role}", want="the same turns up to an answer of the assistant"
            )
    return chosen[shared:], rejected[shared:], context(chosen[:shared])


def _merged(before: Turns, inside: Turns) -> Turns:
    """A prompt that the answers repeat stands once; a system turn that only the columns have stays."""
    extra = tuple(said for said in before if said.role == "system" and not any(other.role == "system" for other in inside))
    missing = [said.content.strip()[:60] for said in before if said.role == "user" and said.content.strip() not in {other.content.strip() for other in inside}]
    if missing:
        raise DataError("the prompt is not the one that the answers repeat", got=missing[0], want="the same turns, or answers without the prompt")
    return extra + inside


def _told_apart(chosen: str, rejected: str) -> tuple[Turns, Turns, Turns]:
    """Two texts that begin with the same prompt: dialogues with lines of Human and Assistant, or the shared lines as the prompt.

    Where the prompt ends inside a shared line cannot be known. Ending it early does no harm: the tokens that both answers begin with cancel out of their
    comparison.
    """
    first, second = _dialogue(chosen), _dialogue(rejected)
    if first and second:
        return _parted(first, second) if min(len(first), len(second)) > 1 else (first, second, ())
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    cut = chosen.rfind("\n", 0, common) + 1 or chosen.rfind(" ", 0, common) + 1
    asked, *answers = chosen[:cut].strip(), chosen[cut:].strip(), rejected[cut:].strip()
    if not asked:
        return (), (), ()
    if not all(answers):
        raise DataError("one answer is the beginning of the other", got=chosen[:80], want="a column prompt")
    return (Message("assistant", answers[0]),), (Message("assistant", answers[1]),), (Message("user", asked, None, learnt=False),)


def _dialogue(text: str) -> Turns:
    """The turns of a text in which every paragraph that begins with ``Human:`` or ``Assistant:`` is one; none for other texts."""
    marks = list(_SPOKEN.finditer(text))
    if not marks or text[: marks[0].start()].strip() or marks[0][1] != "Human" or marks[-1][1] != "Assistant":
        return ()
    ends: Sequence[int] = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = tuple(Message(_SPEAKERS[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True))
    if not turns[-1].content:
        raise DataError("the last answer of a dialogue is empty", got=text_of(text[-80:], "dialogue"), want="an answer after the last Assistant:")
    return turns
