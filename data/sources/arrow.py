"""Arrow IPC files and streams, and folders that ``datasets`` wrote with ``save_to_disk``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, ClassVar, Literal

from tunefleet.cluster.errors import DataError, nearest
from tunefleet.cluster.settings import Settings
from tunefleet.data.arrowrows import table_rows
from tunefleet.data.arrowschema import refuse_extensions
from tunefleet.data.files import find_files, open_bytes
from tunefleet.data.origin import Numbered, is_saved
from tunefleet.data.settings import Source

_MAGIC = b"ARROW1\0\0"  # an Arrow file is this, then a stream of messages, then a footer with a second schema, which is never read


class ArrowFiles:
    """Rows in order, numbered from 1; a batch of the file at a time, mapped from the disk where it is local."""

    class Config(Settings):
        """Nothing to set."""

        kind: Literal["arrow"] = "arrow"

    suffixes: ClassVar[tuple[str, ...]] = (".arrow", ".arrows", ".feather", ".ipc")

    def __init__(self, config: Config) -> None:
        self.config = config

    def addresses(self, source: Source) -> list[str]:
        """The files; of a saved data set those that it lists, of a saved dictionary of data sets those of ``split``."""
        return _saved(source.path, source.split) if is_saved(source.path) else find_files(source.path, self.suffixes)

    def read(self, source: Source, address: str) -> Iterator[Numbered]:
        """Every row. Extension types are refused before anything of the file is interpreted."""
        import pyarrow as pa

        with _opened(address) as stream:
            try:
                begin = len(_MAGIC) if stream.read(len(_MAGIC)) == _MAGIC else 0
                stream.seek(begin)
                message = pa.ipc.read_message(stream)
                if message.type != "schema":
                    raise DataError(f"{address}: cannot be read as Arrow", got=f"it begins with a {message.type}", want="a schema", fix="write the file anew")
                refuse_extensions(address, message.metadata.to_pybytes())
                stream.seek(begin)
                reader = pa.ipc.open_stream(stream)
                yield from table_rows(address, reader.schema, iter(reader))
            except (pa.ArrowException, OSError, EOFError) as error:
                raise DataError(f"{address}: cannot be read as Arrow", got=str(error).splitlines()[0], fix="write the file anew") from error


def _opened(address: str) -> Any:
    import pyarrow as pa

    if "://" not in address and not address.endswith((".gz", ".bz2", ".xz", ".zst")):
        return pa.memory_map(address)
    stream: IO[bytes] = open_bytes(address)
    if not stream.seekable():
        raise DataError(f"{address}: cannot be read as Arrow", got="a compressed file", want="an Arrow file as it is, it can compress itself", fix="unpack it")
    return pa.PythonFile(stream, "r")


def _saved(path: str, split: str) -> list[str]:
    """The files of a saved data set. Its lists are somebody's text: a name that leads out of the folder is refused."""
    from fsspec.core import url_to_fs

    system, inner = url_to_fs(path)
    if system.isfile(f"{inner}/dataset_dict.json"):
        splits = [str(name) for name in _parsed(system, f"{inner}/dataset_dict.json").get("splits", ())]
        if split not in splits:
            close = nearest(split, splits)
            raise DataError(
                f"{path}: the saved data set has no such split",
                got=split,
                want=f"one of {', '.join(splits)}",
                fix=f"did you mean {close}?" if close else "set split of this source",
            )
        inner = f"{inner}/{_plain(path, split)}"
    listed = _parsed(system, f"{inner}/state.json").get("_data_files", ())
    files = [f"{inner}/{_plain(path, entry.get('filename') if isinstance(entry, dict) else entry)}" for entry in listed]
    if not files:
        raise DataError(f"{path}: the saved data set lists no file", want="what save_to_disk writes", fix="save it anew")
    return [system.unstrip_protocol(file) if "://" in path else file for file in files]


def _parsed(system: Any, file: str) -> dict[str, Any]:
    try:
        value = json.loads(system.cat_file(file))
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: cannot be read", got=str(error), want="what save_to_disk writes", fix="save it anew") from error
    return value if isinstance(value, dict) else {}


def _plain(path: str, name: Any) -> str:
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or name.startswith("."):
        raise DataError(f"{path}: the saved data set names a file outside of its folder", got=repr(name)[:80], want="names of files beside its state.json")
    return name
