"""A file of prompts answered into a file of rows: in blocks, spread over actors, each block kept as it is done until the output appears whole.

    OUTPUT                      a line a row, in the order of the input: its own columns, `generated` and `finish`
    OUTPUT.parts/request.json   which request the parts belong to
    OUTPUT.parts/00000012.jsonl a block that is done

A request that was stopped goes on with the blocks that it lacks. The cuts depend on the rows alone, so do the texts: not on how many actors there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunefleet.cluster.errors import DataError, OutputError, StorageError
from tunefleet.cluster.storage import Storage, is_remote, open_storage
from tunefleet.data.prompts import Prompt, read_prompts, refuse_bad
from tunefleet.data.settings import Source
from tunefleet.trainers.decoding import Drawing
from tunefleet.trainers.generation import BATCH, Answer, Asker, Generator, Place, find

GENERATED, FINISH = "generated", "finish"
REQUEST = "request.json"
_BATCHES = 8  # a block: enough that sorting by length saves padding, few enough that little is lost with one
_BLOCKS = 2000  # most blocks of a file; those of a larger one are larger

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What is asked of whom. ``overwrite`` replaces an output that is there, and forgets parts of another request."""

    source: str
    input: str
    output: str
    drawing: Drawing = field(default_factory=Drawing)
    batch: int = BATCH
    trust_code: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Where:
    """Who answers: this process (no ``actors``), or actors of the Ray cluster at ``address``, of a local one without; None chooses by what there is to do."""

    actors: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Where the rows lie, how many, of them answered before this call, and how many were cut short by ``max_new_tokens``."""

    output: str
    rows: int
    found: int
    cut: int


def answer_file(request: Request, where: Where = Where(), *, progress: Progress = lambda done, rows: None, say: Callable[[str], None]) -> Outcome:
    """Answer every row. ``progress`` gets rows done now and rows to do.

    Raises RequestError before a model is loaded: for an output that exists, rows without a prompt, prompts that are too long; all rows at once.
    """
    request.drawing.check()
    output = _Output.at(request.output)
    output.refuse_existing(overwrite=request.overwrite)
    place = find(request.source, trust_code=request.trust_code)
    prompts = read_prompts(Source(path=request.input))
    encoded = _encoded(prompts, Asker(place))
    blocks = blocks_of(len(prompts), request.batch)
    done = output.begin(_key(request, place, prompts, encoded), len(prompts), overwrite=request.overwrite)
    if done:
        say(f"{len(done)} of {len(blocks)} blocks of rows were done before")
    missing = [number for number in range(len(blocks)) if number not in done]
    pieces = [Piece(number, [encoded[row] for row in blocks[number]], request.drawing, request.batch) for number in missing]
    total, finished = sum(len(piece.encoded) for piece in pieces), 0
    with ExitStack() as stack:
        for i, answers in _answers(pieces, place, request, where, stack, say):
            rows = blocks[pieces[i].number]
            output.keep(pieces[i].number, [(prompts[row], answer) for row, answer in zip(rows, answers, strict=True)])
            finished += len(rows)
            progress(finished, total)
    return Outcome(output.address, len(prompts), len(prompts) - total, output.join(len(blocks)))


def blocks_of(rows: int, batch: int) -> list[range]:
    """Rows cut into blocks, by their numbers."""
    size = max(_BATCHES * batch, -(-rows // _BLOCKS))
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True, slots=True)
class Piece:
    """A block as an actor gets it: prompts as token ids, and how they are answered."""

    number: int
    encoded: Sequence[Sequence[int]]
    drawing: Drawing
    batch: int


class Answerer:
    """The actor. It loads the model when it is first asked, and keeps it."""

    def __init__(self, source: str, trust_code: bool, cpu: float, gpu: float) -> None:
        self._source, self._trust_code = source, trust_code
        self._threads, self._device = max(1, round(cpu)), "cuda" if gpu else "cpu"
        self._generator: Generator | None = None

    def do(self, piece: Piece) -> tuple[list[Answer], str | None]:
        """Answer a block; and this actor's name when Ray has started it again."""
        from tunefleet.cluster.actors import restarted

        name = restarted() if self._generator is None else None  # said once
        if self._generator is None:
            import torch

            torch.set_num_threads(self._threads)
            self._generator = Generator(self._source, trust_code=self._trust_code, device=self._device)
        return answered(self._generator, piece), name


def answered(generator: Generator, piece: Piece) -> list[Answer]:
    """Answers to a block. Each block draws by a seed of its own, so what is drawn does not depend on who does it, nor when."""
    drawing = piece.drawing
    mixed = hashlib.sha256(f"{drawing.seed} {piece.number}".encode()).digest()
    return generator.answers(piece.encoded, Drawing(drawing.max_new_tokens, drawing.temperature, int.from_bytes(mixed[:6], "big")), batch=piece.batch)


def _answers(
    pieces: Sequence[Piece], place: Place, request: Request, where: Where, stack: ExitStack, say: Callable[[str], None]
) -> Iterator[tuple[int, list[Answer]]]:
    """(number of the piece, answers), in whatever order they come."""
    if not pieces:
        return
    alone = where.actors == 0 or (where.actors is None and where.address is None and len(pieces) == 1)
    if alone:
        generator = Generator(place)
        yield from ((i, answered(generator, piece)) for i, piece in enumerate(pieces))
        return
    from tunefleet.cluster.actors import create_actors, spread
    from tunefleet.cluster.session import connect

    session = stack.enter_context(connect(where.address, cpus_needed=where.actors or 1))
    count, cpu, gpu = shares(where.actors, len(pieces), session.resources())
    say(f"{count} actor{'s' if count > 1 else ''}, {'a GPU' if gpu else f'{cpu:g} CPU'} each")
    actors = create_actors(Answerer, count, place.address, request.trust_code, cpu, gpu, stem="tunefleet-answerer", cpu=cpu, gpu=gpu)
    stack.callback(actors.close)
    for i, (answers, again) in spread(actors, pieces):
        if again:
            say(f"{again} had died and was started again; its rows are done anew")
        yield i, answers


def shares(wanted: int | None, pieces: int, resources: dict[str, float]) -> tuple[int, float, float]:
    """How many actors, and the CPUs and GPUs of each: one a GPU where there are any, else one for every two CPUs; never more than there are pieces."""
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    count = max(1, min(wanted or gpus or cpus // 2, pieces))
    return count, float(max(1, min(cpus // count, 8))), float(gpus >= count)


def _encoded(prompts: Sequence[Prompt], asker: Asker) -> list[list[int]]:
    """Token ids of every prompt. Raises DataError for all together that cannot be asked."""
    found: list[list[int]] = []
    bad: list[str] = []
    for prompt in prompts:
        try:
            if clash := {GENERATED, FINISH} & prompt.values.keys():
                raise DataError(f"has a column {min(clash)} already")
            found.append(asker.encode(prompt.asked, prompt.tools))
        except DataError as error:
            bad.append(f"{prompt.where}: {error.what}" + (f", {error.got}" if error.got else ""))
    refuse_bad(bad, len(prompts))
    return found


def _key(request: Request, place: Place, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]]) -> str:
    """A hash of everything that decides the output."""
    digest = hashlib.sha256(json.dumps([asdict(request.drawing), request.batch, place.address, _weights(place)]).encode())
    for prompt, ids in zip(prompts, encoded, strict=True):
        digest.update(json.dumps([ids, prompt.values], default=str).encode())
    return digest.hexdigest()


def _weights(place: Place) -> Any:
    """What tells weights apart: the digest of their checkpoint, else size and time of their files; of a model of a hub its name."""
    if place.subject is not None and place.subject.ticket is not None:
        return place.subject.ticket.digest
    if not is_remote(place.address) and not Path(place.address).is_dir():
        return place.address
    storage = open_storage(place.address)
    return [(name, storage.size(name), storage.modified(name)) for name in storage.list() if name.endswith(".safetensors")]


@dataclass(frozen=True)
class _Output:
    """The file to be, and its parts."""

    storage: Storage
    name: str

    @classmethod
    def at(cls, address: str) -> _Output:
        if not address.endswith((".jsonl", ".ndjson")):
            raise OutputError("--output: lines of JSON are written", got=address, want="a name that ends in .jsonl", fix="name it so")
        above, _, name = address.rpartition("/")
        return cls(open_storage(above or ("/" if address.startswith("/") else ".")), name)

    @property
    def address(self) -> str:
        return f"{self.storage.address}/{self.name}"

    @property
    def parts(self) -> Storage:
        return self.storage.sub(f"{self.name}.parts")

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raises OutputError for a file that would be replaced."""
        if not overwrite and self.storage.exists(self.name):
            raise OutputError("--output: exists already", got=self.address, want="a new name", fix="name another file, or say --overwrite")

    def begin(self, key: str, rows: int, *, overwrite: bool) -> set[int]:
        """The blocks that are done. Raises OutputError where the parts are of another request."""
        parts = self.parts
        if parts.exists(REQUEST):
            if json.loads(parts.read(REQUEST))["key"] == key:
                return {int(name.removesuffix(".jsonl")) for name in parts.list() if name != REQUEST}
            if not overwrite:
                what = "--output: parts of another request lie beside it (other prompts, weights or settings)"
                raise OutputError(
                    what, got=parts.address, want="the request that began them, or none", fix="name another file, or say --overwrite to drop them"
                )
        self.storage.delete_tree(f"{self.name}.parts")
        parts.put(REQUEST, json.dumps({"key": key, "rows": rows}).encode())
        return set()

    def keep(self, number: int, rows: Sequence[tuple[Prompt, Answer]]) -> None:
        """Write a block, whole or not at all."""
        lines = (json.dumps({**prompt.values, GENERATED: a.text, FINISH: a.finish}, ensure_ascii=False, default=str) for prompt, a in rows)
        self.parts.put(_part(number), "".join(f"{line}\n" for line in lines).encode())

    def join(self, blocks: int) -> int:
        """Make the output of its parts and remove them. Returns how many rows were cut short."""
        parts, cut = self.parts, 0
        staged = self.storage.staging(self.name)
        try:
            with staged.open("wb") as file:
                for number in range(blocks):
                    data = parts.read(_part(number))
                    file.write(data)
                    cut += sum(json.loads(line)[FINISH] == "length" for line in data.splitlines())
            self.storage.put_file(self.name, staged, consume=True)
        except OSError as error:
            raise StorageError(f"{self.address}: cannot be written", got=str(error), want="room for it", fix="free some; the parts are kept") from error
        finally:
            staged.unlink(missing_ok=True)
        self.storage.delete_tree(f"{self.name}.parts")
        return cut


def _part(number: int) -> str:
    return f"{number:08d}.jsonl"
