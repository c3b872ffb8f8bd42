"""Data sets of a hub (``path: org/name``), through ``datasets``: downloaded once into its cache, and read from there, mapped from the disk.

Downloading is chosen over streaming because rows are read more than once: what is held in memory is the same, and the network is used once. The cache, the
endpoint and the token are those of the environment (HF_HOME, HF_ENDPOINT, HF_TOKEN or what ``hf auth login`` stored); a run file holds no token. With
HF_HUB_OFFLINE or HF_DATASETS_OFFLINE set only the cache is used; without it a hub that cannot be reached is an error, and never silently an older copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError, nearest
from tunefleet.cluster.settings import Settings
from tunefleet.data.arrowrows import SLICE_ROWS, table_rows
from tunefleet.data.origin import HUB_ADDRESS, Numbered, make_origin
from tunefleet.data.settings import Source

READERS = ("arrow", "cache", "csv", "json", "parquet", "text")
"""Readers of ``datasets`` that are let do their work: they read rows. Others unpickle, unpack archives, or read what is no text."""
_COMMIT = 12


class Hub:
    """Rows in the order of the split, numbered from 1. A data set is known by the commit of its repository, so a changed one is another."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["hub"] = "hub"

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """``hub://org/name@commit/configuration/split``. Nothing is downloaded but the names of the files and the data set's card."""
        builder = _builder(source)
        _check_split(source, builder)
        return [_address(source, builder)]

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every row of the split. Raises DataError where the data set is no longer the one of the address."""
        builder = _builder(source)
        found = _address(source, builder)
        if found != address:
            raise DataError(
                f"{address}: the data set changed on the hub", got=found, want="the same commit", fix="run again, or set revision of this source to a commit"
            )
        with _explained(source):
            _refuse_extensions(builder)
            builder.download_and_prepare()
            rows = builder.as_dataset(split=source.split).with_format("arrow")
        yield from table_rows(address, rows.data.schema, rows.iter(batch_size=SLICE_ROWS))


def _builder(source: Source) -> Any:
    """What ``datasets`` makes of a source, before anything of it is downloaded. Raises DataError for whatever cannot be had or must not be read."""
    import datasets

    _reach(source)
    with _explained(source):
        builder = datasets.load_dataset_builder(source.path, source.config, revision=source.revision)
    reader = type(builder).__module__.split(".")[2]
    if reader not in READERS:
        raise DataError(
            f"{source.path}: the hub's data set holds no rows of text",
            got=f"files that are read as {reader}",
            want=", ".join(name for name in READERS if name != "cache"),
            fix="take another data set, or convert its files",
        )
    if reader == "cache":
        _check_copy(source, builder)
    home = f"hf://datasets/{source.path}@"
    outside = [file for file in _files(builder) if not file.startswith(home)]
    if outside:
        raise DataError(
            f"{source.path}: the hub's data set names files outside of its repository", got=outside[0], want=f"{home}...", fix="do not use this data set"
        )
    return builder


def _reach(source: Source) -> None:
    """Ask the hub for nothing, once: its client would try for half a minute before it says that there is no network."""
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        return
    endpoint = datasets.config.HF_ENDPOINT
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=10).close()  # noqa: S310  (the endpoint is the environment's)
    except HTTPError:
        return  # an answer
    except (URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if not isinstance(reason, ssl.SSLError):  # its client may know certificates that this one does not
            raise _unreachable(source, f"{endpoint}: {reason}") from error


def _check_copy(source: Source, builder: Any) -> None:
    """A copy of the cache is used when that was asked for, and is of the revision that was asked for."""
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        raise DataError(
            f"{source.path}: the hub did not give this data set",
            got=f"no answer for revision {source.revision or 'main'}, and a copy of commit {builder.hash[:_COMMIT]} in the cache",
            want="the hub within reach, or your word that the copy will do",
            fix="look at the network, the name and the revision, or set HF_HUB_OFFLINE=1 to use the copy",
        )
    if source.revision is not None and not builder.hash.startswith(source.revision):
        raise DataError(
            f"{source.path}: the cache has another revision",
            got=f"commit {builder.hash[:_COMMIT]}",
            want=f"revision {source.revision}, as a commit: a branch cannot be looked up offline",
            fix="set revision of this source to the commit, or fetch the data set again with the network",
        )


def _check_split(source: Source, builder: Any) -> None:
    splits = sorted(map(str, builder.info.splits or builder.config.data_files or ()))
    wanted = [re.split(r"\[", part.strip())[0] for part in source.split.split("+")]
    odd = [name for name in wanted if splits and name not in splits]
    if odd:
        close = nearest(odd[0], splits)
        raise DataError(
            f"{source.path}: the hub's data set has no such split",
            got=odd[0],
            want=f"one of {', '.join(splits)}",
            fix=f"did you mean {close}?" if close else "set split of this source",
        )


def _files(builder: Any) -> list[str]:
    """The files of a configuration, all splits; none for a copy of the cache, which is made of them."""
    return [str(file) for files in (builder.config.data_files or {}).values() for file in files]


def _address(source: Source, builder: Any) -> str:
    return f"{HUB_ADDRESS}{source.path}@{builder.hash[:_COMMIT]}/{builder.config.name}/{source.split}"


def _refuse_extensions(builder: Any) -> None:
    """Look through files that hold a schema before ``datasets`` builds it. They are downloaded for that to where it looks for them."""
    import datasets

    kinds = {".parquet": "parquet", ".arrow": "arrow"}
    for file in _files(builder):
        kind = kinds.get(f".{file.rpartition('.')[2].lower()}")
        if kind is None:
            continue
        local = datasets.DownloadManager(dataset_name=builder.dataset_name, base_path=builder.base_path).download(file)
        next(make_origin(kind).read(Source(path=file), local), None)


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Errors of ``datasets`` and of the hub's client as errors that say what to do."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        yield
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError) and "Revision" not in said:
            raise _denied(source, said) from error
        if isinstance(error, ConnectionError):
            raise _unreachable(source, said) from error
        words = {
            "onfig": "set config of this source",
            "Revision": "correct revision of this source",
            "script": "take one of plain files: no code is run",
        }
        fix = next((fix for word, fix in words.items() if word in said), "look at the data set's page on the hub, and at split, config and revision here")
        raise DataError(f"{source.path}: the hub's data set cannot be read", got=said[:300], want="a data set of plain files", fix=fix) from error


def _denied(source: Source, said: str) -> DataError:
    import huggingface_hub

    token = "a token that may not read it" if huggingface_hub.get_token() else "no token"
    if "gated" in said:
        fix = f"ask for access on the page of {source.path}, then set HF_TOKEN to a token of the account that was granted it"
        return DataError(f"{source.path}: this data set is gated", got=f"{token} in the environment", want="a token of an account with access", fix=fix)
    return DataError(
        f"{source.path}: neither a file here nor a data set on the hub",
        got=f"{said[:200]} ({token} in the environment)",
        want="a file, a folder, a glob, or org/name of a data set that exists",
        fix="correct the path; for a private data set set HF_TOKEN to a token that may read it",
    )


def _unreachable(source: Source, said: str) -> DataError:
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        fix = "fetch it once with the network (unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE), or point HF_HOME at a cache that holds it"
        return DataError(f"{source.path}: not in the cache, and the environment says offline", got=said[:200], want="a copy in the cache", fix=fix)
    return DataError(
        f"{source.path}: no such file here, and the hub cannot be reached",
        got=said[:200],
        want="the hub, or a copy in the cache",
        fix="correct the path if a file was meant; else look at the network and HF_ENDPOINT, or fetch the data set elsewhere and set HF_HUB_OFFLINE=1",
    )
