"""Show what a job has said."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.joboptions import ADDRESS, exit_code_of, server_of
from tunefleet.tuning.printing import print_text

VERB = Verb(
    subject="JOB",
    subject_help="the job's id, as `tunefleet jobs` lists it",
    options=(ADDRESS, Option("--follow", "go on until the job ends, and end with its exit code (143 when it was stopped)")),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Lines on stdout, secrets masked."""
    from tunefleet.cluster.jobs import follow, job, log

    server = server_of(options)
    name = job(server, options.subject).id
    if options.follow:
        return exit_code_of(follow(server, name, print_text))
    for line in log(server, name):
        print_text(line)
    return 0
