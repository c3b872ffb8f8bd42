"""Print the JSON schema of the run file, for editors and checks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import Verb
from tunefleet.tuning.printing import print_json

VERB = Verb()


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Print it to stdout."""
    from tunefleet.trainers.run import RunFile

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **RunFile.model_json_schema()})
    return 0
