"""Rows to shards: read, check their quality, tokenise, split off the held-out share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from tunefleet.tuning.arguments import TRUST, Option, Verb, whole_number
from tunefleet.tuning.printing import console, print_json, print_table, remark, results

if TYPE_CHECKING:
    from tunefleet.trainers.run import RunFile

VERB = Verb(
    subject="run.yaml",
    subject_help="the run file",
    keys=True,
    options=(
        Option("--preview", "print N rows as the model will see them, what is learnt in colour or [[brackets]], and write nothing", "N", type=whole_number(1)),
        Option("--address", "a running Ray cluster, host:port, whose CPUs prepare a large input; without it a local Ray does", metavar="ADDR"),
        TRUST,
        Option("--json", "print rows, kept, tokens and the counts of the quality gate as JSON on stdout"),
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Prepare or preview. What was decided for the user is said on stderr."""
    from tunefleet.trainers.objective import make_objective
    from tunefleet.trainers.vocabulary import load_tokenizer

    decisions: list[str] = []
    asked = checked_rows(options.subject, settings, trust_code=options.trust_code)
    tokenizer = load_tokenizer(asked.model, asked.data.chat_template, decisions=decisions)
    layout = make_objective(asked.objective, tokenizer.pad_token_id).layout
    if options.preview:
        from tunefleet.data.preview import preview

        for shown in preview(asked.data, layout, tokenizer, options.preview, colour=results().isatty()):
            console().print(shown, markup=False, highlight=False, soft_wrap=True)
            console().print()
        return 0
    from tunefleet.cluster.tasks import cluster_tasks
    from tunefleet.data.prepare import Advance, prepare
    from tunefleet.tuning.counter import Counter

    with Counter("preparing") as counter:

        def show(advance: Advance) -> None:
            counter.show(advance.rows, advance.bytes, advance.of)

        prepared = prepare(asked.data, layout, tokenizer, on_progress=show, cluster=partial(cluster_tasks, options.address))
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


def checked_rows(path: str, settings: Mapping[str, str], *, trust_code: bool = False) -> RunFile:
    """The run with absolute paths, its tokenizer there, when nothing is wrong with its text and its rows' files. ``trust_code``: see ``read_run``."""
    from tunefleet.cluster.errors import Refusal
    from tunefleet.trainers.chain import chain
    from tunefleet.trainers.check import ROW_CHECKS, check_run
    from tunefleet.trainers.rowtokenizer import make_tokenizer
    from tunefleet.trainers.run import read_run

    text = read_run(path, settings, trust_code=trust_code)
    problems = list(text.problems)
    links, found = chain(text.value, trust_code=trust_code) if text.value is not None and text.sure("model") else ([], [])
    problems += found
    for link in links:
        sure = text if link is links[-1] else None
        problems += check_run(link.run, known=link.known, text=sure, checks=ROW_CHECKS)
    Refusal.raise_if(problems)
    for link in links:
        make_tokenizer(link.run)
    return links[-1].run
