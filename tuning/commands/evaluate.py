"""Score a run, a checkpoint or a model folder against its base on held-out rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tunefleet.tuning.arguments import TRUST, Option, Verb, whole_number
from tunefleet.tuning.printing import console, print_json, remark

VERB = Verb(
    subject="SRC",
    subject_help="a run's output, a checkpoint folder, an export or a model folder",
    options=(
        Option("--run", "the run file that names the held-out rows and the base; a run's output has its own", metavar="FILE"),
        Option("--gate", "a gate file: exit code 1 where the evaluation does not meet it", metavar="FILE"),
        Option("--html", "write a page that shows the comparison: slices, regressions, forgetting, the gate", metavar="FILE"),
        Option("--suite", "a suite file: several sets of rows with metrics of their own, instead of the run's held-out rows", metavar="FILE"),
        Option(
            "--actors", "Ray actors that share the rows, each with the model; 0: this process (the default, unless the suite says)", "N", type=whole_number(0)
        ),
        Option("--address", "a running Ray cluster, host:port; without it --actors start a local Ray", metavar="ADDR"),
        Option("--json", "print the content of the evaluation file on stdout"),
        TRUST,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Evaluate, and print tables or JSON. 1 where a gate is not passed."""
    from tunefleet.trainers.console import comparison_table
    from tunefleet.trainers.evaluation.standalone import evaluate
    from tunefleet.trainers.gatetable import gate_table, unmet
    from tunefleet.trainers.report.evaluationpage import refuse_no_page, write_evaluation_page
    from tunefleet.tuning.counter import Counter

    if options.html:
        refuse_no_page(options.html)
    with Counter("scoring", warm=True) as counter:
        evaluation = evaluate(
            options.subject,
            options.run,
            suite=options.suite,
            gate=options.gate,
            actors=options.actors,
            address=options.address,
            trust_code=options.trust_code,
            progress=lambda rows, of: counter.show(rows, rows, of),
            say=counter.say,
        )
    gate = evaluation.get("gate")
    for name, why in evaluation["failed"].items():
        remark(f"metric {name} could not be computed: {why}")
    if options.json:
        print_json(evaluation)
    else:
        console().print(comparison_table(evaluation))
        if gate:
            console().print(gate_table(gate))
    if options.html:  # last: where it cannot be written, what was found has been said
        remark(f"page: {write_evaluation_page(evaluation, options.html)}")
    if gate and not gate["passed"]:
        remark(unmet(gate))
        return 1
    return 0
