"""Rows to a store of shards, once: the same rows, tokenizer, template, length, layout and policies are never tokenised twice.

Two passes. The first reads every row and finds what is equal to what; the second tokenises what stays, writes it, and draws the held-out share. The store
``<data.store>/<fingerprint>/`` appears whole, so that several preparers do not meet, and one that is killed leaves nothing that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError, StorageError
from tunefleet.cluster.storage import open_storage
from tunefleet.data.examples import Text
from tunefleet.data.fingerprint import content_hashes, fingerprint
from tunefleet.data.keys import hashed
from tunefleet.data.layout import Encoded, Layout
from tunefleet.data.quality import Tally, judge
from tunefleet.data.rows import source_files
from tunefleet.data.settings import Data, Source
from tunefleet.data.shards import INDEX, Columns, Index, write_index
from tunefleet.data.splits import HOLDOUT, Item, Sink
from tunefleet.data.staging import appearing
from tunefleet.data.store import Store
from tunefleet.data.survey import Part, Reading, Survey, problem_of, take_survey
from tunefleet.data.tokens import Encoder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BATCH_ROWS = 1000
REFUSE_BATCHES = 50  # a policy that says error stops here and at the end: full counts for small data, no wasted hour for large
Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that stands. ``counts``: rows read, rows kept, examples written (``train`` and ``holdout`` of them), tokens, and the quality gate's."""

    store: str
    fingerprint: str
    counts: dict[str, int]
    decisions: list[str]
    created: bool


def prepare(data: Data, layout: Layout, tokenizer: Any, *, on_progress: Progress | None = None) -> Prepared:
    """Make the store of a run file's data section, or find it: then no row is read, and the rows' files only where they have changed.

    Raises DataError for rows that cannot be trained on, SettingsError for a template or a format that is none, StorageError where it cannot be written.
    """
    encoder = Encoder(tokenizer, data.chat_template, data.max_length)
    parts = parts_of(data)
    stores = open_storage(data.store)
    hashes = content_hashes([file for part in parts for file in part.files], stores)
    mark = fingerprint(data, layout, encoder, parts, hashes)
    home = stores.sub(mark[:16])
    created = not home.exists(INDEX)
    if created:
        with appearing(Path(home.address)) as folder:
            _make(folder, mark, data, layout, encoder, parts, on_progress or (lambda done, rows: None))
    index = Store.open(home.address).index
    if index.fingerprint != mark:
        raise StorageError(
            f"{home.address}: the store of another preparation", got=index.fingerprint[:16], want=mark[:16], fix="remove this folder: it is made anew"
        )
    return Prepared(home.address, mark, dict(index.counts), list(index.meta["decisions"]), created)


def parts_of(data: Data) -> list[Part]:
    """The sources of a data section with their files, training ones first. Raises DataError for files that are missing."""
    held = data.holdout if isinstance(data.holdout, list) else []
    sides = [(source, name, False) for source, name in zip(data.train, _names(data.train), strict=True)]
    sides += [(source, name, True) for source, name in zip(held, _names(held), strict=True)]
    return [Part(source, name, is_held, tuple(source_files(source.path))) for source, name, is_held in sides]


def _names(sources: Sequence[Source]) -> list[str]:
    """A name for every source of a side: its file's, numbered where several are called alike."""
    names: list[str] = []
    for source in sources:
        stem = PurePosixPath(source.path.rstrip("/")).name.partition(".")[0] or HOLDOUT
        taken = sum(name == stem or name.rpartition("-")[0] == stem for name in names)
        names.append(f"{stem}-{taken + 1}" if taken else stem)
    return names


def _make(folder: Path, mark: str, data: Data, layout: Layout, encoder: Encoder, parts: Sequence[Part], progress: Progress) -> None:
    readings, tally = [Reading(part, layout.takes) for part in parts], Tally(data.quality)
    survey = take_survey(readings, near=data.quality.near_duplicates != "off")
    tally.found("invalid", survey.invalid)
    dropped = judge(survey, tally)
    tally.refuse(survey.rows)
    encoder.know(survey.labels)
    share = data.holdout if isinstance(data.holdout, float) else 0.0
    with Sink(folder, layout, encoder.tokenizer, [reading.part for reading in readings], held=data.holdout not in (0.0, [])) as sink:
        kept = 0
        for count, batch in enumerate(_batches(_staying(readings, survey, dropped)), start=1):
            encoder.read_ahead([item.example for item in batch])
            for item in batch:
                encoded = _encode(item, layout, encoder, tally)
                kept += bool(encoded)
                for answer, one in encoded:
                    sink.add(item, answer, one, held=item.part.held or _draws(item, one) < share * 2.0**64)
            if count % REFUSE_BATCHES == 0:
                tally.refuse(batch[-1].number + 1)
            progress(batch[-1].number + 1, survey.rows)
        tally.refuse(survey.rows)
        splits = sink.close()
    _refuse_empty(splits, tally, survey)
    counts = {"rows": survey.rows, "kept": kept, "examples": sum(s.rows for s in splits.values()), "tokens": sum(s.tokens for s in splits.values())}
    counts |= {"supervised": sum(s.supervised for s in splits.values()), "train": splits["train"].rows}
    counts |= {HOLDOUT: splits[HOLDOUT].rows if HOLDOUT in splits else 0, **tally.counts}
    decisions = [reading.decision for reading in readings if reading.decision] + encoder.decisions + tally.decisions()
    meta = {"decisions": decisions, "sets": sink.sets, "chat_template": encoder.template_id(), "labels": list(encoder.labels)}
    write_index(folder, Index(fingerprint=mark, layout=Columns.of(layout), splits=splits, counts=counts, meta=meta))


def _staying(readings: Sequence[Reading], survey: Survey, dropped: npt.NDArray[np.bool_]) -> Iterator[Item]:
    """The second pass: the rows that were not dropped, in the same order."""
    opening, number = survey.keys("opening"), 0
    for reading in readings:
        for parsed in reading.parsed():
            if parsed.example is None:
                continue
            if number >= len(dropped):
                break
            if not dropped[number]:
                yield Item(reading.part, parsed, number, int(opening[number]))
            number += 1
    if number != len(dropped):
        raise DataError(
            "the rows changed while they were prepared", got=f"{number} rows", want=f"{len(dropped)} rows", fix="prepare again when the files are at rest"
        )


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, BATCH_ROWS)):
        yield batch


def _encode(item: Item, layout: Layout, encoder: Encoder, tally: Tally) -> list[tuple[int, Encoded]]:
    """The examples that a row became, none when a policy drops it, each with the number of the answer that it holds (-1: all up to the last).

    An empty example is never kept.
    """
    where = item.parsed.row.where
    try:
        encoded = list(layout.encode(item.example, encoder))
    except DataError as error:
        tally.found("invalid", [f"{where}: {problem_of(error)}"])
        return []
    found = {"truncated": any(e.truncated for e in encoded), "unsupervised": not any(e.supervised for e in encoded)}
    for kind, is_so in found.items():
        if is_so:
            tally.found(kind, [where])
    if any(is_so and tally.policy(kind) != "keep" for kind, is_so in found.items()):
        return []
    return [(place if len(encoded) > 1 else -1, e) for place, e in enumerate(encoded) if e.length and (e.supervised or found["unsupervised"])]


def _draws(item: Item, encoded: Encoded) -> int:
    """What a held-out share is drawn by: the hash of the prompt's text, or of the example itself for raw text. The seed has no part in it."""
    return hashed(encoded.columns["ids"].tobytes()) if isinstance(item.example, Text) else item.opening


def _refuse_empty(splits: dict[str, Any], tally: Tally, survey: Survey) -> None:
    dropped = ", ".join(f"{count} {kind}" for kind, count in tally.counts.items() if count and tally.policy(kind) == "drop")
    got = f"{survey.rows} rows read, dropped: {dropped or 'none'}"
    if not splits["train"].rows:
        raise DataError("data.train: no row is left to train on", got=got, want="one row or more", fix="add rows, or loosen data.quality or data.holdout")
    if HOLDOUT in splits and not splits[HOLDOUT].rows:
        raise DataError("data.holdout: no row is held out", got=got, want="one row or more", fix="raise data.holdout, name held-out sources, or set it to 0")
