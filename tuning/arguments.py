"""Arguments of a verb: what it takes, and the settings given among them (``key=value``, ``--dotted.key value``), told apart exactly."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunefleet.cluster.errors import SettingsError, nearest

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Option:
    """One option. Without ``metavar`` it is a switch; with ``bare`` its value may be left out (it is then only taken after ``=``)."""

    name: str
    help: str
    metavar: str = ""
    bare: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    many: bool = False


@dataclass(frozen=True)
class Verb:
    """What a verb takes. ``subject`` is its first positional argument, ``more`` those behind it (any number, in ``options.more``).

    ``keys`` says whether settings of the file may be given too; ``file`` is what the subject is, the run file or the study file.
    """

    subject: str = ""
    subject_help: str = ""
    more: str = ""
    more_help: str = ""
    options: tuple[Option, ...] = ()
    keys: bool = False
    file: Literal["run", "study"] = "run"


DEBUG = Option("--debug", "show the traceback of an error")
TRUST = Option("--trust-code", "run the code that the run's own file asks for: its model's remote code, modules named by a dotted kind")
HELP = ("-h", "--help")


def whole_number(least: int) -> Callable[[str], int]:
    """A type for options: an integer not below ``least``."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"at least {least} is wanted, not {value}")
        return value

    number.__name__ = "integer"  # argparse puts it into its message
    return number


def parser_of(name: str, verb: Verb, about: str, epilog: str = "") -> argparse.ArgumentParser:
    """The argparse parser of a verb, for what ``split`` leaves over."""
    usage = " ".join(["tunefleet", name, verb.subject, verb.more, "[key=value ...] [--key value ...]" if verb.keys else "", "[options]"])
    parser = argparse.ArgumentParser(
        prog=f"tunefleet {name}",
        usage=" ".join(usage.split()),
        description=about,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb.subject:
        parser.add_argument("subject", metavar=verb.subject, help=verb.subject_help)
    if verb.more:
        parser.add_argument("more", metavar=verb.more, nargs="*", help=verb.more_help)
    for option in (*verb.options, DEBUG):
        how: dict[str, Any] = {"help": option.help, "default": option.default}
        if not option.metavar:
            how = {"help": option.help, "action": "store_true"}
        elif option.bare:
            how |= {"metavar": option.metavar, "nargs": "?", "const": option.bare}
        else:
            how |= {"metavar": option.metavar, "type": option.type, "action": "append" if option.many else "store"}
        parser.add_argument(option.name, **how)
    return parser


def split(arguments: Sequence[str], verb: Verb, top_keys: Callable[[], Sequence[str]]) -> tuple[list[str], dict[str, str]]:
    """Divide arguments into what argparse is to parse and the settings {dotted key: text}; a key given twice keeps the last value.

    ``top_keys`` names the keys that stand at the top of the run file; it is only asked when needed. Raises SettingsError for an option that
    is neither the verb's nor a key, and for a key without a value.
    """
    options = {option.name: option for option in (*verb.options, DEBUG)}
    rest: list[str] = []
    settings: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        option = options.get(name)
        if option is not None:
            rest.append(_own(option, word, equals, queue))
        elif word in HELP or not verb.keys:
            rest.append(word)
        elif word.startswith("--"):
            key = _key(name[2:], options, top_keys)
            settings[key] = value if equals else _next(key, queue)
        elif match := ASSIGNMENT.fullmatch(word):
            settings[match[1]] = match[2]
        else:
            rest.append(word)
    return rest, settings


def _own(option: Option, word: str, equals: str, queue: list[str]) -> str:
    """An option of the verb, with its value joined to it, so that argparse cannot take the value for something else."""
    if option.metavar and not equals:
        if option.bare:
            return f"{option.name}={option.bare}"
        if queue:
            return f"{option.name}={queue.pop(0)}"
    return word


def _key(key: str, options: dict[str, Option], top_keys: Callable[[], Sequence[str]]) -> str:
    """A dotted key, or one of the run file's top; hyphens stand for underscores. What is misspelt there is left to the check of the file."""
    key = key.replace("-", "_")
    known = list(top_keys())
    if "." in key or key in known:
        return key
    close = nearest(f"--{key}".replace("_", "-"), [*options, *(f"--{name}" for name in known)])
    raise SettingsError(
        f"--{key}: neither an option nor a key of the run file",
        got=f"--{key}",
        want=f"one of {', '.join(options)}, or a dotted key: --training.max_steps 100",
        fix=f"did you mean {close}?" if close else "see -h",
    )


def _next(key: str, queue: list[str]) -> str:
    if not queue or queue[0].startswith("--"):
        raise SettingsError(f"--{key}: its value is missing", got=queue[0] if queue else "nothing", want=f"--{key} VALUE or {key}=VALUE", fix="give one")
    return queue.pop(0)
