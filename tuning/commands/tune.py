"""Do a study: search the settings of a run file, stop bad trials early, and say which is the best."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.commands.train import resume_mode
from tunefleet.tuning.printing import print_json

VERB = Verb(
    subject="study.yaml",
    subject_help="the study file",
    keys=True,
    file="study",
    options=(
        Option(
            "--resume",
            "go on with a study that was cut: what has ended stays, what had begun goes on from its checkpoints; --resume=auto starts anew where there is none",
            "auto",
            "yes",
        ),
        Option("--overwrite", "start anew in an output that exists"),
        Option("--address", "a running Ray cluster, host:port; without it a local one is started", metavar="ADDR"),
        Option("--json", "print the result as JSON on stdout"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Tune; progress and outcome are shown on stderr as they come. The exit code is 1 when no trial came to a value."""
    from tunefleet.tuning.runstudy import tune_study

    result = tune_study(options.subject, settings, resume=resume_mode(options.resume), overwrite=options.overwrite, address=options.address)
    if options.json:
        print_json(asdict(result))
    return 0 if result.best is not None else 1
