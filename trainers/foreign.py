"""What in a run or study file runs code that is not ours, and whether the file is one that somebody's run has left rather than one that was named to be run.

``tunefleet train run.yaml`` does what the user's own file says. A run file that lies in the output of a run may be anybody's: what in it would run code
counts only where the user repeats it on the command line, or says ``--trust-code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import SettingsError
from tunefleet.cluster.yamlfile import Document

_LEFT_BEHIND = ("events.jsonl", "metrics.jsonl", "done.json", "trials.jsonl", "checkpoints/step-*")
"""What lies beside a run file or study file that a run or a study has written (stage.py, which stands on the run file, has the names too)."""
_BARE = ("objective", "searcher", "stopper")
"""Keys at which a kind may stand as a bare name."""
_LISTS = ("metrics", "trackers")
"""Keys of lists in which it may."""


def code_of(value: Any) -> Iterator[str]:
    """What in a file's plain value runs code that is not ours: a model's remote code, a kernel of a hub, and modules that are named by a dotted kind."""
    for keys, name, found in _everything(value):
        if name == "trust_remote_code" and found not in (None, False):
            yield f"{_dotted(keys)}: true"
        elif name in ("attn_implementation", "experts_implementation") and isinstance(found, str) and "/" in found:
            yield f"{_dotted(keys)}: {found}"
    yield from (f"{key}: {name}" for key, name in dotted_kinds(value))


def dotted_kinds(value: Any) -> Iterator[tuple[str, str]]:
    """Key and name of every module of the user's own, wherever a kind may stand."""
    for keys, name, found in _everything(value):
        if isinstance(found, str) and "." in found and all(part.isidentifier() for part in found.split(".")):
            if name in ("kind", "format"):
                yield _dotted(keys), found
            elif name in _BARE or (isinstance(name, int) and len(keys) > 1 and keys[-2] in _LISTS):
                yield f"{_dotted(keys)}.kind", found


def is_left_behind(path: Path) -> bool:
    """Whether a run file lies in the output of a run, or a study file in that of a study."""
    return any(next(path.parent.glob(name), None) for name in _LEFT_BEHIND)


def refuse_code(source: str | Path, document: Document, overrides: Iterable[str]) -> SettingsError | None:
    """Why a file that was left behind may not be used as it is: it asks for code, and the command line does not repeat it."""
    if not is_left_behind(Path(source).expanduser()):
        return None
    given = set(overrides)
    code = [found for found in code_of(document.value) if not any(found.startswith((f"{key}:", f"{key}.")) for key in given)]
    if not code:
        return None
    fix = f"repeat it on the command line ({code[0].replace(': ', '=')}) or say --trust-code, when you wrote or have read it"
    return SettingsError(f"{source} lies in a run's output, and asks for code to be run", got=", ".join(code), want="a run file of yours", fix=fix)


def _everything(value: Any) -> Iterator[tuple[tuple[str | int, ...], str | int, Any]]:
    """The leaves of a file; what a study may put at a key of its run file stands at that key, as ``space.objective.kind``."""
    space = value.get("space") if isinstance(value, dict) else None
    if not isinstance(space, dict):
        yield from _leaves(value, ())
        return
    yield from _leaves({key: item for key, item in value.items() if key != "space"}, ())
    for key, given in space.items():
        keys = ("space", *(int(part) if part.isdecimal() else part for part in str(key).split(".")))
        choices = given.get("choice") if isinstance(given, dict) else given
        for one in choices if isinstance(choices, list) else [choices]:
            yield from _leaves(one, keys)


def _leaves(value: Any, keys: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str | int, Any]]:
    """Keys, the last of them, and value of everything that holds no further keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*keys, str(key)))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, (*keys, i))
    elif keys:
        yield keys, keys[-1], value


def _dotted(keys: tuple[str | int, ...]) -> str:
    return ".".join(map(str, keys))
