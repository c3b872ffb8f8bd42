"""Score a run, a checkpoint or a model folder against its base on held-out rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import TRUST, Option, Verb
from tunefleet.tuning.printing import console, print_json

VERB = Verb(
    subject="SRC",
    subject_help="a run's output, a checkpoint folder, an export or a model folder",
    options=(
        Option("--run", "the run file that names the held-out rows and the base; a run's output has its own", metavar="FILE"),
        Option("--json", "print the content of the evaluation file on stdout"),
        TRUST,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Evaluate, and print a table or JSON."""
    from tunefleet.trainers.evaluation.standalone import evaluate

    evaluation = evaluate(options.subject, options.run, trust_code=options.trust_code)
    if options.json:
        print_json(evaluation)
    else:
        from tunefleet.trainers.console import comparison_table

        console().print(comparison_table(evaluation))
    return 0
