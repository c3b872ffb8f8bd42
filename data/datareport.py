"""The quality report of a store: report.html to look at, report.json for programs. What a reader would act on comes first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunefleet.cluster.axes import amount, count, percent
from tunefleet.cluster.markup import Content, Markup, breakable, element, join
from tunefleet.cluster.page import Cell, Figure, Section, Tone, facts, figures, fold, notice, page, paragraph, section, table, texts, verdict
from tunefleet.cluster.storage import Storage
from tunefleet.data.advice import Advice, advise
from tunefleet.data.cases import words_of_rows
from tunefleet.data.facts import Facts
from tunefleet.data.gate import DONE, MEANING, Case, Finding, Verdict, spoken
from tunefleet.data.sourcepage import ABOUT, source_charts, source_table
from tunefleet.data.summary import SourceSummary, summarise
from tunefleet.data.survey import Reading

HTML, JSON = "report.html", "report.json"


@dataclass(frozen=True)
class Report:
    """Everything that the page and the JSON file say. ``words`` holds the text of the rows that the findings' cases name."""

    title: str
    judged: Verdict
    sources: Sequence[SourceSummary]
    advice: Sequence[Advice]
    words: Mapping[int, str]
    decisions: Sequence[str]
    max_length: int
    stopped: str = ""  # why nothing was prepared, where no policy says it


def make_report(found: Facts, judged: Verdict, readings: Sequence[Reading], *, max_length: int, masked: bool, decisions: Sequence[str] = ()) -> Report:
    """Sum up and read again the rows that are shown. ``masked``: the layout has a mask of supervised tokens."""
    parts = [reading.part for reading in readings]
    sources = summarise(found, judged, parts, masked=masked)
    shown = {row for finding in judged.findings for case in finding.cases for row in (case.row, case.other) if row >= 0}
    names = list(dict.fromkeys(part.name for part in parts))
    return Report(
        title=", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        judged=judged,
        sources=sources,
        advice=advise(judged, sources, max_length),
        words=words_of_rows(sorted(shown), found, readings),
        decisions=decisions,
        max_length=max_length,
    )


def write_report(storage: Storage, report: Report) -> None:
    """Put both files where the store is."""
    storage.put(JSON, json.dumps(as_json(report), indent=1).encode())
    storage.put(HTML, as_page(report).encode())


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    judged = report.judged
    findings = [
        {
            "kind": finding.kind,
            "meaning": f"rows that {MEANING[finding.kind]}",
            "policy": finding.policy,
            "rows": finding.count,
            "by_source": list(finding.by_part),  # in the order of sources
            "cases": [_case_json(report, case) for case in finding.cases],
        }
        for finding in judged.findings
    ]
    advice = [asdict(one) for one in report.advice]
    counts = {"rows": len(judged.keep), "kept": int(judged.keep.sum()), **judged.counts, "supervised_lost": sum(s.lost for s in report.sources)}
    sources = [asdict(source) for source in report.sources]
    return {"version": 1, "counts": counts, "advice": advice, "findings": findings, "sources": sources, "decisions": list(report.decisions)}


def sources_of(storage: Storage) -> list[Any]:
    """What the report of a store says of its sources, as plain values; nothing where it has no report."""
    return list(json.loads(storage.read(JSON))["sources"]) if storage.exists(JSON) else []


def _case_json(report: Report, case: Case) -> dict[str, Any]:
    """A case with places and words."""
    named = {"place": case.row, "other": case.other}
    places = {name: report.judged.places[row] for name, row in named.items() if row >= 0}
    words = {f"{name}_text": report.words[row] for name, row in named.items() if row in report.words}
    return {**places, **words, "alike": case.alike}


def as_page(report: Report) -> str:
    """The report as one HTML page."""
    found = [finding for finding in report.judged.findings if finding.count]
    sections = [
        section("What to do", *map(_advice, report.advice), about="The gravest first.") if report.advice else None,
        _findings(report),
        section("Rows to look at", *(_cases(report, finding, is_open=i == 0) for i, finding in enumerate(_by_gravity(report, found)))) if found else None,
        section("Sources", source_table(report.sources), source_charts(report.sources, report.max_length), about=ABOUT),
        section("Decisions", element("ul", *(element("li", breakable(text)) for text in report.decisions))) if report.decisions else None,
    ]
    return page(
        report.title,
        kind="data report",
        about=f"{count(len(report.judged.keep), 'row')} of {count(len(report.sources), 'source')}, judged before tokens became shards.",
        lead=[_verdict(report), _figures(report)],
        sections=[part for part in sections if part],
    )


def _verdict(report: Report) -> Markup:
    rows, kept = len(report.judged.keep), int(report.judged.keep.sum())
    grave = [advice for advice in report.advice if advice.tone != "plain"]
    refused = report.judged.refuses
    if report.stopped:
        return verdict(f"Nothing was prepared. {report.stopped}.", tone="bad", why=grave[0].said if grave else "")
    stay = f"{kept:,} of {count(rows, 'row')} stay" if kept < rows else f"All {rows:,} rows stay" if rows > 1 else "The one row stays"
    if not grave:
        return verdict(f"{stay}, and nothing has to be mended.", tone="good")
    said = "Nothing was prepared: the rows break a policy." if refused else f"{stay}; {count(len(grave), 'thing')} to look at."
    return verdict(said, tone="bad" if refused else "warn", why=grave[0].said)


def _figures(report: Report) -> Markup:
    rows, kept = len(report.judged.keep), int(report.judged.keep.sum())
    tokens, supervised, lost = (sum(values) for values in zip(*((s.tokens, s.supervised, s.lost) for s in report.sources), strict=True))
    refused = sum(finding.count for finding in report.judged.findings if finding.policy == "error")
    longest, how = _longest(report)
    shown = [
        Figure("rows", f"{rows:,}"),
        Figure("refused", f"{refused:,}", tone="bad") if report.judged.refuses else Figure("stay", f"{kept:,}", more=percent(kept / max(rows, 1))),
        Figure("tokens", amount(tokens)),
        Figure("longest row", f"{longest:,}", "tokens", more=f"{how} {report.max_length:,}"),
    ]
    if supervised:
        shown.insert(3, Figure("learnt", percent(supervised / max(tokens, 1)), more="of the tokens carry loss"))
        shown.append(
            Figure("cut off", percent(lost / max(lost + supervised, 1)), more="of what should be learnt", tone="warn" if lost > 0.005 * supervised else "plain")
        )
    return figures(shown)


def _longest(report: Report) -> tuple[int, str]:
    """Tokens of the longest sequence before the cut, or of the longest document, and what becomes of it at max_length."""
    if any(source.pieces for source in report.sources):
        return max(source.lengths.longest for source in report.sources if source.lengths), "in examples of at most"
    longest = max((source.needed[1] for source in report.sources), default=0)
    return longest, "cut at" if longest > report.max_length else "max_length"


def _advice(advice: Advice) -> Markup:
    return notice(advice.said, tone=advice.tone, detail=advice.todo)


def _findings(report: Report) -> Section:
    """Every kind of row that was found; and what was not found, which is an answer too."""
    several = len(report.sources) > 1
    names = [source.name for source in report.sources] if several and len(report.sources) <= 6 else []
    rows: list[list[Content | Cell]] = []
    for finding in (one for one in report.judged.findings if one.count):
        tone: Tone = "plain" if finding.policy in ("drop", "keep") else "bad" if finding.policy == "error" else "warn"
        of_sources = [f"{number:,}" if number else "" for number in finding.by_part] if names else []
        share = percent(finding.count / max(len(report.judged.keep), 1))
        rows.append([_named(finding.kind), Cell(f"{finding.count:,}", tone), share, DONE[finding.policy], *of_sources])
    found = table(["kind of row", "found", "of all", "they are", *names], rows, numbers=[1, 2, *range(4, 4 + len(names))]) if rows else None
    clean = [finding.kind for finding in report.judged.findings if not finding.count and finding.policy != "off"]
    unsought = [finding.kind for finding in report.judged.findings if finding.policy == "off"]
    return section("What was looked for", found, _listed("Not found", clean), _listed("Not looked for", unsought))


def _named(kind: str) -> Markup:
    return join(spoken(kind), element("div", MEANING[kind], class_="about"))


def _listed(title: str, kinds: Sequence[str]) -> Markup | None:
    """Kinds of rows by name, and what they mean when asked."""
    return fold(title, facts((spoken(kind), f"rows that {MEANING[kind]}") for kind in kinds), aside=", ".join(map(spoken, kinds))) if kinds else None


def _by_gravity(report: Report, found: Sequence[Finding]) -> list[Finding]:
    order = {"error": 0, "warn": 1, "keep": 2, "drop": 3}
    return sorted(found, key=lambda finding: order[finding.policy])


def _cases(report: Report, finding: Finding, *, is_open: bool) -> Markup:
    shown = [_case(report, finding, case) for case in finding.cases]
    none = None if shown else paragraph("They stand too deep in their files to be read again for this page.")
    return fold(spoken(finding.kind), none, *shown, aside=f"rows that {MEANING[finding.kind]}: {finding.count:,}", is_open=is_open)


def _case(report: Report, finding: Finding, case: Case) -> Markup:
    """A row, and beside it the one that it is compared with. Why an unreadable one is unreadable stands above."""
    place = report.judged.places[case.row]
    above = paragraph(f"{case.alike:,} rows are alike; two of them:") if case.alike > 2 else None
    if finding.kind == "invalid" and case.row in report.judged.problems:
        above = paragraph(report.judged.problems[case.row])
    parts = [(place, report.words.get(case.row, "(cannot be read again)"))]
    if case.other >= 0:
        first = "held out" if finding.kind in ("leakage", "near_leakage") else "earlier"
        parts.insert(0, (f"{report.judged.places[case.other]} ({first})", report.words.get(case.other, "(cannot be read again)")))
    return element("div", above, texts(parts, lead=len(parts) - 1 if case.other >= 0 else None), class_="case")
