"""Rows to shards: read, check their quality, tokenise, split off the held-out share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tunefleet.tuning.arguments import Option, Verb, whole_number
from tunefleet.tuning.printing import console, print_json, print_table, remark, results

if TYPE_CHECKING:
    from tunefleet.data.prepare import Advance
    from tunefleet.trainers.run import RunFile

VERB = Verb(
    subject="run.yaml",
    subject_help="the run file",
    keys=True,
    options=(
        Option("--preview", "print N rows as the model will see them, what is learnt in colour or [[brackets]], and write nothing", "N", type=whole_number(1)),
        Option("--address", "a running Ray cluster, host:port, whose CPUs prepare a large input; without it a local Ray does", metavar="ADDR"),
        Option("--json", "print rows, kept, tokens and the counts of the quality gate as JSON on stdout"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Prepare or preview. What was decided for the user is said on stderr."""
    from tunefleet.trainers.objective import make_objective
    from tunefleet.trainers.vocabulary import load_tokenizer

    decisions: list[str] = []
    asked = checked_rows(options.subject, settings)
    tokenizer = load_tokenizer(asked.model, asked.data.chat_template, decisions=decisions)
    layout = make_objective(asked.objective, tokenizer.pad_token_id).layout
    if options.preview:
        from tunefleet.data.preview import preview

        for shown in preview(asked.data, layout, tokenizer, options.preview, colour=results().isatty()):
            console().print(shown, markup=False, highlight=False, soft_wrap=True)
            console().print()
        return 0
    from tunefleet.cluster.tasks import cluster_tasks
    from tunefleet.data.prepare import prepare

    with Counter() as counter:
        prepared = prepare(asked.data, layout, tokenizer, on_progress=counter, cluster=partial(cluster_tasks, options.address))
    for text in (*decisions, *prepared.decisions):
        remark(f"note: {text}")
    if options.json:
        told = {
            "store": prepared.store,
            "fingerprint": prepared.fingerprint,
            "version": prepared.version,
            "created": prepared.created,
            "report": prepared.report,
        }
        print_json({**prepared.counts, **told, "blocks": prepared.blocks, "blocks_found": prepared.found, "tokenised": prepared.tokenised})
        return 0
    print_table(f"{asked.name}: rows", ("count", "number"), [(name.replace("_", " "), f"{value:,}") for name, value in prepared.counts.items()])
    reused = f" ({prepared.tokenised:,} rows were tokenised, the others had been before)" if prepared.found else ""
    remark(f"{f'made{reused}' if prepared.created else 'found, nothing to do'}: {prepared.store}, version {prepared.version}")
    remark(f"report: {prepared.report}")
    return 0


def checked_rows(path: str, settings: Mapping[str, str]) -> RunFile:
    """The run with absolute paths, its tokenizer there, when nothing is wrong with its text and its rows' files."""
    from tunefleet.cluster.errors import Refusal
    from tunefleet.trainers.chain import chain
    from tunefleet.trainers.check import ROW_CHECKS, check_run
    from tunefleet.trainers.rowtokenizer import make_tokenizer
    from tunefleet.trainers.run import read_run

    text = read_run(path, settings)
    problems = list(text.problems)
    links, found = chain(text.value) if text.value is not None and text.sure("model") else ([], [])
    problems += found
    for link in links:
        sure = text if link is links[-1] else None
        problems += check_run(link.run, known=link.known, text=sure, checks=ROW_CHECKS)
    Refusal.raise_if(problems)
    for link in links:
        make_tokenizer(link.run)
    return links[-1].run


class Counter:
    """Rows done, rows a second and the time that is left, on stderr: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, every_s: float = 10.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(stderr=True)
        self.bar = Progress(TextColumn("preparing"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=self.console, transient=True)
        self.task = self.bar.add_task("rows", text="reading")
        self.every_s, self.began, self.said = every_s, time.monotonic(), time.monotonic()

    def __enter__(self) -> Counter:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def __call__(self, advance: Advance) -> None:
        """Show progress. Time is left in proportion to bytes: rows are not counted before they are read."""
        now = time.monotonic()
        text = described(advance, now - self.began)
        self.bar.update(self.task, completed=advance.bytes, total=advance.of, text=text)
        if not self.console.is_terminal and now - self.said >= self.every_s:
            self.said = now
            remark(f"preparing: {text}")


def described(advance: Advance, seconds: float) -> str:
    """``1,200,000 rows  8,300 rows/s  2m05s left``."""
    from tunefleet.cluster.progress import duration

    rate = advance.rows / max(seconds, 1e-9)
    left = seconds * (advance.of - advance.bytes) / max(advance.bytes, 1)
    return f"{advance.rows:,} rows  {rate:,.0f} rows/s  {duration(left)} left"
