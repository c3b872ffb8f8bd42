"""What to do about the rows: the sentences that a quality report begins with, the gravest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunefleet.cluster.axes import count, percent
from tunefleet.data.gate import MEANING, Finding, Verdict
from tunefleet.data.summary import SourceSummary

Tone = Literal["bad", "warn", "plain"]
TODO = {
    "leakage": "Held-out figures would be too good: set data.quality.leakage to drop, or take the rows out of one side.",
    "unsupervised": "Nothing can be learnt from them: raise data.max_length for those that lose it, mend the others.",
    "near_leakage": "Held-out figures are likely too good: look at the cases, and set data.quality.near_leakage to drop where they are the same task.",
    "contradictions": "The model learns to guess between the answers: keep one, or set data.quality.contradictions to drop (the earliest stays).",
    "invalid": "Mend them; a row that cannot be read is never trained on.",
    "label_spellings": "They are learnt, and scored, as labels of their own: spell each label in one way.",
    "empty_turns": "An empty answer teaches silence: fill it or drop the row.",
    "roles_out_of_order": "Templates that insist on turns refuse them, others train two turns as one: join the turns, or drop the rows.",
    "exact_duplicates": "Each is learnt as often as it stands there: set data.quality.exact_duplicates to drop, unless that is wanted.",
    "near_duplicates": "Look at the largest groups: a template that was filled in many times weighs more than it should. drop keeps the earliest of each.",
    "duplicate_ids": "Two rows go by one name: whoever joins results by id mixes them up.",
}
GRAVITY = {"leakage": 100.0, "near_leakage": 10.0, "contradictions": 10.0, "label_spellings": 10.0, "unsupervised": 5.0, "empty_turns": 5.0, "invalid": 3.0}
"""How much a share of such rows weighs against a share of others (1)."""
MUCH = 0.01  # a share of rows that are dropped which is worth a look
PIECES = 50
IMBALANCE = 0.05
SPARSE = 0.1


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to act on; of those of one tone the heaviest comes first."""

    tone: Tone
    said: str
    todo: str
    weight: float = 0.0


def advise(verdict: Verdict, sources: Sequence[SourceSummary], max_length: int) -> list[Advice]:
    """What to act on, the gravest first; empty when there is nothing."""
    found = [finding for finding in verdict.findings if finding.count]
    cut = next((_cut(sources, finding, len(verdict.keep), max_length) for finding in found if finding.kind == "truncated"), None)
    shape = [advice for source in sources for advice in (_labels(source), _sparse(source), _documents(source, max_length))]
    all_of = [*(_finding(finding, len(verdict.keep), sources) for finding in found if finding.kind in TODO), cut, *shape, _roomy(sources, max_length)]
    return sorted((advice for advice in all_of if advice), key=lambda advice: (("bad", "warn", "plain").index(advice.tone), -advice.weight))


def _finding(finding: Finding, rows: int, sources: Sequence[SourceSummary]) -> Advice:
    done = {"drop": "They are dropped.", "error": "The policy is error: nothing was prepared."}.get(finding.policy, "They stay.")
    share = finding.count / rows
    tone: Tone = "bad" if finding.policy == "error" else "plain" if finding.policy == "drop" and share < MUCH else "warn"
    said = f"Rows that {MEANING[finding.kind]}: {finding.count:,} of {rows:,} ({percent(share)})."
    if finding.kind == "unsupervised":
        cut = sum(source.all_cut for source in sources)
        said += f" Of them {cut:,} lose it to data.max_length." if cut < finding.count else " All of them lose it to data.max_length."
    return Advice(tone, said, done if tone == "plain" else f"{done} {TODO[finding.kind]}", share * GRAVITY.get(finding.kind, 1.0))


def _cut(sources: Sequence[SourceSummary], finding: Finding, rows: int, max_length: int) -> Advice:
    lost, learnt = sum(s.lost for s in sources), sum(s.supervised for s in sources)
    share = lost / max(lost + learnt, 1)
    said = f"Rows that are longer than data.max_length ({max_length:,} tokens): {finding.count:,}"
    most, every = (max(source.needed[i] for source in sources) for i in range(2))
    to_do = f"data.max_length {every:,} would cut none of them" + (f", {most:,} would hold 99% of the rows of each source." if most < every else ".")
    if finding.policy == "error":
        return Advice("bad", f"{said}.", f"The policy is error: nothing was prepared. {to_do}")
    if finding.policy == "drop":
        return Advice("warn" if finding.count > MUCH * rows else "plain", f"{said} of {rows:,}.", f"They are dropped. {to_do}", finding.count / rows)
    said += (
        f". {percent(share)} of what should be learnt is cut off." if lost else ". Nothing that is learnt is cut off." if learnt else ". Their end is cut off."
    )
    return Advice("warn" if share > 0.005 or not learnt else "plain", said, to_do, share)


def _documents(source: SourceSummary, max_length: int) -> Advice | None:
    """Text in several examples; of so many that it was hardly meant as one document."""
    longest = source.lengths.longest if source.lengths else 0
    if not source.pieces:
        return None
    if longest < PIECES * max_length:
        said = f"{source.name}: documents that are longer than data.max_length: {source.pieces:,} of {source.kept:,} ({percent(source.pieces / source.kept)})."
        todo = (
            f"Each becomes several examples, and what is read in one is not remembered in the next. data.max_length {longest:,} would keep all of them whole."
        )
        return Advice("plain", said, todo)
    said = f"{source.name}: one document has {longest:,} tokens, and is cut into some {longest // max_length:,} examples."
    return Advice("warn", said, "If it holds several, set the source's separator. Its held-out pieces stand right beside those that are trained on.", 0.1)


def _labels(source: SourceSummary) -> Advice | None:
    if not source.labels:
        return None
    rows, rarest = sum(label.rows for label in source.labels) + source.other_labels, source.labels[-1]
    kinds, most = len(source.labels), source.labels[0]
    if source.other_labels or kinds < 2 or rarest.rows / rows >= IMBALANCE or rarest.rows * 5 >= most.rows:
        return None
    said = f"{source.name}: the label {rarest.name!r} has {count(rarest.rows, 'row')} of {rows:,} ({percent(rarest.rows / rows)}), {most.name!r} {most.rows:,}."
    return Advice("warn", said, "Accuracy will hardly show whether it is learnt: look at a figure for each label, or add rows.")


def _sparse(source: SourceSummary) -> Advice | None:
    share = source.supervised / source.tokens if source.tokens and source.learnt else 1.0
    if share >= SPARSE or not source.supervised:
        return None
    return Advice(
        "plain", f"{source.name}: {percent(share)} of the tokens are learnt.", "The rest is prompt: it costs as much to compute. Shorten it where it can be."
    )


def _roomy(sources: Sequence[SourceSummary], max_length: int) -> Advice | None:
    longest = max((source.lengths.longest for source in sources if source.lengths), default=0)
    if not longest or longest * 2 > max_length or any(source.whole < source.kept or source.pieces for source in sources):
        return None
    return Advice(
        "plain", f"The longest row has {longest:,} tokens; data.max_length is {max_length:,}.", "A smaller one reserves less memory, and changes nothing else."
    )
