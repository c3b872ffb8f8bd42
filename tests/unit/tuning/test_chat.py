"""A chat in the terminal: turns through the template, commands, and clean ends; piped in, and on a real terminal."""

import io
import json
import os
import pty
import select
import subprocess
import sys

import pytest
from talkers import talker

from tunefleet.trainers.decoding import Drawing
from tunefleet.trainers.generation import Generator
from tunefleet.tuning.chat import Chat, converse


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talker(tmp_path_factory.mktemp("model"), "gpt2")


@pytest.fixture(scope="module")
def generator(folder):
    return Generator(folder, chat=True)


def talk(generator, text, monkeypatch, *, as_json=False, tokens=4, system=""):
    """What stands on stdout and on stderr after lines were piped in, and the chat."""
    out, said = io.StringIO(), []
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chat = Chat(generator, Drawing(tokens), said.append, (lambda piece: None) if as_json else out.write, system)
    converse(chat, out, as_json=as_json)
    return out.getvalue(), said, chat


def test_a_piped_conversation_can_be_read_and_each_turn_knows_those_before(generator, monkeypatch):
    out, _, chat = talk(generator, "one\ntwo\n", monkeypatch)
    assert [turn.role for turn in chat.turns] == ["user", "assistant", "user", "assistant"]
    first, second = (chat.turns[i].content for i in (1, 3))
    assert out == f"> one\n{first}\n\n> two\n{second}\n\n"
    wanted = generator.answers([generator.asker.encode(chat.turns[:3])], Drawing(4))[0]
    assert second == wanted.text


def test_reset_and_system_begin_anew(generator, monkeypatch):
    _, said, chat = talk(generator, "one\n/system Be brief.\n/reset\ntwo\n/nothing\n/exit\nthree\n", monkeypatch)
    assert [turn.content for turn in chat.turns[::2]] == ["two"]
    assert chat.system == "Be brief."
    assert any("/nothing: no such command" in text for text in said)


def test_each_answer_is_a_line_of_json_when_asked_for(generator, monkeypatch):
    out, _, chat = talk(generator, "one\\\nmore\ntwo", monkeypatch, as_json=True)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["one\nmore", "two"]
    assert lines[1]["text"] == chat.turns[3].content


def test_a_conversation_that_outgrows_the_context_forgets_its_beginning_and_says_so(generator, monkeypatch):
    _, said, chat = talk(generator, "".join(f"{word}\n" for word in ["one", "two", "three", "four", "x" * 400, "five"]), monkeypatch, tokens=8)
    assert any("forgotten" in text for text in said)
    assert any(text.startswith("not asked: too long") for text in said)
    assert chat.turns[-2].content == "five"
    assert generator.asker.room(generator.asker.encode(chat.turns[:-1])) >= 8


def test_on_a_terminal_ctrl_c_leaves_without_a_trace(folder):
    main, terminal = pty.openpty()
    words = [sys.executable, "-P", "-m", "tunefleet.tuning.cli", "generate", folder, "--chat", "--max-new-tokens", "3"]
    process = subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, preexec_fn=_own_terminal)
    os.close(terminal)
    try:
        seen = read_until(main, b"> ")
        os.write(main, b"hello\n")
        seen += read_until(main, b"> ")
        assert pressed(process, main, b"\x03") == 0
    finally:
        process.kill()
        os.close(main)
    assert b"/reset" in seen
    assert b"Traceback" not in seen


def pressed(process, terminal, key):
    """Press a key until it is answered: readline may miss one in the moment between the mark and its own waiting. The exit code."""
    for _ in range(30):
        os.write(terminal, key)
        if select.select([terminal], [], [], 2)[0]:
            return process.wait(60)
    raise AssertionError("no answer to the key")


def _own_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal, mark):
    seen = b""
    while not seen.endswith(mark):
        seen += os.read(terminal, 1024)
    return seen
