"""Write one HTML page that shows a run: better or worse than its base, the course of it, where the time went, what it ate."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.printing import print_json, print_text

VERB = Verb(
    subject="RUN",
    subject_help="a run's output; the run may still be going",
    options=(Option("--json", "print where it was written as JSON on stdout"),),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Write RUN/report.html, and say where it is."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.report.write import write_report

    address = write_report(open_storage(options.subject))
    if options.json:
        print_json({"report": address})
    else:
        print_text(address)
    return 0
