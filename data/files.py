"""Files of rows: which ones a path, a folder or a glob names, and their bytes, unpacked where they are compressed. Local paths and fsspec addresses alike."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO

from tunefleet.cluster.errors import DataError, nearest

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def find_files(path: str, suffixes: Collection[str]) -> list[str]:
    """The files that a path, a folder or a glob names, sorted; hidden ones are left out. Of a folder only those that end in one of ``suffixes``.

    Raises DataError, with the nearest name, where there are none.
    """
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    if any(sign in path for sign in "*?["):
        found = [p for p in system.glob(inner) if system.isfile(p) and not _hidden(p)]
    elif system.isdir(inner):
        found = [p for p in system.find(inner) if suffix_of(p) in suffixes and not _hidden(p)]
        if "://" not in path:
            _refuse_links_out(inner, found)
    else:
        found = [inner] if system.isfile(inner) else []
    if not found:
        raise _nothing_at(path, suffixes)
    if found == [inner]:
        return [path]
    return sorted(system.unstrip_protocol(p) if "://" in path else p for p in found)


def _refuse_links_out(folder: str, files: Collection[str]) -> None:
    """Raise DataError for a link that leads out of a folder: the folder may be somebody else's, and the file behind the link nothing to train on."""
    root = Path(folder).resolve()
    out = sorted(file for file in files if not Path(file).resolve().is_relative_to(root))
    if out:
        got, fix = f"{out[0]} is {Path(out[0]).resolve()}", "name the file itself, or a glob, where it is meant; else remove the link"
        raise DataError(f"{folder}: a link leads out of the folder", got=got, want=f"files inside {root}", fix=fix)


def suffix_of(path: str) -> str:
    """What the name ends in, in small letters and without the suffix of a compression: ``.jsonl`` of ``rows.jsonl.gz``."""
    name = PurePosixPath(path)
    return PurePosixPath(name.stem).suffix.lower() if name.suffix.lower() in COMPRESSED else name.suffix.lower()


def open_bytes(path: str) -> IO[bytes]:
    """The bytes of a file, unpacked as its name says."""
    import fsspec

    if path.lower().endswith(".zst"):  # pyarrow has the codec; fsspec would want a package of its own for it
        import pyarrow as pa

        packed = fsspec.open(path, "rb").open()
        return io.BufferedReader(_Readable(pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")), 1 << 20)
    stream: IO[bytes] = fsspec.open(path, "rb", compression="infer").open()
    return stream


def open_text(path: str) -> IO[str]:
    """Decode as UTF-8; bytes that are none become lone surrogates, which make their row invalid and leave the others alone."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Readable(io.RawIOBase):
    """A pyarrow stream as Python's own kind of stream, so that lines can be read from it."""

    def __init__(self, stream: object) -> None:
        self.stream = stream

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, as far as there is something."""
        data: bytes = self.stream.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(data)] = data
        return len(data)


def _hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith(".")


def _nothing_at(path: str, suffixes: Collection[str]) -> DataError:
    """The error for a path that names no file, with what stands beside it."""
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    parent, name = str(PurePosixPath(inner).parent), PurePosixPath(inner).name
    if system.isdir(inner):
        return DataError(
            f"{path}: the folder holds no file of rows", want=f"files that end in {', '.join(sorted(suffixes))}", fix="name the files by their kind"
        )
    if not system.isdir(parent):
        return DataError(
            f"{path}: no such file", got=f"{parent} is no folder", want="a file, a folder or a glob", fix="correct the path; it is taken from where you are"
        )
    beside = sorted(PurePosixPath(p).name for p in system.ls(parent, detail=False))
    close = nearest(name, beside)
    listed = ", ".join(beside[:8]) + (", ..." if len(beside) > 8 else "")
    return DataError(
        f"{path}: no such file",
        got=f"{parent} holds {listed or 'nothing'}",
        want="a file, a folder or a glob",
        fix=f"did you mean {close}?" if close else "correct the path",
    )
