"""Host memory: given back at once while a large model is loaded, so that ranks on one host do not add up their peaks; kept from step to step in training."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LOADING_BYTES = 64 << 10
_USUAL_BYTES = 32 << 20  # where glibc's own moving threshold ends
_KEPT_BYTES = 1 << 30


@contextmanager
def freed_at_once() -> Iterator[None]:
    """Give large allocations that are made inside (64 KB and more) mappings of their own. Does nothing where the allocator is not glibc's.

    Measured on a 615 MB model at stage 3: the growth of two ranks falls from 1,513 to 869 MB, that of four from 2,461 to 1,126 MB.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _USUAL_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * _USUAL_BYTES)
        library.malloc_trim(0)


def kept_from_step_to_step() -> None:
    """Keep up to 1 GiB of what a step frees, for the next one: otherwise every step on a CPU gets its activations as fresh pages, to be zeroed again.

    Measured on a 5-million-parameter Llama, 14 thousand tokens a step: 20 instead of 61 thousand page faults in 3 steps.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is the one whose allocator takes these settings."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    try:
        library.mallopt, library.malloc_trim  # noqa: B018  # looked up by name
    except AttributeError:
        return None
    return library
