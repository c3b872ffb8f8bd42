"""Reading YAML as people mean it: ``1e-4`` is a number, ``no`` is a word, a repeated key is an error, every key knows its line.

The rules are those of YAML 1.2's core schema, on PyYAML's parser (which follows 1.1 by default). No tag builds an object, and a file
whose aliases would unfold without end is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tunefleet.cluster.errors import RequestError, SettingsError

Keys = tuple[str | int, ...]

MAX_VALUES = 100_000  # a settings file holds hundreds; aliases of aliases unfold to billions
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Document:
    """A file's value, the line of every key, and what is wrong with its spelling. ``given``: keys that were replaced, and where their values stand."""

    value: Any
    name: str = ""
    lines: dict[Keys, int] = field(default_factory=dict)
    problems: list[RequestError] = field(default_factory=list)
    given: Mapping[Keys, str] = field(default_factory=dict)

    def where(self, keys: Keys) -> str:
        """``run.yaml:12`` for the nearest enclosing key that the file holds, the place of a value that replaced one, else the file's name."""
        while keys and keys not in self.lines and keys not in self.given:
            keys = keys[:-1]
        if keys in self.given:
            return self.given[keys]
        return f"{self.name}:{self.lines[keys]}" if keys else self.name

    def with_override(self, dotted: str, text: str, place: str = COMMAND_LINE) -> Document:
        """The document with one dotted key replaced by the YAML value of a text, which stands at ``place``; what cannot be replaced is one more problem."""
        try:
            keys = _path(self.value, dotted)
        except SettingsError as error:
            return replace(self, problems=[*self.problems, error])
        new = _given(text)
        lines = {known: line for known, line in self.lines.items() if known[: len(keys)] != keys}
        given = {**{known: at for known, at in self.given.items() if known[: len(keys)] != keys}, keys: place}
        return replace(self, value=override(self.value, keys, new.value), lines=lines, problems=[*self.problems, *new.problems], given=given)


def read(path: str | Path) -> Document:
    """Read one YAML file. Raises SettingsError when there is none or when it is no YAML at all."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError("the file is missing", got=str(path), want="a YAML file", fix="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError("cannot read the file", got=f"{path} ({error})", want="a YAML file in UTF-8", fix="check the path") from error
    return parse(text, str(path))


def parse(text: str, name: str = "") -> Document:
    """Parse YAML text. Raises SettingsError when it is no YAML at all; repeated keys and unknown tags are collected as problems."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}, column {mark.column + 1}" if mark else name
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise SettingsError("this is not YAML", got=f"{place}: {what}", want="key: value, indented by spaces", fix="mend the line named above") from error
    except yaml.YAMLError as error:
        raise SettingsError("this is not YAML", got=f"{name}: {error}", want="UTF-8 text without control characters", fix="save it as text") from error
    reader = _Reader(name)
    value = None if node is None else reader.value(node, ())
    return Document(value, name, reader.lines, reader.problems)


def override(value: Any, keys: Sequence[str | int], new: Any) -> Any:
    """A copy of nested mappings and lists with one value replaced; missing mappings are made."""
    if not keys:
        return new
    head, rest = keys[0], keys[1:]
    if isinstance(value, list):
        return [override(item, rest, new) if i == head else item for i, item in enumerate(value)]
    mapping = dict(value) if isinstance(value, dict) else {}
    mapping[head] = override(mapping.get(head), rest, new)
    return mapping


def _given(text: str) -> Document:
    """The value of ``key=value``: YAML, so that lists and numbers work as in a file; what is no YAML (a template) is a text."""
    try:
        return parse(text, COMMAND_LINE)
    except SettingsError:
        return Document(text, COMMAND_LINE)


def _path(value: Any, dotted: str) -> Keys:
    """The keys of ``data.train.0.path`` in a value. Raises SettingsError for one that leads into a number or past the end of a list."""
    keys: list[str | int] = []
    for part in dotted.split("."):
        before = ".".join(map(str, keys))
        if not part:
            raise SettingsError(f"{dotted}: no key", got=dotted, want="dotted names: training.max_steps", fix="write key=value")
        if isinstance(value, list):
            if not part.isdecimal() or int(part) >= len(value):
                want = f"{before}.N with N from 0 to {len(value) - 1}" if value else f"{before} as a whole"
                raise SettingsError(f"{dotted}: no such entry of a list", got=f"{before}.{part}", want=want, fix=f"or set the whole list: {before}=[...]")
            keys.append(int(part))
            value = value[int(part)]
        elif value is None or isinstance(value, dict):
            keys.append(part)
            value = value.get(part) if value else None
        else:
            raise SettingsError(f"{dotted}: {before} holds a value, not keys", got=repr(value), want=f"{before}={{key: value}}", fix=f"set {before} as a whole")
    return tuple(keys)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own hook


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+(?:_[0-9]+)*$|^0x[0-9a-fA-F]+$|^0o[0-7]+$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)

_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))


class _Reader:
    """Turns PyYAML's nodes into plain values, and notes lines and problems on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Keys, int] = {}
        self.problems: list[RequestError] = []
        self.open: set[int] = set()
        self.count = 0

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        """The plain value of a node. Raises SettingsError for aliases without end."""
        line = node.start_mark.line + 1
        self.lines.setdefault(keys, line)
        self.count += 1
        if self.count > MAX_VALUES or id(node) in self.open:
            got = f"{self.name}:{line}: an alias (*name) that holds itself, or more than {MAX_VALUES} values"
            raise SettingsError("the file unfolds without end", got=got, want="plain values", fix="write the values out instead of using aliases")
        if node.tag not in _TAGS:
            self.complain(keys, line, "a tag that is not understood", got=node.tag, want="plain values without tags", fix="remove the tag")
            return None
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*keys, i)) for i, item in enumerate(node.value)]
            return self.mapping(node, keys) if isinstance(node, yaml.MappingNode) else self.scalar(node, keys)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        """Keys are words; one that stands twice is a problem, and the later one counts for the checks that follow."""
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.complain(keys, line, "a key that is no word", got="a list or a mapping as key", want="key: value", fix="put the key in quotes")
                continue
            key = str(key_node.value)
            inner = (*keys, key)
            if key in result:
                got = f"lines {self.lines[inner]} and {line} of {self.name}" if self.name != COMMAND_LINE else COMMAND_LINE
                self.problems.append(SettingsError(f"{_dotted(inner)}: the key stands twice", got=got, want="each key once", fix="remove one of them"))
                self.lines = {known: at for known, at in self.lines.items() if known[: len(inner)] != inner}
            self.lines[inner] = line
            result[key] = self.value(value_node, inner)
        return result

    def scalar(self, node: yaml.Node, keys: Keys) -> Any:
        """A null, a truth, a number or a text."""
        tag, text = node.tag.rpartition(":")[2], str(node.value)
        try:
            if tag == "int":
                return int(text.replace("_", ""), 0 if text.startswith(("0x", "0o")) else 10)
            if tag == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:  # !!int abc, or an integer of thousands of digits
            self.complain(keys, node.start_mark.line + 1, "no number", got=text[:80], want="a number", fix="mend it, or put it in quotes")
            return None
        if tag == "bool":
            return text.lower() == "true"
        return None if tag == "null" else text

    def complain(self, keys: Keys, line: int, what: str, *, got: str, want: str, fix: str) -> None:
        """Note a problem of this file."""
        at = self.name if self.name == COMMAND_LINE else f"{self.name}:{line}"
        self.problems.append(SettingsError(f"{_dotted(keys) or 'the file'}: {what} ({at})", got=got, want=want, fix=fix))


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))
