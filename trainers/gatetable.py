"""A gate on the terminal: what was wanted, what was got, and what did not pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

ENDS = {"value": "the value", "worse": "the worse end", "better": "the better end"}


def gate_table(gate: Mapping[str, Any]) -> Table:
    """A row a check and place; numbers are those of the check: how much better, how much worse, or the value itself."""
    passed = sum(one["passed"] for one in gate["checks"])
    table = Table(title=f"gate: {'passed' if gate['passed'] else 'not passed'}, {passed} of {len(gate['checks'])} checks", title_justify="left")
    for heading in ("", "check", "metric", "of", "wanted", "got", "95% interval"):
        table.add_column(heading, justify="right" if heading in ("wanted", "got", "95% interval") else "left", overflow="fold")
    for one in gate["checks"]:
        interval = f"{number(one['low'])} to {number(one['high'])}" if one["low"] is not None and one["high"] is not None else "-"
        place = _printable(one["place"])
        of = f"{ENDS[one['end']]}, {place}" if one["end"] != "value" else place
        shown = ("pass" if one["passed"] else "FAIL", one["check"], one["metric"], of, one["wanted"], number(one["got"]), interval)
        table.add_row(*map(escape, shown), style=None if one["passed"] else "red")
    if gate["left_out"]:
        table.caption, table.caption_justify = f"left out, for too few rows were counted: {escape(_printable(', '.join(gate['left_out'])))}", "left"
    return table


def unmet(gate: Mapping[str, Any]) -> str:
    """What did not pass, a line each: for a log that holds nothing else."""
    failed = [one for one in gate["checks"] if not one["passed"]]
    lines = [f"  {one['check']}: {one['metric']} of {_printable(one['place'])}: wanted {_against(one)}" for one in failed]
    return "\n".join([f"the gate is not passed: {len(failed)} of {len(gate['checks'])} checks fail", *lines])


def _against(one: Mapping[str, Any]) -> str:
    return f"{one['wanted']}, got {number(one['got'])} ({ENDS[one['end']]})"


def _printable(place: str) -> str:
    """The name of a place without what would steer a terminal: labels come from rows."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in place)


def number(value: float | None) -> str:
    """Four digits after the point; what is missing or not finite is said."""
    return "no finite number" if value is None else f"{round(value, 4) + 0.0:.4f}"  # no minus before a zero
