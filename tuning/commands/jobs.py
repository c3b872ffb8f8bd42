"""List the jobs of a Ray cluster: what they do, where they write, how they stand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.joboptions import ADDRESS, server_of
from tunefleet.tuning.printing import print_json, print_table

VERB = Verb(options=(ADDRESS, Option("--json", "print the jobs as JSON on stdout")))


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Newest first."""
    from tunefleet.cluster.axes import count
    from tunefleet.cluster.jobs import jobs

    found = jobs(server_of(options))
    if options.json:
        print_json([asdict(job) for job in found])
    else:
        columns = ("job", "status", "kind", "name", "started", "ended", "output")
        rows = [(j.id, j.status, j.kind, j.title, j.started, j.ended, j.output) for j in found]
        print_table(count(len(found), "job"), columns, rows, whole=("job",))
    return 0
