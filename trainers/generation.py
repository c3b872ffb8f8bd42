"""Text from a run, one of its checkpoints, an export, or any model: answers through the chat template, or raw text continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError
from tunefleet.cluster.storages.folders import has_file, joined, local_folder
from tunefleet.data.examples import Message
from tunefleet.data.layout import ANSWERS
from tunefleet.trainers.chain import EXPORT
from tunefleet.trainers.decoding import Drawing, Finish, Stream, continued, ends_of
from tunefleet.trainers.exported import ADAPTER_CONFIG, ORIGIN, load_exported, read_origin, refuse_missing
from tunefleet.trainers.manifest import MANIFEST
from tunefleet.trainers.objective import make_objective
from tunefleet.trainers.run import Model
from tunefleet.trainers.stage import RUN_FILE
from tunefleet.trainers.vocabulary import load_tokenizer

if TYPE_CHECKING:
    from tunefleet.data.tokens import Encoder
    from tunefleet.trainers.evaluation.standalone import Subject

BATCH = 8
NO_LIMIT = 1 << 30  # prompts are never cut
Asked = str | Sequence[Message]


@dataclass(frozen=True)
class Place:
    """Where weights lie. ``address`` names the same ones whenever it is opened, also when a run has gone on; ``subject`` is set for a checkpoint."""

    address: str
    subject: Subject | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A text without its prompt, why it ended, and how many tokens it has."""

    text: str
    finish: Finish
    tokens: int


def find(source: str, *, trust_code: bool = False) -> Place:
    """What a source means: a run's output (its export, else its newest checkpoint), a checkpoint's folder, a model or adapter folder, or a hub id.

    ``trust_code``: see ``evaluate``. Raises RequestError or CheckpointError for a run without weights.
    """
    if has_file(source, RUN_FILE) and has_file(source, f"{EXPORT}/{ORIGIN}"):
        source = joined(source, EXPORT)
    if has_file(source, RUN_FILE) or has_file(source, MANIFEST):
        from tunefleet.trainers.evaluation.standalone import find_subject

        subject = find_subject(source, None, trust_code=trust_code)
        assert subject.storage is not None
        assert subject.ticket is not None
        return Place(f"{subject.storage.address}/{str(subject.ticket.manifest).rpartition('/')[0]}", subject)
    refuse_missing(source)
    folder = Path(source).expanduser()
    return Place(str(folder.absolute()) if folder.is_dir() else source, None)


class Asker:
    """How a model is asked: its tokenizer, its template where it answers (``encoder``; None continues text), and its room. No weights are loaded."""

    def __init__(self, place: Place, *, chat: bool = False) -> None:
        """``chat``: a model that continues text answers too, through the template that it has, else a plain one.

        Raises SettingsError when there is no tokenizer.
        """
        from tunefleet.data.tokens import Encoder

        if place.subject is not None:
            run = place.subject.run
            self.tokenizer, template = load_tokenizer(run.model, run.data.chat_template), run.data.chat_template
            self._model = run.model
            answers = make_objective(run.objective, self.tokenizer.pad_token_id).layout.name == ANSWERS.name
        else:
            origin, template = read_origin(place.address), None
            adapter = _adapter(place.address)
            self.tokenizer = tokenizer_beside_adapter(place.address) if adapter and origin is None else load_tokenizer(Model(name_or_path=place.address))
            self._model = _base_of(adapter) if adapter else Model(name_or_path=place.address)
            answers = origin["layout"] == ANSWERS.name if origin else bool(self.tokenizer.chat_template)
        self.encoder = Encoder(self.tokenizer, template, max_length=NO_LIMIT) if answers or chat else None

    @cached_property
    def context(self) -> int | None:
        """The longest sequence that the model can read, in tokens; None for one that does not say."""
        from tunefleet.trainers.check import context_length

        return context_length(self._model)

    @cached_property
    def ends(self) -> list[int] | None:
        """The tokens that end an answer."""
        return ends_of(self.tokenizer, self.encoder)

    def encode(self, asked: Asked, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids that the model goes on from: the turns and the header of the answer, or the text as it stands.

        Raises DataError for turns that the template refuses or a model that only continues text, and for a prompt that leaves no room for a token.
        """
        if self.encoder is None and not isinstance(asked, str):
            raise DataError("turns, for a model that continues text", want="a prompt that is one text", fix="ask a model that was trained to answer")
        if self.encoder is not None and not isinstance(asked, str):
            ids = self.encoder.prompt(asked, tools)
        else:
            ids = prompt_ids(self.tokenizer, self.encoder, str(asked))
        if self.room(ids) < 1:
            raise DataError("too long", got=f"{len(ids)} tokens", want=f"less than {self.context}, the model's context", fix="shorten it")
        return ids

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens the model can write behind a prompt."""
        return NO_LIMIT if self.context is None else self.context - len(ids)


class Generator:
    """A model and how it is asked. Loads the weights; raises RequestError or CheckpointError when there are none."""

    def __init__(self, source: str | Place, *, trust_code: bool = False, chat: bool = False, device: str | None = None) -> None:
        """``trust_code``: see ``evaluate``; ``chat``: see Asker; ``device``: cuda or cpu, None takes a GPU where there is one."""
        import torch

        place = find(source, trust_code=trust_code) if isinstance(source, str) else source
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.asker = Asker(place, chat=chat)
        self.model = (_of_checkpoint(place.subject, self.device) if place.subject else load_exported(place.address)).to(self.device).eval()

    def generate(self, prompts: Sequence[str], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """A text for each prompt, without the prompt; ``temperature`` 0 takes the likeliest token each time, and above 0 draws by ``seed``."""
        encoded = [self.asker.encode(prompt) for prompt in prompts]
        return [answer.text for answer in self.answers(encoded, Drawing(max_new_tokens, temperature, seed))]

    def answers(self, encoded: Sequence[Sequence[int]], drawing: Drawing, *, batch: int = BATCH) -> list[Answer]:
        """An answer to each encoded prompt, in order; as many at once as ``batch``, those of like length together."""
        import torch

        drawing.check()
        torch.manual_seed(drawing.seed)
        most = [min(drawing.max_new_tokens, self.asker.room(ids)) for ids in encoded]
        found: dict[int, Answer] = {}
        order = sorted(range(len(encoded)), key=lambda i: (most[i], len(encoded[i])))
        for limit, same in groupby(order, key=most.__getitem__):  # one limit a batch, so that nobody's neighbours cut him short
            places = list(same)
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                found.update(zip(part, self._batch([encoded[i] for i in part], limit, drawing), strict=True))
        return [found[i] for i in range(len(encoded))]

    def stream(self, ids: Sequence[int], drawing: Drawing, write: Callable[[str], None]) -> Answer:
        """Answer one encoded prompt, every piece of text handed to ``write`` as it comes. Ctrl-C ends the answer, not the program."""
        import torch

        drawing.check()
        torch.manual_seed(drawing.seed)
        stream = Stream(self.asker.tokenizer, self.asker.ends, write)
        finish: Finish = "length"
        try:
            self._continued([ids], min(drawing.max_new_tokens, self.asker.room(ids)), drawing, streamer=stream)
        except KeyboardInterrupt:
            finish = "interrupted"
            stream.end()
        return Answer(stream.text, "stop" if stream.ended else finish, len(stream.ids))

    def _batch(self, encoded: Sequence[Sequence[int]], limit: int, drawing: Drawing) -> list[Answer]:
        new = self._continued(encoded, limit, drawing)
        texts = self.asker.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [Answer(str(text), "stop" if len(ids) < limit else "length", len(ids)) for text, ids in zip(texts, new, strict=True)]

    def _continued(self, encoded: Sequence[Sequence[int]], limit: int, drawing: Drawing, **how: Any) -> list[list[int]]:
        asker = self.asker
        return continued(self.model, encoded, asker.tokenizer.pad_token_id, asker.ends, limit, self.device, **drawing.settings(), **how)


def prompt_ids(tokenizer: Any, encoder: Encoder | None, prompt: str) -> list[int]:
    """Token ids to go on from: with an encoder a user's turn and the header of the answer, else the text as it stands."""
    if encoder is not None:
        return encoder.prompt([Message("user", prompt)])
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # some tokenizers end every text, and nothing follows an end
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [start]


def tokenizer_beside_adapter(source: str) -> Any:
    """The adapter's own tokenizer where it has one, else that of the base it names."""
    return load_tokenizer(Model(name_or_path=source) if has_file(source, "tokenizer.json") else _base_of(_adapter(source) or {}))


def _adapter(source: str) -> Mapping[str, Any] | None:
    """The config of an adapter's folder; None for anything else."""
    path = Path(local_folder(source, weights=False)) / ADAPTER_CONFIG
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _base_of(adapter: Mapping[str, Any]) -> Model:
    return Model(name_or_path=adapter["base_model_name_or_path"], revision=adapter.get("revision"))


def _of_checkpoint(subject: Subject, device: Any) -> Any:
    from tunefleet.trainers.evaluation.plain import PlainModel

    assert subject.storage is not None
    assert subject.ticket is not None
    assert subject.ticket.manifest is not None
    plain = PlainModel.base(subject.run, device)
    plain.load(subject.storage, subject.ticket.manifest)
    return plain.model
