"""The first rows as the model will see them, with what is learnt in colour, or in [[brackets]] where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import DataError
from tunefleet.data.examples import labels_of
from tunefleet.data.layout import Encoded, Layout, Sequence, sequences
from tunefleet.data.prepare import parts_of
from tunefleet.data.settings import Data
from tunefleet.data.survey import Parsed, Reading, problem_of
from tunefleet.data.tokens import Encoder

if TYPE_CHECKING:
    from rich.text import Text

LEARNT = "bold green"


def preview(data: Data, layout: Layout, tokenizer: Any, count: int, *, colour: bool = True) -> list[Text]:
    """The first ``count`` examples of the training rows: a line of figures each, then the text as its tokens decode. A row that cannot be used says why."""
    encoder = Encoder(tokenizer, data.chat_template, data.max_length)
    rows = (parsed for part in parts_of(data) if not part.held for parsed in Reading(part, layout.takes).parsed())
    return list(islice((text for parsed in rows for text in _shown(parsed, layout, encoder, colour)), count))


def runs(sequence: Sequence, tokenizer: Any) -> list[tuple[bool, str]]:
    """The decoded text of a sequence in stretches of (learnt, text); nothing is marked where no single token carries loss."""
    ids = sequence.ids.tolist()
    mask = [0] * len(ids) if sequence.supervised is None else sequence.supervised.tolist()
    stretches: list[tuple[bool, str]] = []
    done, end = "", 0
    for learnt, run in groupby(mask):
        start, end = end, end + len(list(run))
        whole = tokenizer.decode(ids[:end])
        text = whole[len(done) :] if whole.startswith(done) else tokenizer.decode(ids[start:end])
        stretches.append((bool(learnt), text))
        done = whole
    return stretches


def _shown(parsed: Parsed, layout: Layout, encoder: Encoder, colour: bool) -> Iterator[Text]:
    from rich.text import Text

    if parsed.example is None:
        yield Text(f"{parsed.row.where}: cannot be used: {parsed.problem}", style="red" if colour else "")
        return
    encoder.know(labels_of(parsed.example))
    try:
        for encoded in layout.encode(parsed.example, encoder):
            yield _coloured(parsed.row.where, encoded, encoder, colour)
    except DataError as error:
        yield Text(f"{parsed.row.where}: cannot be used: {problem_of(error)}", style="red" if colour else "")


def _coloured(where: str, encoded: Encoded, encoder: Encoder, colour: bool) -> Text:
    from rich.text import Text

    cut = ", cut off" if encoded.truncated else ""
    parts = list(sequences(encoded.columns))
    learnt_tokens = f", {encoded.supervised} learnt" if any(part.supervised is not None for part in parts) else ""
    shown = Text(f"{where}: {encoded.length} tokens{learnt_tokens}{cut}\n", style="dim" if colour else "")
    for number, sequence in enumerate(parts):
        if sequence.name:
            shown.append(("\n" if number else "") + f"{sequence.name}: ", style="dim" if colour else "")
        for learnt, text in runs(sequence, encoder.tokenizer):
            if colour:
                shown.append(text, style=LEARNT if learnt else "not dim")
            else:
                shown.append(f"[[{text}]]" if learnt else text)
    if facts := _facts(encoded, encoder):
        shown.append(f"\n{facts}", style=LEARNT if colour else "")
    return shown


def _facts(encoded: Encoded, encoder: Encoder) -> str:
    """What is learnt of a group beside its tokens: labels, a score, a judgement."""
    columns = encoded.columns
    facts = {
        "labels": [encoder.labels[number] for number in columns["labels"].tolist()] if "labels" in columns else None,
        "score": f"{float(columns['score'][0]):g}" if "score" in columns else None,
        "good": bool(columns["good"][0]) if "good" in columns else None,
    }
    return ", ".join(f"{name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in facts.items() if value is not None)
