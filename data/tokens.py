"""Examples to tokens with exact masks: what the assistant says carries loss, and nothing else.

The rendered text is tokenised once, whole, as it is when the model is served, and a token belongs to the span that holds its last character. So a token
that begins in a header and ends in an answer is learnt (its characters are the answer's beginning), and one that begins in an answer and ends behind it is not.
The first token of an example never is: nothing stands before it to predict it from.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError, SettingsError
from tunefleet.data.examples import Conversation, Example, Labelled, Message, Text, conversations_of, label_order, texts_of
from tunefleet.data.layout import Encoded
from tunefleet.data.rendering import Renderer, Rendering
from tunefleet.data.templates import resolve_template

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ids = npt.NDArray[np.int32]
    Bytes = npt.NDArray[np.uint8]

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coded:
    """Token ids of a text, and the half-open character span of every token."""

    ids: Sequence[int]
    offsets: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Framed:
    """A text, or two, between the special tokens that the tokenizer puts around them. ``segments`` is 1 where the second text stands.

    ``uncut`` is how many tokens it has without the cut.
    """

    ids: Ids
    segments: Bytes
    uncut: int

    @property
    def truncated(self) -> bool:
        """Whether the end of a text was cut off."""
        return self.uncut > len(self.ids)


class Encoder:
    """Turns examples into tokens with one tokenizer, one template and one length.

    ``template`` is ``data.chat_template`` (None takes the tokenizer's, or a default). Raises SettingsError for a tokenizer that cannot say which characters
    a token stands for. The tokenizer itself is left as it is.
    """

    def __init__(self, tokenizer: Any, template: str | None, max_length: int) -> None:
        if max_length < 2:
            raise SettingsError("data.max_length: nothing is left to predict", got=str(max_length), want="2 tokens or more", fix="raise data.max_length")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.template = resolve_template(tokenizer, template)
        self.labels: tuple[str, ...] = ()
        self._whole, self._plain = _copies(tokenizer)
        self._bos: int | None = tokenizer.bos_token_id  # transformers looks it up anew whenever it is asked
        self._numbers: dict[str, int] = {}
        self._ahead: dict[str, Coded] = {}
        self._documents: dict[str, Sequence[int]] = {}
        self._texts: dict[tuple[str, ...], Framed] = {}
        self._rendered: dict[int, list[Rendering]] = {}

    @cached_property
    def renderer(self) -> Renderer:
        """Made when a conversation is met: raw text needs no template."""
        return Renderer(self.tokenizer, self.template)

    def begin(self) -> None:
        """Forget what was decided and read ahead so far: what follows depends on nothing that was before."""
        self.__dict__.pop("renderer", None)
        self.read_ahead(())

    @property
    def decisions(self) -> list[str]:
        """What was decided so far that the run file does not say."""
        made = self.__dict__.get("renderer")
        return list(made.decisions) if made else []

    def identity(self) -> dict[str, str]:
        """Hashes of what decides the token ids: the tokenizer and the template. For a store's fingerprint."""
        return {"tokenizer": _digest(self._whole.to_str()), "template": self.template_id(), "special": json.dumps(_marks(self.tokenizer))}

    def name(self) -> str:
        """A hash of everything that decides what an example becomes."""
        return _digest(json.dumps([self.identity(), self.max_length]))[:16]

    def template_id(self) -> str:
        """A hash of the template's text."""
        return _digest(self.template.text)

    def know(self, labels: Collection[str]) -> None:
        """Number the labels of all rows: sorted (whole numbers by value), so that the same labels always get the same numbers."""
        self.labels = tuple(sorted(labels, key=label_order))
        self._numbers = {label: number for number, label in enumerate(self.labels)}

    def label(self, label: str) -> int:
        """The number of a label. It must be known: whoever encodes rows with labels has read them all before."""
        assert label in self._numbers, f"the label {label} was not among those of the rows"
        return self._numbers[label]

    def supervised(self, example: Conversation | Text) -> Encoded:
        """One example with the assistant's turns supervised; of a plain text every token. The beginning is kept of one that is too long.

        Raises DataError for a conversation that its template cannot write as one text: see ``answers``.
        """
        encoded = list(self.answers(example))
        if len(encoded) != 1:
            raise DataError(
                "the chat template cannot be rendered turn by turn",
                got="earlier turns are rewritten as the conversation goes on",
                want="one text that holds every turn as it was said",
                fix="set data.chat_template to a template that leaves earlier turns as they are",
            )
        return encoded[0]

    def answers(self, example: Conversation | Text) -> Iterator[Encoded]:
        """Like ``supervised``; several where the template rewrites earlier turns, with every answer learnt in exactly one."""
        if isinstance(example, Text):
            ids = self._document(example)
            yield self._encoded(ids, [(0, len(ids))])
            return
        for rendering in self._renderings(example):
            coded = self._code(rendering.text)
            spans = [_tokens_in(coded.offsets, span) for span in rendering.spans]
            yield self._encoded(_array(coded.ids), spans, answer=rendering.answer)

    def pieces(self, example: Conversation | Text) -> Iterator[Encoded]:
        """A document in pieces of at most ``max_length`` tokens, BOS and EOS as the tokenizer puts them around a text.

        A piece begins with BOS where the document does, for a model has never read a text without it; else with the last token of the piece before.
        Either way every token but the document's first is predicted exactly once.
        """
        ids = self._document(example)
        for start in range(0, max(len(ids) - 1, min(len(ids), 1)), self.max_length - 1):
            piece = ids[start : start + self.max_length].copy()
            if piece.size and ids[0] == self._bos:
                piece[0] = ids[0]
            yield self._encoded(piece, [(0, len(piece))])

    def framed(self, *texts: str) -> Framed:
        """One text, or two as one sequence, with the tokenizer's special tokens around them; the longer of two is cut first where they are too long."""
        return self._texts.get(texts) or self._framed(texts, self._short.encode(*texts))

    @cached_property
    def _short(self) -> Any:
        """The engine that cuts texts so that what stands behind them (EOS, a separator) stays."""
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(self._whole.to_str())
        copy.enable_truncation(self.max_length)
        return copy

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> list[int]:
        """Token ids to generate an answer from."""
        return list(self._code(self.renderer.text(messages, tools, ask=True)).ids)

    def closing_id(self) -> int | None:
        """The token with which an answer ends, so that generation can stop there; None where the template ends it with none."""
        token = self.renderer.closing()
        found: int | None = self.tokenizer.convert_tokens_to_ids(token) if token else None
        return found

    def read_ahead(self, examples: Sequence[Example]) -> None:
        """Tokenise many examples at once, on all cores. The next calls for the same objects take what was made; whoever calls keeps them alive.

        An example that cannot be rendered is left to its own call, which raises.
        """
        self._ahead, self._documents, self._texts, self._rendered = {}, {}, {}, {}
        for conversation in (conversation for example in examples for conversation in conversations_of(example)):
            try:
                self._rendered[id(conversation)] = self.renderer.answers(conversation)
            except DataError:
                continue
        texts = list({rendering.text for renderings in self._rendered.values() for rendering in renderings})
        coded = self._plain.encode_batch(texts)
        self._ahead = {text: Coded(c.ids, c.offsets) for text, c in zip(texts, coded, strict=True)}
        documents = [example.text for example in examples if isinstance(example, Text)]
        self._documents = {text: c.ids for text, c in zip(documents, self._whole.encode_batch_fast(documents), strict=True)}
        framed = list({texts for example in examples for texts in _framings(example)})
        if framed:
            made = self._short.encode_batch([texts if len(texts) > 1 else texts[0] for texts in framed])
            self._texts = {texts: self._framed(texts, c) for texts, c in zip(framed, made, strict=True)}

    def _framed(self, texts: tuple[str, ...], coded: Any) -> Framed:
        import numpy as np

        uncut = len(self._whole.encode(*texts).ids) if coded.overflowing else len(coded.ids)  # what overflows of two texts stands there in several ways
        return Framed(_array(coded.ids), np.asarray(coded.type_ids, np.uint8), uncut)

    def _renderings(self, conversation: Conversation) -> list[Rendering]:
        return self._rendered.pop(id(conversation), None) or self.renderer.answers(conversation)

    def _code(self, text: str) -> Coded:
        """Tokens of a rendered text; special tokens stand in it already, so none is added (as transformers does it)."""
        ahead = self._ahead.get(text)
        if ahead is not None:
            return ahead
        coded = self._plain.encode(text)
        return Coded(coded.ids, coded.offsets)

    def _document(self, example: Conversation | Text) -> Ids:
        """All tokens of a document, or of a conversation as its template writes it, BOS never twice."""
        if isinstance(example, Conversation):
            return _array(self._code(self.renderer.text(example.messages, example.tools)).ids)
        ids = self._documents.get(example.text) or self._whole.encode(example.text).ids
        return _array(ids[1:] if self._bos is not None and ids[:2] == [self._bos, self._bos] else ids)

    def _encoded(self, whole: Ids, spans: Sequence[Span], *, answer: int = -1) -> Encoded:
        import numpy as np

        ids = whole[: self.max_length]
        mask = np.zeros(len(ids), np.uint8)
        for start, end in spans:
            mask[start:end] = 1
        mask[:1] = 0
        lost = sum(max(end - max(start, len(ids)), 0) for start, end in spans)
        return Encoded({"ids": ids, "supervised": mask}, len(ids), int(mask.sum()), len(whole) > len(ids), lost, answer, len(whole))


def _framings(example: Example) -> Iterator[tuple[str, ...]]:
    """What ``framed`` will be asked for."""
    if isinstance(example, Labelled):
        yield example.texts
    elif not isinstance(example, Text):
        yield from ((text,) for text in texts_of(example))


def _tokens_in(offsets: Sequence[Span], span: Span) -> Span:
    """The half-open range of tokens whose last character lies in a span of characters."""
    first, behind = (bisect_left(offsets, place, key=_last_character) for place in span)
    return first, behind


def _last_character(offset: Span) -> int:
    """Of an empty span (a mark that the tokenizer put in) the place itself."""
    return max(offset[0], offset[1] - 1)


def _copies(tokenizer: Any) -> tuple[Any, Any]:
    """Two copies of the tokenizer's engine without truncation and padding: as it is, and without the step that adds special tokens and trims offsets."""
    from tokenizers import Tokenizer, processors

    if not tokenizer.is_fast:
        raise SettingsError(
            "model.tokenizer: cannot say which characters a token stands for, so masks would not be exact",
            got=type(tokenizer).__name__,
            want="a tokenizer with a tokenizer.json",
            fix="convert it, or take another tokenizer",
        )
    text = tokenizer.backend_tokenizer.to_str()  # slow for large vocabularies: once
    whole, plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
    for copy in (whole, plain):
        copy.no_truncation()
        copy.no_padding()
    plain.post_processor = processors.Sequence([])
    return whole, plain


def _marks(tokenizer: Any) -> dict[str, str]:
    return {"bos": str(tokenizer.bos_token), "eos": str(tokenizer.eos_token)}


def _array(ids: Sequence[int]) -> Ids:
    import numpy as np

    return np.asarray(ids, np.int32)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
