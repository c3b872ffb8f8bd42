"""The gate as part of a page: what was wanted, what was got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.markup import Content
from tunefleet.cluster.page import Cell, Section, section, table
from tunefleet.trainers.evaluation.slices import METHOD
from tunefleet.trainers.gatetable import ENDS
from tunefleet.trainers.report.standing import digits_of
from tunefleet.trainers.report.wording import exact, finite, metric_name, with_interval

ABOUT = f"The numbers are by how much the tuned model is better (gain) or worse (regression, forgetting), or its own value. Intervals of slices: {METHOD}."


def gate_section(gate: Mapping[str, Any]) -> Section:
    """The section."""
    rows: list[list[Content | Cell]] = []
    for one in gate["checks"]:
        digits = max(digits_of(one), 2)
        got = "no finite number" if one["got"] is None else exact(finite(one["got"]), digits)
        outcome = Cell("passes" if one["passed"] else "fails", "good" if one["passed"] else "bad")
        rows.append([one["kind"], metric_name(one["metric"]), one["place"], ENDS[one["end"]], one["wanted"], got, with_interval(one, digits), outcome])
    about = ABOUT + (f" Left out, for too few rows were counted: {', '.join(gate['left_out'])}." if gate["left_out"] else "")
    return section("Gate", table(["check", "metric", "of", "judged by", "wanted", "got", "value and interval", ""], rows, numbers=[4, 5, 6]), about=about)


def said(gate: Mapping[str, Any]) -> str:
    """The gate in one sentence."""
    checks, failed = len(gate["checks"]), [one for one in gate["checks"] if not one["passed"]]
    if not failed:
        return f"The gate is passed: {'its check holds' if checks == 1 else f'all {checks} checks hold'}."
    first = ", ".join(f"{one['kind']} of {one['metric']} ({one['place']})" for one in failed[:3])
    return f"The gate is not passed: {len(failed)} of {checks} checks fail: {first}{' and more' if len(failed) > 3 else ''}."
