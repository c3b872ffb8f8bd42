"""The run file or study file that stands in an output. It may be somebody else's: what in it would run code counts only where the user has said so himself."""

from __future__ import annotations

from collections.abc import Collection

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.cluster.settings import check
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.yamlfile import Document, parse
from tunefleet.trainers.foreign import code_of
from tunefleet.trainers.run import RunFile
from tunefleet.trainers.stage import RUN_FILE


def recorded_document(storage: Storage, name: str, *, trusted: Collection[str] | None = ()) -> Document:
    """A file of settings that an output was started with. ``trusted``: what of ``code_of`` it may hold; None for everything.

    Raises SettingsError for one that is no YAML, or that would run code; nothing of it is imported then.
    """
    document = parse(storage.read(name).decode(errors="replace"), f"{storage.address}/{name}")
    code = [found for found in code_of(document.value) if trusted is not None and found not in trusted]
    if code:
        fix = "say --trust-code when you wrote or have read it; a run goes on with a run file of yours that says the same"
        raise SettingsError(f"{document.name} asks for code to be run", got=", ".join(code), want="nothing of that kind, unless you repeat it", fix=fix)
    return document


def recorded_run(storage: Storage, *, trusted: Collection[str] | None = ()) -> RunFile:
    """The run file that an output was started with. ``trusted``: see ``recorded_document``, whose errors it raises too.

    Raises OutputError for one that this version cannot read.
    """
    document = recorded_document(storage, RUN_FILE, trusted=trusted)
    found = check(RunFile, document)
    if found.problems or found.value is None:
        got = found.problems[0].what if found.problems else "nothing"
        raise OutputError(f"{document.name} cannot be read", got=got, want="what a run of this version wrote", fix="use the tunefleet that wrote it")
    return found.value
