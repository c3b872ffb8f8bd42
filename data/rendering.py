"""A conversation as text, and which of its characters the assistant says.

No template needs generation markers: the conversation is rendered up to every turn of the assistant and past it, and the difference is what the
assistant said. Where a template writes earlier turns anew as the conversation goes on (Qwen3 takes thoughts out of them), there is no one text in which
every turn stands as it was generated. Then there are several texts, each with as many turns as stand in it word for word as they were generated: often
one a turn, and the calls and the answer to one question where a template (Qwen3's) takes thoughts only out of the questions before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.data.calls import Arguments, plain_turns, thoughts_of, wanted_arguments
from tunefleet.data.examples import Conversation, Message
from tunefleet.data.templates import DEFAULT, Template

THOUGHTS_END = "</think>"


@dataclass(frozen=True, slots=True)
class Rendering:
    """A text, the half-open character spans of it that the assistant says, and the number (of the learnt ones) of the last answer in it."""

    text: str
    spans: tuple[tuple[int, int], ...]
    answer: int = -1


class Renderer:
    """Renders conversations through one template. ``decisions`` grows by what is found on the way, each said once."""

    def __init__(self, tokenizer: Any, template: Template) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.decisions: list[str] = [template.decision] if template.decision else []
        if template.text.endswith(DEFAULT) and not tokenizer.eos_token:
            raise SettingsError(
                "data.chat_template: the tokenizer has neither a template nor an end-of-text token",
                got=f"{type(tokenizer).__name__} without eos_token",
                want="a template, or a token that ends an answer",
                fix="set data.chat_template",
            )

    def text(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, ask: bool = False) -> str:
        """The conversation as the template writes it; ``ask`` adds the header of the answer to come.

        Raises DataError when the template refuses the conversation, SettingsError when it is no template.
        """
        called = any((message.extra or {}).get("tool_calls") for message in messages)
        return self._write(plain_turns(messages, self._arguments if called else "object"), tools, ask=ask)

    def _write(self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Any], *, ask: bool = False) -> str:
        import jinja2

        try:
            written: str = self.tokenizer.apply_chat_template(
                list(turns), tools=list(tools) or None, chat_template=self.template.text, add_generation_prompt=ask, tokenize=False
            )
        except jinja2.TemplateSyntaxError as error:
            raise SettingsError(
                "data.chat_template: not a Jinja template", got=f"line {error.lineno}: {error.message}", want="a Jinja template", fix="mend it"
            ) from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise DataError(
                "the chat template cannot render this conversation",
                got=f"{error} (roles: {', '.join(turn['role'] for turn in turns) or 'none'})",
                want="turns in an order that the template allows",
                fix="mend the row, or set data.chat_template",
            ) from error
        return written

    def answers(self, conversation: Conversation) -> list[Rendering]:
        """One text with every learnt turn of the assistant marked; several, each learnt turn in exactly one, where the template rewrites earlier turns.

        What follows the last learnt turn is left out. Raises DataError when a turn cannot be told apart.
        """
        messages = conversation.messages
        places = [i for i, message in enumerate(messages) if message.role == "assistant" and message.learnt]
        if not places:
            return [Rendering(self.text(messages, conversation.tools), ())]
        texts: list[Rendering] = []
        for number, place in enumerate(places):
            turn = self._turn(conversation, place)
            before = texts.pop() if texts and turn.text.startswith(texts[-1].text) else Rendering("", ())
            texts.append(Rendering(turn.text, before.spans + turn.spans, number))
        if len(texts) > 1:
            self._say("the chat template rewrites earlier turns as a conversation goes on: answers become examples of their own, with all before as context")
        return texts

    def _turn(self, conversation: Conversation, place: int) -> Rendering:
        """The text up to and including one turn of the assistant, and where that turn stands in it."""
        if place == 0:
            raise DataError("the conversation begins with the assistant", want="a turn before the answer", fix="drop the row, or put a user's turn first")
        message = conversation.messages[place]
        text = self.text(conversation.messages[: place + 1], conversation.tools)
        asked = self.text(conversation.messages[:place], conversation.tools, ask=True)
        start = len(asked) if text.startswith(asked) else self._start(conversation, place, text, asked)
        end = self._end(text, start)
        self._check_said(message, text[start:end])
        return Rendering(text, ((start, end),))

    def _start(self, conversation: Conversation, place: int, text: str, asked: str) -> int:
        """Where an answer begins that the template does not write as it asks for it: after what both have in common, never inside the content."""
        before = self.text(conversation.messages[:place], conversation.tools)
        if not text.startswith(before):
            raise DataError(
                "the chat template cannot be rendered turn by turn",
                got=f"turn {place} changes what stands before it",
                want="a rendering that begins with the rendering of the turns before",
                fix="set data.chat_template to a template that leaves earlier turns as they are",
            )
        self._say("the chat template asks for an answer in other words than it writes one: learning begins where the two part")
        said = conversation.messages[place].content.strip()
        inside = text.find(said, len(before)) if said else -1
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, asked, strict=False)))
        return max(len(before), min(common, inside if inside >= 0 else len(text)))

    def _end(self, text: str, start: int) -> int:
        """The end of an answer: white space behind the token that ends a turn is the template's, not the assistant's."""
        body = text.rstrip()
        return len(body) if len(body) > start and body.endswith(self._closing) else len(text)

    def _check_said(self, message: Message, said: str) -> None:
        """Refuse a template that leaves out what should be learnt: it would train silence."""
        content = message.content.split(THOUGHTS_END)[-1].strip()
        calls = [call["function"]["name"] for call in (message.extra or {}).get("tool_calls", ()) if "function" in call]
        thoughts = thoughts_of(message).strip()
        if thoughts and thoughts not in said:
            self._say("the chat template leaves out what the assistant thought: thoughts are not learnt")
        missing = next((part for part in (content, *calls) if part not in said), None)
        if missing is not None:
            subject = "calls of tools" if missing in calls else "what the assistant says"
            raise DataError(
                f"the chat template leaves out {subject}", got=missing[:80], want="a template that writes it", fix="set data.chat_template to one that does"
            )

    @cached_property
    def _arguments(self) -> Arguments:
        """How the template wants the arguments of calls."""
        wanted = wanted_arguments(self._write)
        if wanted == "text":
            self._say("the chat template wants the arguments of calls of tools as JSON text")
        return wanted

    @cached_property
    def _closing(self) -> tuple[str, ...]:
        """Tokens that may end a turn: added to the vocabulary, and special or in brackets."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({t.content for t in added if t.content.strip() and (t.special or t.content[0] in "<[")} | set(self.tokenizer.all_special_tokens))

    def closing(self) -> str:
        """The token with which the template ends an answer, or an empty string; said when there is none, since generation would not end by itself."""
        said = self.answers(Conversation((Message("user", "a"), Message("assistant", "b"))))[0]
        start, end = said.spans[0]
        found = [token for token in self._closing if said.text[start:end].endswith(token)]
        if not found:
            self._say("the chat template ends an answer with no special token: the model will not learn to stop")
        return max(found, key=len, default="")

    def _say(self, decision: str) -> None:
        if decision not in self.decisions:
            self.decisions.append(decision)
