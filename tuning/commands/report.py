"""Write one HTML page that shows a run (better than its base or not, where the time went, what it ate) or a study (what won, what it cost)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.printing import print_json, print_text

VERB = Verb(
    subject="RUN",
    subject_help="the output of a run or of a study, which may still be going",
    options=(Option("--json", "print where it was written as JSON on stdout"),),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Write RUN/report.html, and say where it is."""
    from tunefleet.cluster.storage import open_storage
    from tunefleet.trainers.report.write import write_report
    from tunefleet.tuning.study import STUDY

    storage = open_storage(options.subject)
    if storage.exists(STUDY):
        from tunefleet.tuning.studyreport.write import write_report as write_study_report

        address = write_study_report(storage)
    else:
        address = write_report(storage)
    if options.json:
        print_json({"report": address})
    else:
        print_text(address)
    return 0
