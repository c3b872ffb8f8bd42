"""This package as a wheel, made from the code that runs: from an installed wheel, or from the folders of a working copy. And plain archives of named files.

Only what the package is made of goes in, by an allow-list: Python files, never what else lies in the folders. The same code gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import tunefleet

SHIPPED = (".py", "py.typed")
"""How names of files end that may be shipped."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that an archive can name


def wheel() -> tuple[str, bytes]:
    """The wheel's file name and its bytes."""
    try:
        installed = distribution("tunefleet")
        version, metadata, entries = (
            installed.version,
            installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "",
            installed.read_text("entry_points.txt") or "",
        )
    except PackageNotFoundError:  # a bare folder on the path
        version, metadata, entries = "0", "Metadata-Version: 2.1\nName: tunefleet\nVersion: 0\n", ""
    files = {f"tunefleet/{name}": content for name, content in sources(Path(tunefleet.__file__).parent, links=True)}
    info = f"tunefleet-{version}.dist-info"
    files |= {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tunefleet\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": entries.encode(),
    }
    files[f"{info}/RECORD"] = _record(files, info)
    return f"tunefleet-{version}-py3-none-any.whl", archive(files)


def sources(folder: Path, *, links: bool = False) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of a package that may be shipped, sorted. What is hidden, and links that lead out of the package, are left alone.

    ``links``: the folders of its first level may be links to elsewhere, as in a working copy of this project.
    """
    yield from sorted(_walk(folder, folder, "", links=links))


def module_files(origin: Path) -> dict[str, bytes]:
    """What of a module of one's own is shipped, by name: the file itself, or the Python files of its package. ``origin``: its file or its folder."""
    if origin.is_file():
        return {origin.name: origin.read_bytes()}
    return {f"{origin.name}/{name}": content for name, content in sources(origin)}


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip file; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _walk(folder: Path, root: Path, prefix: str, *, links: bool = False) -> Iterator[tuple[str, bytes]]:
    within = root.resolve()
    for path in folder.iterdir():
        floor = links and path.is_symlink() and path.is_dir()
        if path.name.startswith(".") or path.name == "__pycache__" or not (floor or within in path.resolve().parents):
            continue
        if path.is_dir():
            yield from _walk(path, path if floor else root, f"{prefix}{path.name}/")
        elif path.name.endswith(SHIPPED):
            yield f"{prefix}{path.name}", path.read_bytes()


def _record(files: Mapping[str, bytes], info: str) -> bytes:
    def line(name: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(files[name])}\n"

    return ("".join(line(name) for name in sorted(files)) + f"{info}/RECORD,,\n").encode()
