"""Print the JSON schema of the run file, the study file (`schema study`), a suite (`schema suite`) or a gate (`schema gate`), for editors and checks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from tunefleet.cluster.errors import SettingsError, nearest
from tunefleet.cluster.settings import Settings
from tunefleet.tuning.arguments import Verb
from tunefleet.tuning.printing import print_json

VERB = Verb(more="[FILE]", more_help="which file: run (the default), study, suite or gate")


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Print it to stdout."""
    asked = options.more or ["run"]
    if len(asked) > 1 or asked[0] not in FILES:
        close = nearest(asked[0], FILES)
        fix = f"did you mean {close}?" if close else "name one of these"
        raise SettingsError("no such file has a schema", got=" ".join(asked), want=f"one of {', '.join(FILES)}", fix=fix)
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **FILES[asked[0]]().model_json_schema()})
    return 0


def _run() -> type[Settings]:
    from tunefleet.trainers.run import RunFile

    return RunFile


def _study() -> type[Settings]:
    from tunefleet.tuning.study import StudyFile

    return StudyFile


def _gate() -> type[Settings]:
    from tunefleet.trainers.evaluation.gatefile import Gate

    return Gate


def _suite() -> type[Settings]:
    from tunefleet.trainers.evaluation.suite import Suite

    return Suite


FILES: dict[str, Callable[[], type[Settings]]] = {"run": _run, "study": _study, "suite": _suite, "gate": _gate}
