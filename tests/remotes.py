"""A storage that is not on this machine, as far as its reader knows: a folder behind an address, which counts what is asked of it and can fail."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tunefleet.cluster.storage import Folder


class Remote(Folder):
    """``log``: a line for every whole read, by whatever process. ``spoil`` may change the bytes on their way; ``slow_s`` is how long a read takes."""

    def __init__(self, root: Path, log: Path, *, spoil: Callable[[str, bytes], bytes] | None = None, slow_s: float = 0.0) -> None:
        super().__init__(root)
        self.log, self.spoil, self.slow_s = log, spoil, slow_s

    @property
    def address(self) -> str:
        return f"far://{self.root.name}"

    def read(self, name: str, *, sha256: str | None = None, size: int | None = None) -> bytes:
        with self.log.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{name}\n")
        data = super().read(name, sha256=sha256, size=size)
        time.sleep(self.slow_s)
        return self.spoil(name, data) if self.spoil else data

    def local(self, name: str, **_: object) -> Path:
        raise AssertionError("a remote file has no local path")

    def reads(self) -> Counter[str]:
        """How often each name was read."""
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()
