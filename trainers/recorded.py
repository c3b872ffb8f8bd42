"""The run file that stands in an output. It may be somebody else's: what in it would run code counts only where the user has said so himself."""

from __future__ import annotations

from collections.abc import Collection

from tunefleet.cluster.errors import OutputError, SettingsError
from tunefleet.cluster.settings import check
from tunefleet.cluster.storage import Storage
from tunefleet.cluster.yamlfile import parse
from tunefleet.trainers.foreign import code_of
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
