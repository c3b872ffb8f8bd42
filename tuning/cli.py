"""The command line: ``tunefleet VERB run.yaml [dotted.key=value ...] [--dotted.key value ...]``.

A verb is a file of tuning/commands with a ``VERB`` (what it takes) and a ``run(options, settings)``. Exit codes: 0 done, 1 the run failed,
2 the request was wrong, 130 stopped by Ctrl-C, 143 by SIGTERM. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import SettingsError, TunefleetError, nearest
from tunefleet.tuning.arguments import HELP, Verb, parser_of, split

if TYPE_CHECKING:
    from tunefleet.cluster.settings import Settings

COMMANDS = Path(__file__).parent / "commands"
STOPPED = 130  # as a shell reports a process that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks, and return the exit code. Errors of ours are four lines on stderr; ``--debug`` adds the traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except TunefleetError as error:
        if "--debug" in words:
            traceback.print_exc()
        _say(f"{type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("stopped")
        return STOPPED
    except BrokenPipeError:  # the reader (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def verbs() -> dict[str, str]:
    """Every verb and the first line of its file, without importing any."""
    files = sorted(path for path in COMMANDS.glob("*.py") if not path.name.startswith("_"))
    return {path.stem: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0] for path in files}


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in (*HELP, "help"):
        _print(_overview())
        return 0 if words else 2
    if words[0] in ("--version", "-V"):
        from importlib.metadata import version

        _print(f"tunefleet {version('tunefleet')}")
        return 0
    name, *rest = words
    known = verbs()
    if name not in known:
        close = nearest(name, known)
        raise SettingsError(f"{name}: no such verb", got=name, want=f"one of {', '.join(known)}", fix=f"did you mean {close}?" if close else "tunefleet --help")
    command = import_module(f"tunefleet.tuning.commands.{name}")
    verb: Verb = command.VERB
    asked = any(word in HELP for word in rest)
    parser = parser_of(name, verb, known[name], _keys_help(verb.file) if verb.keys and asked else "")
    from tunefleet.tuning.printing import results_alone

    left, settings = split(rest, verb, lambda: list(_file(verb.file).model_fields))
    try:
        options = parser.parse_intermixed_args(left)  # options may stand between a verb's words
    except SystemExit as error:  # argparse has printed its help (0) or what is wrong (2)
        return int(error.code or 0)
    _quieten()
    with results_alone():
        code: int = command.run(options, settings)
    return code


def _quieten() -> None:
    """Keep libraries from talking in between (bars for weights that load in a moment, advice to their own developers), and from fetching code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("USE_HUB_KERNELS", "NO")  # native code is never fetched from a hub
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def _overview() -> str:
    known = verbs()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {about}" for name, about in known.items()]
    return "\n".join(
        [
            "usage: tunefleet VERB run.yaml [dotted.key=value ...] [--dotted.key value ...]",
            "",
            "Fine-tune transformers models on Ray and DeepSpeed, from a laptop to a fleet.",
            "",
            *lines,
            "",
            "`tunefleet VERB -h` explains a verb; `tunefleet train -h` lists every key of the run file.",
            "exit codes: 0 done, 1 the run failed, 2 the request was wrong, 130 stopped by Ctrl-C",
        ]
    )


def _keys_help(which: str) -> str:
    """Every key of the run file, or of the study file, with its default and meaning, wrapped."""
    import shutil
    import textwrap

    from tunefleet.cluster.settings import describe

    width = max(60, min(shutil.get_terminal_size().columns, 160))
    lines = [f"keys of the {which} file (key=value, or --key value; N counts from 0):"]
    for key, default, about in describe(_file(which)):
        lines.append(f"  {key} [{default}]")
        lines += textwrap.wrap(about, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _file(which: str) -> type[Settings]:
    """The settings of a run file or a study file."""
    from tunefleet.trainers.run import RunFile
    from tunefleet.tuning.study import StudyFile

    return StudyFile if which == "study" else RunFile


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
