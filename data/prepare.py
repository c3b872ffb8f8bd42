"""Rows to a store of shards, once: the same rows, tokenizer, template, length, layout and policies are never tokenised twice.

    scan        every file is read once and cut into blocks by its content (data/blocks.py); their hashes are the rows' part of the fingerprint
    blocks      each is tokenised and its facts are gathered, on any core (data/blockwork.py); what became of it is kept (data/pieces.py)
    judge       once, over the facts of all rows (data/gate.py); a report says what was found (data/datareport.py)
    shards      each is put together from pieces, on any core, straight in its final place (data/assembly.py); the index comes last

Nothing but facts, some hundred bytes a row, is ever held of all rows, and those in a temporary file (data/scratch.py). A preparer that is killed leaves
finished blocks, which the next one takes up; several at once write the same bytes under the same names, and the index of the first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tunefleet.cluster.errors import DataError, StorageError
from tunefleet.cluster.storage import Storage, open_storage
from tunefleet.cluster.tasks import Here, Tasks
from tunefleet.data.assembly import HOLDOUT, Placed
from tunefleet.data.blocks import Block, Scan, Sizes, scan, total_bytes
from tunefleet.data.blockwork import Done, Task, Work, block_key, do_block
from tunefleet.data.datareport import HTML as REPORT
from tunefleet.data.datareport import make_report, write_report
from tunefleet.data.facts import Facts, needs_sketches
from tunefleet.data.fingerprint import fingerprint
from tunefleet.data.gate import EARLY, judge, judge_early
from tunefleet.data.layout import Layout
from tunefleet.data.making import Making
from tunefleet.data.pieces import BLOCKS, Piece, key_of
from tunefleet.data.rows import read_rows, source_files
from tunefleet.data.scratch import Scratch
from tunefleet.data.settings import Data, Source
from tunefleet.data.shards import INDEX, SHARD_BYTES
from tunefleet.data.store import Store
from tunefleet.data.survey import Part, Reading
from tunefleet.data.tokens import Encoder

REFUSED = "refused"  # where reports of rows lie that broke a policy: there is no store then
ALONE_BYTES = 64 << 20
"""As much text is tokenised by this process alone, on all its cores, in the time that a Ray session takes to start and to load the tokenizer."""
EARLY_ROWS = 50_000  # a policy that says error stops here, at twice as many, and so on: full counts for small data, no wasted hour for large
_SCANNED_AT_ONCE = 4  # files; hashing lets other threads run


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes. They decide how the work is divided and how large shards are, and nothing else."""

    blocks: Sizes = field(default_factory=Sizes)
    shard: int = SHARD_BYTES
    alone: int = ALONE_BYTES


@dataclass(frozen=True, slots=True)
class Advance:
    """How far the tokenising is: rows and bytes of text that are done, and bytes in all."""

    rows: int
    bytes: int
    of: int


Progress = Callable[[Advance], None]
Cluster = Callable[[], AbstractContextManager[Tasks]]
"""Opens a Ray session, for as long as the block lasts. Called only where there is enough to do."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that stands. ``counts``: rows read, rows kept, examples written (``train`` and ``holdout`` of them), tokens, and the quality gate's.

    ``version`` names the rows, whatever their order (see data/versions.py). ``report`` is the page that shows what the quality gate found. Of the ``blocks``
    ``found`` were tokenised before (all of a store that stood: ``created`` is False); ``tokenised``: how many rows were, now.
    """

    store: str
    fingerprint: str
    version: str
    report: str
    counts: dict[str, int]
    decisions: list[str]
    created: bool
    blocks: int
    found: int
    tokenised: int


def prepare(
    data: Data, layout: Layout, tokenizer: Any, *, on_progress: Progress | None = None, cluster: Cluster | None = None, limits: Limits | None = None
) -> Prepared:
    """Make the store of a run file's data section, or find it: then no row is read, and the rows' files only where they have changed.

    ``cluster`` is used for large inputs; without it, and for small ones, this process does the work.
    Raises DataError for rows that cannot be trained on, SettingsError for a template or a format that is none, StorageError where it cannot be written.
    """
    limits = limits or Limits()
    encoder = Encoder(tokenizer, data.chat_template, data.max_length)
    parts = parts_of(data)
    scanned, mark, home = _sought(data, layout, encoder, parts, limits)
    blocks, created = sum(len(file.scan.blocks) for file in scanned), not home.exists(INDEX)
    found, tokenised = blocks, 0
    if created:
        preparing = _Preparing(data, layout, encoder, parts, open_storage(data.store), limits, on_progress or (lambda advance: None), cluster)
        found, tokenised = preparing.make(mark, [_Place(file.part, file.number, block) for file in scanned for block in file.scan.blocks])
    index = Store.open(home.address).index
    if index.fingerprint != mark:
        raise StorageError(
            f"{home.address}: the store of another preparation", got=index.fingerprint[:16], want=mark[:16], fix="remove this folder: it is made anew"
        )
    said = index.meta
    return Prepared(
        home.address,
        mark,
        said["version"],
        f"{home.address}/{REPORT}",
        dict(index.counts),
        list(said["decisions"]),
        created,
        blocks,
        found,
        tokenised,
    )


def standing(data: Data, layout: Layout, tokenizer: Any) -> str | None:
    """The address of the store that ``prepare`` would find; None where it would have to make it. Raises DataError for files that are missing."""
    _, _, home = _sought(data, layout, Encoder(tokenizer, data.chat_template, data.max_length), parts_of(data), Limits())
    return home.address if home.exists(INDEX) else None


def _sought(data: Data, layout: Layout, encoder: Encoder, parts: Sequence[Part], limits: Limits) -> tuple[list[_Scanned], str, Storage]:
    """The files as they are now, the fingerprint of what is made of them, and where that lies or will lie."""
    stores = open_storage(data.store)
    scanned = _scanned(parts, limits.blocks, stores)
    mark = fingerprint(data, layout, encoder, parts, {parts[file.part].files[file.number]: file.scan.content for file in scanned})
    return scanned, mark, stores.sub(mark[:16])


def parts_of(data: Data) -> list[Part]:
    """The sources of a data section with their files, training ones first. Raises DataError for files that are missing."""
    held = data.holdout if isinstance(data.holdout, list) else []
    sides = [(source, name, False) for source, name in zip(data.train, source_names(data.train), strict=True)]
    sides += [(source, name, True) for source, name in zip(held, source_names(held), strict=True)]
    return [Part(source, name, is_held, tuple(source_files(source))) for source, name, is_held in sides]


def source_names(sources: Sequence[Source]) -> list[str]:
    """A name for every source of a side: its file's, numbered where several are called alike. Held-out rows are scored by sets of these names."""
    stems = [PurePosixPath(source.path.rstrip("/")).name.partition(".")[0] or HOLDOUT for source in sources]
    names: list[str] = []
    for stem in stems:
        numbered = (f"{stem}-{number}" for number in count(2))
        names.append(stem if stem not in names else next(name for name in numbered if name not in stems and name not in names))
    return names


class _Scanned(NamedTuple):
    """A file of a part, both by number."""

    part: int
    number: int
    scan: Scan


class _Place(NamedTuple):
    """Where a block stands: number of the part, number of the file in it."""

    part: int
    file: int
    block: Block

    def facts(self, piece: Piece) -> Facts:
        """A piece's facts, as those of rows that stand here."""
        return piece.facts.at(self.part, self.file, self.block.line - 1)


def _scanned(parts: Sequence[Part], sizes: Sizes, stores: Storage) -> list[_Scanned]:
    """All files of all parts, in order."""
    wanted = [(number, place, part.source, path) for number, part in enumerate(parts) for place, path in enumerate(part.files)]
    with ThreadPoolExecutor(_SCANNED_AT_ONCE) as pool:
        return list(pool.map(lambda one: _Scanned(one[0], one[1], scan(one[2], one[3], sizes, stores)), wanted))


@dataclass(frozen=True)
class _Preparing:
    """A store that is being made."""

    data: Data
    layout: Layout
    encoder: Encoder
    parts: Sequence[Part]
    stores: Storage
    limits: Limits
    progress: Progress
    cluster: Cluster | None

    def make(self, mark: str, places: Sequence[_Place]) -> tuple[int, int]:
        """Make it; returns how many blocks had been tokenised before, and how many rows were now."""
        for number, part in enumerate(self.parts):
            if all(place.part != number for place in places):
                raise _no_rows(part)
        readings = [_chosen(part, self.layout) for part in self.parts]
        work = Work(
            store=self.stores.address,
            layout=self.layout,
            tokenizer=self.encoder.tokenizer,
            template=self.data.chat_template,
            max_length=self.data.max_length,
            encoder=self.encoder.name(),
            near=needs_sketches(self.data.quality),
        )
        tasks = [self._task(work, readings[place.part], place.block) for place in places]
        known = {key_of(name) for name in self.stores.list(f"{BLOCKS}/")}
        left = total_bytes([task.block for task in tasks if task.key not in known])
        scratch = Scratch()
        with self._workers(left) as workers:
            done = self._blocks(workers, work, tasks, places, scratch)
            facts = Facts.joined([place.facts(piece) for place, one in zip(places, done, strict=True) for piece in one.pieces], scratch)
            placed = list(_placed(places, tasks, done, facts))
            reused, tokenised = sum(not one.made for one in done), sum({task.key: one.tokenised for task, one in zip(tasks, done, strict=True)}.values())
            for number in set(range(len(self.parts))) - {one.part for one in placed if len(one.piece.facts)}:
                raise _no_rows(self.parts[number])
            verdict = judge(facts, self.parts, self.data.quality, _share(self.data))
            making = Making(self.stores, mark, work, self.parts, self.data.holdout not in (0.0, []), self.limits.shard)
            said = [reading.decision for reading in readings if reading.decision]
            decisions = list(dict.fromkeys([*said, *(text for one in placed for text in one.piece.decisions)]))
            masked = any(column.name.endswith("supervised") for column in self.layout.columns)
            report = make_report(facts, verdict, readings, max_length=self.data.max_length, masked=masked, decisions=decisions)
            refused = self.stores.sub(REFUSED).sub(mark[:16])
            if verdict.refuses:
                write_report(refused, report)
                verdict.refuse(f"{refused.address}/{REPORT}")
            try:
                making.make(placed, facts, verdict, decisions, report, workers)
            except DataError as error:  # a side is left without rows: the report says why
                write_report(refused, replace(report, stopped=error.what))
                raise
        return reused, tokenised

    def _task(self, work: Work, reading: Reading, block: Block) -> Task:
        source, share = reading.part.source, 1.0 if reading.part.held else _share(self.data)
        return Task(block_key(work, block, source, reading.kind, share), block, source, reading.kind, reading.decision, share)

    def _workers(self, left: int) -> AbstractContextManager[Tasks]:
        """Who does it: this process alone where there is little left to do."""
        return self.cluster() if self.cluster is not None and left > self.limits.alone else nullcontext(Here())

    def _blocks(self, workers: Tasks, work: Work, tasks: Sequence[Task], places: Sequence[_Place], scratch: Scratch) -> list[Done]:
        """What became of every block. Equal blocks are done once."""
        numbers: dict[str, list[int]] = {}
        for number, task in enumerate(tasks):
            numbers.setdefault(task.key, []).append(number)
        first = [tasks[same[0]] for same in numbers.values()]
        done: dict[int, Done] = {}
        rows, bytes_done, look_at, bytes_in_all = 0, 0, EARLY_ROWS, total_bytes([task.block for task in tasks])
        for place, found in workers.run(do_block, work, first):
            one = found.stored(scratch)
            for number in numbers[first[place].key]:
                done[number] = one
                rows, bytes_done = rows + sum(len(piece.facts) for piece in one.pieces), bytes_done + tasks[number].block.bytes
            self.progress(Advance(rows, bytes_done, bytes_in_all))
            if rows >= look_at:
                look_at = 2 * rows
                some = [places[number].facts(piece).only(EARLY) for number in sorted(done) for piece in done[number].pieces]
                judge_early(Facts.joined(some), self.parts, self.data.quality)
        return [done[number] for number in range(len(tasks))]


def _placed(places: Sequence[_Place], tasks: Sequence[Task], done: Sequence[Done], facts: Facts) -> Iterator[Placed]:
    """All pieces in the order of their rows, their facts being those of ``facts``, which holds all rows."""
    first = 0
    for place, task, one in zip(places, tasks, done, strict=True):
        for piece in one.pieces:
            behind = first + len(piece.facts)
            yield Placed(replace(piece, facts=facts.between(first, behind)), place.part, first, task.share)
            first = behind


def _no_rows(part: Part) -> DataError:
    return DataError(f"{part.source.path}: holds no rows", got="an empty file", want="one row or more", fix="fill it, or take it out of the sources")


def _share(data: Data) -> float:
    return data.holdout if isinstance(data.holdout, float) else 0.0


def _chosen(part: Part, layout: Layout) -> Reading:
    """How a part is read: decided by its first good row, so that every block is read alike."""
    reading = Reading(part, layout.takes, kind="" if part.source.format == "auto" else part.source.format)
    rows = read_rows(part.source)
    while not reading.kind and (row := next(rows, None)) is not None:
        reading.parse(row)
    return reading
