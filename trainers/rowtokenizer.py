"""The tokenizer that a run trains on its own training rows, kept in its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunefleet.cluster.storage import is_remote, open_storage
from tunefleet.cluster.storages.folders import has_file, sent_up
from tunefleet.trainers.run import RunFile


def make_tokenizer(run: RunFile) -> None:
    """Make the tokenizer of a run that wants one of its own, unless it is there. The run's paths are absolute (``chain.absolute``).

    Raises DataError for rows that are missing, SettingsError for a vocabulary that is too small.
    """
    from tunefleet.data.rows import read_rows
    from tunefleet.data.staging import appearing
    from tunefleet.trainers.vocabulary import train_tokenizer

    wanted, folder = run.model.tokenizer.train_vocab_size, run.model.tokenizer.name_or_path
    if wanted is None or folder is None or has_file(folder, "tokenizer.json"):
        return
    rows = (row for source in run.data.train for row in read_rows(source) if not row.problem)
    made = train_tokenizer((text for row in rows for text in _texts(row.values)), wanted)
    above, _, name = folder.rpartition("/")
    whole = sent_up(open_storage(above), name, last="tokenizer.json") if is_remote(folder) else appearing(Path(folder))
    with whole as temporary:  # whole or not at all: half of it would be another tokenizer
        made.save_pretrained(temporary)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a row, also inside turns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
