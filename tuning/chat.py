"""A conversation with a model in the terminal: turns in, answers as they are written, and a few commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING, TextIO

from tunefleet.cluster.errors import DataError
from tunefleet.data.examples import Message

if TYPE_CHECKING:
    from tunefleet.trainers.decoding import Drawing
    from tunefleet.trainers.generation import Answer, Generator

MARK = "> "
MORE = "\\"  # a line that ends so goes on with the next
HELP = "/reset forgets the conversation, /system TEXT sets what stands before it, /exit leaves; a line that ends in \\ goes on; Ctrl-C ends an answer"
LEAVE = {"/exit", "/quit", "/bye"}


class Chat:
    """The turns so far, and who answers. ``say`` gets remarks, ``write`` the answer in pieces."""

    def __init__(self, generator: Generator, drawing: Drawing, say: Callable[[str], None], write: Callable[[str], None], system: str = "") -> None:
        self.generator, self.drawing, self.say, self.write = generator, drawing, say, write
        self.system = system
        self.turns: list[Message] = []

    def command(self, line: str) -> bool:
        """Do what a line that begins with a slash says. Returns False when the conversation is over."""
        word, _, rest = line.partition(" ")
        if word in LEAVE:
            return False
        if word == "/reset":
            self.turns.clear()
            self.say("a new conversation")
        elif word == "/system":
            self.system = rest.strip()
            self.turns.clear()
            self.say("a new conversation, with that before it" if self.system else "a new conversation, with nothing before it")
        else:
            self.say(HELP if word == "/help" else f"{word}: no such command; {HELP}")
        return True

    def ask(self, text: str) -> Answer | None:
        """The answer to a turn of the user, written as it comes; None, and the turn forgotten, where it cannot be asked."""
        self.turns.append(Message("user", text))
        try:
            ids = self._fitting()
        except DataError as error:
            self.turns.pop()
            self.say(f"not asked: {error.what}" + (f" ({error.got})" if error.got else ""))
            return None
        answer = self.generator.stream(ids, self.drawing, self.write)
        self.turns.append(Message("assistant", answer.text))
        return answer

    def _fitting(self) -> list[int]:
        """The conversation as the model reads it. The oldest questions go, with their answers, where it leaves too little room for another answer.

        Raises DataError when the template refuses it, or the last question alone is too long.
        """
        before = [Message("system", self.system)] if self.system else []
        asker = self.generator.asker
        wanted = min(self.drawing.max_new_tokens, (asker.context or 1 << 30) // 2)
        dropped = 0
        while True:
            try:
                ids = asker.encode([*before, *self.turns])
                if asker.room(ids) >= wanted or len(self.turns) == 1:
                    break
            except DataError:
                if len(self.turns) == 1:
                    raise
            self.turns = self.turns[2:]
            dropped += 1
        if dropped:
            self.say(
                f"the conversation is longer than the model's context: its first {'question is' if dropped == 1 else f'{dropped} questions are'} forgotten"
            )
        return ids


def converse(chat: Chat, results: TextIO, *, as_json: bool) -> None:
    """Talk until the input ends, or the user leaves. On a terminal Ctrl-D or Ctrl-C at the mark leaves; where input is piped, a line is a turn.

    ``as_json``: a line of JSON for each answer instead of the text.
    """
    live = sys.stdin.isatty()
    for text in _lines(results, live=live, echo=not as_json):
        if text.startswith("/"):
            if not chat.command(text):
                return
            continue
        answer = chat.ask(text)
        if answer is not None:
            shown = json.dumps({"prompt": text, "text": answer.text, "finish": answer.finish}, ensure_ascii=False) if as_json else ""
            results.write(f"{shown}\n" if as_json or live else "\n\n")
            results.flush()
            if answer.finish == "length" and not as_json:
                chat.say(f"(cut at {answer.tokens} tokens: --max-new-tokens)")


def _lines(results: TextIO, *, live: bool, echo: bool) -> Iterator[str]:
    """What the user says, stripped, lines that end in a backslash joined. Piped lines are written out behind the mark, so that the whole can be read."""
    if live:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing
    said: list[str] = []
    while True:
        line = _line(results, "... " if said else MARK, live=live)
        if line is None:
            return
        more = line.endswith(MORE)
        said.append(line.removesuffix(MORE))
        if more:
            continue
        text, said = "\n".join(said).strip(), []
        if text:
            if not live and echo and not text.startswith("/"):
                results.write(f"{MARK}{text}\n")
            yield text


def _line(results: TextIO, mark: str, *, live: bool) -> str | None:
    """The next line; None at the end of the input, and for Ctrl-D and Ctrl-C at the mark."""
    if not live:
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        with redirect_stdout(results):  # input() edits lines only on the process's own stdout
            return input(mark)
    except (EOFError, KeyboardInterrupt):
        results.write("\n")
        return None
