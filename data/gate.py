"""The quality gate: rows that would train the model wrongly are counted, and dropped or refused as data.quality says; never silently.

``judge`` is a pure function of the facts of all rows (``tunefleet.data.facts``), the sources and the policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import DataError, Refusal
from tunefleet.data.facts import Facts, Flag
from tunefleet.data.settings import Quality
from tunefleet.data.survey import Part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]
    Ints = npt.NDArray[np.int64]
    Hashes = npt.NDArray[np.uint64]

SHOWN = 3
LOOK_LINES = 200_000  # examples for the report stand no deeper in their files: they are read again to be shown
MEANING: Mapping[str, str] = {
    "invalid": "cannot be read",
    "exact_duplicates": "equal an earlier one",
    "duplicate_ids": "have the id of an earlier one and say something else",
    "near_duplicates": "nearly equal an earlier one",
    "contradictions": "answer the prompt of an earlier one otherwise",
    "leakage": "are for training with a prompt that is also held out",
    "near_leakage": "are for training and nearly equal a held-out one",
    "unsupervised": "have no token to learn",
    "truncated": "are longer than data.max_length",
    "roles_out_of_order": "have turns in an order that no chat has",
    "empty_turns": "have a turn, an answer or a text with nothing in it",
    "label_spellings": "spell a label otherwise than most rows",
}
DONE = {"drop": "dropped", "warn": "kept", "keep": "kept", "error": "refused", "off": "not looked for"}
"""What a policy does with such rows."""
REMEDY = {
    "invalid": "mend the rows, or set data.quality.invalid to drop",
    "unsupervised": "mend the rows or raise data.max_length, or set data.quality.unsupervised to drop",
    "truncated": "raise data.max_length, or set data.quality.truncated to keep or drop",
}
BY_THEMSELVES = {
    "invalid": Flag.INVALID,
    "unsupervised": Flag.UNSUPERVISED,
    "truncated": Flag.TRUNCATED,
    "roles_out_of_order": Flag.ROLES,
    "empty_turns": Flag.BLANK,
}
EARLY = ("part", "file", "line", "flags")
LABELS = 50  # a source with so few different short answers, each often, has labels
ROWS_PER_LABEL = 5


@dataclass(frozen=True, slots=True)
class Case:
    """A row to look at, the row to compare it with (-1: none), and how many rows are like it, itself included."""

    row: int
    other: int
    alike: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Rows of one kind: how many, in which sources, the first ones, and cases for a report: of the largest groups, or the first of every source."""

    kind: str
    policy: str
    count: int
    by_part: tuple[int, ...]
    rows: tuple[int, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Verdict:
    """What the gate says: which rows stay, and every finding, also those that no row has.

    ``like`` gives for every near duplicate the row that it is near to, -1 elsewhere.
    """

    keep: Bools
    findings: tuple[Finding, ...]
    like: Ints
    places: Mapping[int, str]
    problems: Mapping[int, str]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of every kind."""
        return {finding.kind: finding.count for finding in self.findings}

    @property
    def refuses(self) -> bool:
        """Whether a policy that says error was broken."""
        return any(finding.count and finding.policy == "error" for finding in self.findings)

    def refuse(self, report: str = "") -> None:
        """Raise, all at once, what the policies call an error. ``report`` is where the rows can be looked at."""
        Refusal.raise_if(self._error(finding, report) for finding in self.findings if finding.count and finding.policy == "error")

    def decisions(self) -> list[str]:
        """A line for every kind that was found and is no error."""
        done = {"warn": "kept", "drop": "dropped", "keep": "kept"}
        found = [finding for finding in self.findings if finding.count and finding.policy in done]
        return [f"data.quality.{f.kind}: {f.count} {done[f.policy]}, rows that {MEANING[f.kind]} ({self._places(f)})" for f in found]

    def _error(self, finding: Finding, report: str) -> DataError:
        kind = finding.kind
        fix = REMEDY.get(kind, f"mend the rows, or set data.quality.{kind} to drop or warn")
        return DataError(
            f"data.quality.{kind}: {finding.count} of {len(self.keep)} rows {MEANING[kind]}",
            got=self._places(finding),
            want="none, as the policy is error",
            fix=f"{fix}; {report} shows them" if report else fix,
        )

    def _places(self, finding: Finding) -> str:
        shown = [self.places[row] + (f": {self.problems[row]}" if row in self.problems else "") for row in finding.rows]
        more = finding.count - len(shown)
        return "; ".join(shown) + (f" and {more} more" if more else "")


def spoken(kind: str) -> str:
    """``exact_duplicates`` as people say it."""
    return kind.replace("_", " ")


def judge(facts: Facts, parts: Sequence[Part], quality: Quality, share: float = 0.0) -> Verdict:
    """Judge all rows. ``share`` is the held-out share of the training sources, 0 where sources are held out as a whole.

    The earliest of equals is kept. Near duplicates and contradictions are sought among rows that equal no earlier one, leaks among those that stay, and
    what is wrong with a row by itself among those that no other row caused to be dropped. Sources that are held out as a whole are compared among
    themselves, training rows likewise, and leakage is what they have in common.
    """
    return _Judging(facts, parts, quality, share).verdict()


def judge_early(facts: Facts, parts: Sequence[Part], quality: Quality) -> None:
    """Raise, for some blocks of a large input, what no further row can mend: unreadable, unsupervised or truncated rows whose policy is error.

    It looks at the columns ``EARLY`` alone.
    """
    judging = _Judging(facts, parts, quality, 0.0)
    for kind in ("invalid", "unsupervised", "truncated"):
        judging.note(kind, facts.has(BY_THEMSELVES[kind]) & (judging.readable if kind != "invalid" else True))
    judging.result().refuse()


class _Judging:
    """The facts while they are judged: what was found so far, and which rows stay."""

    def __init__(self, facts: Facts, parts: Sequence[Part], quality: Quality, share: float) -> None:
        import numpy as np

        self.facts, self.parts, self.quality, self.share = facts, parts, quality, share
        self.readable = ~facts.has(Flag.INVALID)
        self.held = np.array([part.held for part in parts], bool)[facts.columns["part"]]
        self.keep = np.ones(len(facts), bool)
        self.like = np.full(len(facts), -1, np.int64)
        self.findings: list[Finding] = []

    def verdict(self) -> Verdict:

        columns = self.facts.columns
        self.note("invalid", ~self.readable)
        distinct = self.readable & ~self._repeats(columns["whole"], self.readable)
        self.note("exact_duplicates", self.readable & ~distinct, beside=self._first(columns["whole"]), groups=columns["whole"])
        ids = self._per_part(columns["id"])
        self.note("duplicate_ids", self._repeats(ids, distinct & (columns["id"] != 0)), beside=self._first(ids), groups=ids)
        self._near(distinct)
        self._contradictions(distinct)
        self._leakage()
        stay = self.keep & self.readable
        self.note("unsupervised", stay & self.facts.has(Flag.UNSUPERVISED))
        self.note("truncated", stay & self.facts.has(Flag.TRUNCATED))
        stay = self.keep & self.readable
        self.note("roles_out_of_order", stay & self.facts.has(Flag.ROLES))
        self.note("empty_turns", stay & self.facts.has(Flag.BLANK))
        self._spellings(stay)
        self.keep &= self.readable & ~self.facts.has(Flag.EMPTY)
        return self.result()

    def result(self) -> Verdict:
        """What was found so far."""
        shown = {row for finding in self.findings for case in finding.cases for row in (case.row, case.other) if row >= 0}
        shown.update(row for finding in self.findings for row in finding.rows)
        columns = self.facts.columns
        places = {row: f"{self.parts[columns['part'][row]].files[columns['file'][row]]}:{columns['line'][row]}" for row in shown}
        return Verdict(self.keep, tuple(self.findings), self.like, places, self.facts.problems)

    def note(self, kind: str, rows: Bools, *, beside: Callable[[int], int] = lambda row: -1, groups: Hashes | Ints | None = None) -> None:
        """Count rows of a kind, and drop them where the policy says so. ``groups``: rows with the same value are alike."""
        import numpy as np

        policy = str(vars(self.quality)[kind])
        policy = "drop" if kind == "invalid" and policy == "keep" else policy
        places = np.flatnonzero(rows) if policy != "off" else np.zeros(0, np.int64)
        parts = self.facts.columns["part"][places]
        by_part = np.bincount(parts, minlength=len(self.parts))
        near = places[self.facts.columns["line"][places] <= LOOK_LINES]
        chosen = _first_of_each(near, self.facts.columns["part"][near]) if groups is None else _of_largest(near, groups[near])
        cases = tuple(Case(row, beside(row), alike) for row, alike in chosen)
        self.findings.append(Finding(kind, policy, len(places), tuple(by_part.tolist()), tuple(places[:SHOWN].tolist()), cases))
        if policy == "drop":
            self.keep[places] = False

    def _first(self, keys: Hashes) -> Callable[[int], int]:
        """Finds the earliest readable row of the same side with the same key as a row."""
        return lambda row: int(((keys == keys[row]) & (self.held == self.held[row]) & self.readable).argmax())

    def _repeats(self, keys: Hashes, among: Bools) -> Bools:
        """Which of some rows have a key that an earlier one of them has, on the same side."""
        import numpy as np

        found = np.zeros(len(keys), bool)
        for side in (self.held, ~self.held):
            places = np.flatnonzero(among & side)
            repeated = np.ones(len(places), bool)
            repeated[np.unique(keys[places], return_index=True)[1]] = False
            found[places] = repeated
        return found

    def _per_part(self, keys: Hashes) -> Hashes:
        """Keys that only rows of one source have in common."""
        import numpy as np

        from tunefleet.data.mixing import mixed

        return mixed(keys + mixed(self.facts.columns["part"].astype(np.uint64)))

    def _near(self, distinct: Bools) -> None:
        from tunefleet.data.resemblance import near_earlier

        if self.quality.near_duplicates != "off":
            for side in (self.held, ~self.held):
                found = near_earlier(self.facts.sketch, distinct & side)
                self.like[found >= 0] = found[found >= 0]
        self.note("near_duplicates", self.like >= 0, beside=lambda row: int(self.like[row]), groups=self.like)

    def _contradictions(self, distinct: Bools) -> None:
        """A claim that an earlier row answered otherwise: the first row with an answer that is not the first of its claim."""
        from tunefleet.data.mixing import mixed

        claim = self.facts.columns["claim"]
        claims = distinct & (claim != 0)
        said = mixed(claim ^ mixed(self.facts.columns["answer"]))
        self.note("contradictions", self._repeats(claim, claims) & ~self._repeats(said, claims), beside=self._first(claim), groups=claim)

    def _leakage(self) -> None:
        """Training rows whose prompt is held out, then those that nearly equal a held-out row. A long chat's prompt is all before its last answer."""
        import numpy as np

        from tunefleet.data.resemblance import near_others

        columns = self.facts.columns
        held, opening, context = self.held & self.readable, columns["opening"], columns["context"]
        prompt = np.where(context != 0, context, opening)
        training = self.readable & ~self.held & self.keep
        leaks = training & np.isin(prompt, prompt[held])
        leaked_from = self.held & self.readable
        self.note("leakage", leaks, beside=lambda row: int(((prompt == prompt[row]) & leaked_from).argmax()))
        if self.share:  # rows with the same prompt are on one side by themselves
            drawn = self.readable & (context != 0) & (opening.astype(np.float64) < self.share * 2.0**64)
            held, training = drawn, self.readable & (context != 0) & ~drawn & self.keep
        near = np.full(len(prompt), -1, np.int64)
        if self.quality.near_leakage != "off" and held.any():
            rows = np.flatnonzero(training & ~leaks)
            near[rows] = near_others(self.facts.sketch, rows, np.flatnonzero(held & self.keep))
        self.note("near_leakage", near >= 0, beside=lambda row: int(near[row]))

    def _spellings(self, stay: Bools) -> None:
        """Rows whose answer is a label that most rows of the source spell otherwise."""
        import numpy as np

        columns = self.facts.columns
        odd, usual_of = np.zeros(len(stay), bool), np.full(len(stay), -1, np.int64)
        for number in range(len(self.parts)):
            rows = np.flatnonzero(stay & (columns["part"] == number))
            if not is_labelled(self.facts, rows):
                continue
            _, first, spelt, counts = np.unique(columns["spelling"][rows], return_index=True, return_inverse=True, return_counts=True)
            label = columns["answer"][rows][first]  # of every spelling
            order = np.lexsort((first, -counts, label))  # of each label the commonest spelling first
            usual = np.concatenate([[True], label[order][1:] != label[order][:-1]])
            leader = np.empty(len(order), np.int64)
            leader[order] = order[np.flatnonzero(usual)][np.cumsum(usual) - 1]
            odd[rows] = leader[spelt] != spelt
            usual_of[rows] = rows[first[leader[spelt]]]
        self.note("label_spellings", odd, beside=lambda row: int(usual_of[row]), groups=columns["spelling"])


def _first_of_each(rows: Ints, parts: npt.NDArray[np.uint16]) -> list[tuple[int, int]]:
    """The first rows of every source, each alone."""
    import numpy as np

    return [(row, 1) for part in np.unique(parts) for row in rows[parts == part][:SHOWN].tolist()]


def _of_largest(rows: Ints, groups: Hashes | Ints) -> list[tuple[int, int]]:
    """The first row of each of the largest groups, and how many rows are alike with the one that it is compared with."""
    import numpy as np

    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    largest = np.lexsort((first, -counts))[:SHOWN]
    return [(int(rows[first[i]]), int(counts[i]) + 1) for i in largest]


def is_labelled(facts: Facts, rows: Ints) -> bool:
    """Whether the answers of some rows are labels: by their kind, or because they are short and few and come again and again."""
    import numpy as np

    if not len(rows):
        return False
    if facts.has(Flag.LABEL)[rows].any():
        return True
    answers = facts.columns["answer"][rows]
    if (facts.columns["spelling"][rows] == 0).any() or len(np.unique(answers[:10_000])) > LABELS:
        return False
    labels = len(np.unique(answers))
    return labels <= LABELS and len(rows) >= ROWS_PER_LABEL * labels
