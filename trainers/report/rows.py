"""What a run ate: rows, tokens and sources, what the gate found among them, and what was decided for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunefleet.cluster.axes import percent, quantity
from tunefleet.cluster.markup import Content, Markup, element, join
from tunefleet.cluster.page import Cell, Section, facts, fold, section, table
from tunefleet.data.gate import DONE, MEANING, spoken
from tunefleet.data.sourcepage import ABOUT, source_charts, source_table
from tunefleet.trainers.report.gather import Gathered

PLAIN = {"rows": "rows read", "kept": "rows kept", "examples": "examples", "train": "examples to train on", "holdout": "examples held out"}


def rows(run: Gathered) -> Section | None:
    """What the run ate, and what the gate found."""
    prepared = run.last("prepared")
    if not prepared:
        return None
    counts: Mapping[str, int] = prepared.get("counts", {})
    pairs: list[tuple[str, Content]] = [(name, quantity(counts[key])) for key, name in PLAIN.items() if key in counts]
    if counts.get("tokens"):
        share = counts.get("supervised", 0) / counts["tokens"]
        pairs += [("tokens", quantity(counts["tokens"])), ("supervised tokens", f"{quantity(counts.get('supervised', 0))} ({share:.0%})")]
    pairs += [("trained on", _words_of(run, "train")), ("held out", _words_of(run, "holdout"))]
    told = {"data report": "report", "data version": "data_version", "store": "store", "fingerprint": "fingerprint"}
    pairs += [(name, str(prepared[key])) for name, key in told.items() if prepared.get(key)]
    said = [str(record.get("text", "")) for record in run.all_of("decision")]
    decisions = fold("Decisions that nobody made in the run file", _listed(said), aside=str(len(said))) if said else None
    max_length = run.section("data").get("max_length")
    sources: list[Content] = []
    if run.sources and isinstance(max_length, int):
        drawn = fold("How long the rows are, and what is learnt of them", source_charts(run.sources, max_length))
        sources = [source_table(run.sources), element("p", ABOUT, class_="about"), drawn]
    return section("Data", facts(pairs), *sources, _gate(counts, run.section("data").get("quality")), decisions)


def _gate(counts: Mapping[str, int], quality: Any) -> Markup:
    """The kinds of rows that would train wrongly and were found: how many, and what was done; and what was not found, or not looked for."""
    policies = quality if isinstance(quality, Mapping) else {}
    kinds = [kind for kind in MEANING if kind in counts]
    looked = [kind for kind in kinds if policies.get(kind) != "off"]
    rows: list[list[Content | Cell]] = []
    for kind in (one for one in looked if counts[one]):
        policy = str(policies.get(kind, ""))
        share = percent(counts[kind] / counts["rows"]) if counts.get("rows") else ""
        rows.append([spoken(kind), quantity(counts[kind]), share, Cell(DONE.get(policy, policy), "warn" if policy == "warn" else "plain")])
    clean = [spoken(kind) for kind in looked if not counts[kind]]
    unsought = [spoken(kind) for kind in kinds if kind not in looked]
    said = [f"{start}: {', '.join(names)}." for start, names in (("Not found", clean), ("Not looked for", unsought)) if names]
    found = table(["rows that would train wrongly", "found", "of all", "what was done"], rows, numbers=(1, 2)) if rows else None
    return join(found, element("p", " ".join(said), class_="about") if said else None)


def _words_of(run: Gathered, side: str) -> str:
    """The sources of a side in a few words."""
    held = run.section("data").get(side)
    if isinstance(held, int | float):
        return f"{held:.0%} of the training rows, drawn by a hash of their text" if held else "nothing"
    names = [str(source.get("path", "")) for source in held if isinstance(source, Mapping)] if isinstance(held, list) else []
    return ", ".join(names) or "-"


def _listed(texts: list[str]) -> Markup:
    return table(["decision"], [[text] for text in texts], numbers=())
