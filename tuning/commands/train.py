"""Do a run: check, prepare shards, train, evaluate, export."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from tunefleet.cluster.errors import SettingsError
from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.printing import print_json

VERB = Verb(
    subject="run.yaml",
    subject_help="the run file",
    keys=True,
    options=(
        Option("--resume", "go on from the newest complete checkpoint; --resume=auto starts anew where there is none", metavar="auto", bare="yes"),
        Option("--overwrite", "start anew in an output that exists"),
        Option("--address", "a running Ray cluster, host:port; without it a local one is started", metavar="ADDR"),
        TRUST,
        Option("--json", "print the result as JSON on stdout"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Train; progress and outcome are shown on stderr as they come."""
    resume = resume_mode(options.resume)
    from tunefleet.trainers.launch import train

    result = train(options.subject, settings, resume=resume, overwrite=options.overwrite, address=options.address, trust_code=options.trust_code)
    if options.json:
        print_json(asdict(result))
    return 0


def resume_mode(given: Any) -> bool | Literal["auto"]:
    """What ``--resume`` means. Raises SettingsError for a value that is not auto."""
    if given in (None, "yes"):
        return given is not None
    if given == "auto":
        return "auto"
    raise SettingsError("--resume: not understood", got=str(given), want="--resume or --resume=auto", fix="leave the value out")
