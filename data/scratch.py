"""Arrays that lie in a temporary file: what is known of every row need not fit into memory, for the system writes out what is not in use."""

from __future__ import annotations

import mmap
import tempfile
from typing import TYPE_CHECKING, Any

from tunefleet.cluster.errors import StorageError

if TYPE_CHECKING:
    import numpy.typing as npt

SLAB_BYTES = 4 << 20
"""The file grows by as much, or by an array that is larger."""
_ALIGNED = 64


class Scratch:
    """A nameless file in the system's folder for temporary ones (TMPDIR). It is gone with its last array, or with the process, however that ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as its arrays
        self._slab: mmap.mmap | None = None
        self._used = 0

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A new array. Raises StorageError where the disk is full."""
        import numpy as np

        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not size:
            return np.empty(shape, dtype)
        if self._slab is None or self._used + size > len(self._slab):
            self._slab, self._used = self._grown(max(size, SLAB_BYTES)), 0
        found = np.frombuffer(self._slab, dtype, int(np.prod(shape)), self._used).reshape(shape)
        self._used += -(-size // _ALIGNED) * _ALIGNED
        return found

    def kept(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy of an array. Raises StorageError where the disk is full."""
        found = self.empty(array.shape, array.dtype)
        found[...] = array
        return found

    def _grown(self, size: int) -> mmap.mmap:
        size = -(-size // SLAB_BYTES) * SLAB_BYTES
        start = self._file.seek(0, 2)
        try:
            for _ in range(size // SLAB_BYTES):  # written and not only reserved: a full disk is an error here, and not a signal when an array is used
                self._file.write(bytes(SLAB_BYTES))
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: no room for what is known of the rows",
                got=str(error),
                want=f"{size >> 20} MiB more",
                fix="free space there, or set TMPDIR to a folder on a larger disk",
            ) from error
        return mmap.mmap(self._file.fileno(), size, offset=start)
