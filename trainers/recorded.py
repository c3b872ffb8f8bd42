"""The run file that stands in an output. It may be somebody else's: what in it would run code counts only where the user has said so himself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.cluster.settings import check
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.yamlfile import parse
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import RUN_FILE


def recorded_run(storage: Storage, *, trusted: Collection[str] | None = ()) -> RunFile:
    """The run file that an output was started with. ``trusted``: what of ``code_of`` it may hold; None for everything.

    Raises OutputError for one that this version cannot read, SettingsError for one that would run code; nothing of it is imported then.
    """
    name = f"{storage.address}/{RUN_FILE}"
    document = parse(storage.read(RUN_FILE).decode(errors="replace"), name)
    code = [found for found in code_of(document.value) if trusted is not None and found not in trusted]
    if code:
        fix = "say --trust-code when you wrote or have read it; a run goes on with a run file of yours that says the same"
        raise SettingsError(f"{name} asks for code to be run", got=", ".join(code), want="nothing of that kind, unless you repeat it", fix=fix)
    found = check(RunFile, document)
    if found.problems or found.value is None:
        got = found.problems[0].what if found.problems else "nothing"
        raise OutputError(f"{name} cannot be read", got=got, want="what a run of this version wrote", fix="use the tunefleet that wrote it")
    return found.value


def code_of(value: Any) -> Iterator[str]:
    """What in a run file's plain value runs code that is not ours: a model's remote code, and modules that are named by a dotted kind."""
    model, data, evaluation, logging = (_section(value, name) for name in ("model", "data", "evaluation", "logging"))
    if model.get("trust_remote_code") not in (None, False):
        yield "model.trust_remote_code: true"
    objective = _section(value, "objective").get("kind", value.get("objective") if isinstance(value, dict) else None)
    named = [("objective.kind", objective)]
    for key, items in (("evaluation.metrics", evaluation.get("metrics")), ("logging.trackers", logging.get("trackers"))):
        named += [(f"{key}.{i}.kind", item.get("kind") if isinstance(item, dict) else item) for i, item in enumerate(_items(items))]
    for side in ("train", "holdout"):
        sources = [(f"data.{side}.{i}", source) for i, source in enumerate(_items(data.get(side))) if isinstance(source, dict)]
        named += [(f"{place}.{key}", source.get(key)) for place, source in sources for key in ("kind", "format")]
    yield from (f"{key}: {name}" for key, name in named if isinstance(name, str) and "." in name)


def _section(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
