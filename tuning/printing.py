"""What verbs print: JSON or tables on stdout, remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from tunefleet.cluster.metrics import finite

_results: list[TextIO] = []


@contextmanager
def results_alone() -> Iterator[None]:
    """While a verb works, what libraries print goes to stderr, so that a result stands alone on stdout."""
    _results.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def results() -> TextIO:
    """The stream of results: the process's stdout."""
    return _results[-1] if _results else sys.stdout


def print_text(text: str) -> None:
    """Text and a line end on stdout."""
    results().write(f"{text}\n")
    results().flush()


def print_json(value: Any) -> None:
    """One JSON value, alone on stdout; numbers that JSON does not have (NaN) are null."""
    print_text(json.dumps(finite(value), indent=2, ensure_ascii=False))


def remark(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"{text}\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, whole: Sequence[str] = ()) -> None:
    """A table on stdout; columns of numbers are set to the right, and those named ``whole`` are never broken: they are there to be copied."""
    cells = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(row[i].replace(",", "").replace(".", "").isdecimal() for row in cells)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=column in whole)
    for row in cells:
        table.add_row(*row)
    console().print(table)


def console() -> Console:
    """Stdout for people; wide enough for tables where it is no terminal."""
    return Console(file=results()) if results().isatty() else Console(file=results(), width=120)
