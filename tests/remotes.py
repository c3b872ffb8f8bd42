"""A storage that is not on this machine, as far as its reader knows: a folder behind an address, which counts what is asked of it and can fail."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tunefleet.cluster.errors import StorageError
from tunefleet.cluster.storage import Stored
from tunefleet.cluster.storages.folder import Folder


class Objects(Folder):
    """A folder whose files cannot grow, as on S3. ``writes_left``: how many writes and deletions still succeed; None: all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writes_left: int | None = None

    @property
    def appends(self) -> bool:
        return False

    def append(self, name: str, data: bytes) -> None:
        raise AssertionError("an object cannot grow")

    def put(self, name: str, data: bytes) -> Stored:
        self._count()
        return super().put(name, data)

    def create(self, name: str, data: bytes) -> bool:
        self._count()
        return super().create(name, data)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)

    def _count(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise StorageError("no more writes", want="a test that ends here")
            self.writes_left -= 1


class Remote(Folder):
    """``log``: a line for every read from the beginning, by whatever process. ``spoil`` may change the bytes on their way; a read takes ``slow_s``."""

    def __init__(self, root: Path, log: Path, *, spoil: Callable[[str, bytes], bytes] | None = None, slow_s: float = 0.0) -> None:
        super().__init__(root)
        self.log, self.spoil, self.slow_s = log, spoil, slow_s

    @property
    def address(self) -> str:
        return f"far://{self.root.name}"

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        self._note(name)
        return super().read(name, sha256=sha256, size=size)

    def read_from(self, name: str, offset: int, length: int | None = None) -> bytes:
        if offset == 0:
            self._note(name)
        data = super().read_from(name, offset, length)
        time.sleep(self.slow_s)
        return self.spoil(name, data) if self.spoil else data

    def _note(self, name: str) -> None:
        with self.log.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{name}\n")

    def local(self, name: str, **_: object) -> Path:
        raise AssertionError("a remote file has no local path")

    def reads(self) -> Counter[str]:
        """How often each name was read."""
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()
