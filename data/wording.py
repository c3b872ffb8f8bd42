"""A held-out example in words, for reports and samples: what was asked, what the row answers, and what else belongs to it."""

from __future__ import annotations

from typing import Any

from tunefleet.data.examples import Conversation, Example, Judged, Labelled, Message, Pair, Preference, Text, Triplet
from tunefleet.data.keys import exchanges
from tunefleet.data.layout import Encoded


def wording(example: Example, encoded: Encoded, tokenizer: Any, *, whole: bool) -> dict[str, Any]:
    """``prompt`` and ``answer`` in words, always; with ``messages`` and ``tools`` (the turns before the answer) for what a chat template writes.

    Of a conversation it is the last answer that ``encoded`` holds. Where everything of a conversation or a document is learnt, all of it is the answer.
    ``whole``: ``encoded`` is all that became of the example, uncut.
    """
    match example:
        case Text(text=text) if whole:
            return {"prompt": "", "answer": text}
        case Conversation() if encoded.supervised < encoded.length - 1:
            learnt = exchanges(example)
            before, said = learnt[encoded.answer] if learnt else (example.messages, "")
            return _turns(tuple(before), said, example)
        case Conversation() | Text():
            return {"prompt": "", "answer": tokenizer.decode(encoded.columns["ids"].tolist(), skip_special_tokens=True)}
        case Preference(chosen=chosen, rejected=rejected, shared=shared):
            return {**_turns(chosen.messages[:shared], _said(chosen.messages[shared:]), chosen), "rejected": _said(rejected.messages[shared:])}
        case Judged(conversation=judged, good=good, shared=shared):
            return {**_turns(judged.messages[:shared], _said(judged.messages[shared:]), judged), "good": good}
        case Labelled(texts=texts, labels=labels):
            return {"prompt": "\n".join(texts), "answer": ", ".join(labels), "labels": list(labels)}
        case Pair(first=first, second=second, score=score):
            return {"prompt": first, "answer": second, "score": score}
        case Triplet(query=query, positive=positive, negatives=negatives):
            return {"prompt": query, "answer": positive, "negatives": list(negatives)}


def _turns(before: tuple[Message, ...], said: str, conversation: Conversation) -> dict[str, Any]:
    turns = [{"role": m.role, "content": m.content, **(m.extra or {})} for m in before]
    prompt = before[0].content if len(before) == 1 else _said(before)
    return {"prompt": prompt, "answer": said, "messages": turns, "tools": list(conversation.tools)}


def _said(messages: tuple[Message, ...]) -> str:
    return messages[0].content if len(messages) == 1 else "\n".join(f"{m.role}: {m.content}" for m in messages)
