"""Arrays in a temporary file: they keep what was put into them, and a full disk is an error that says so."""

import resource

import numpy as np
import pytest

from tunefleet.cluster.errors import StorageError
from tunefleet.data.scratch import SLAB_BYTES, Scratch


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 0), (1000, 16), (SLAB_BYTES // 8 + 1,)])
def test_arrays_keep_what_was_put_into_them_and_share_nothing(shape):
    scratch, random = Scratch(), np.random.default_rng(0)
    given = [random.integers(0, 1 << 60, shape).astype(dtype) for dtype in ("uint64", "int32", "uint8", "uint64")]
    kept = [scratch.kept(array) for array in given]
    more = scratch.empty((5,), np.int64)
    more[:] = -1
    for found, wanted in zip(kept, given, strict=True):
        assert (found.dtype, found.flags.writeable) == (wanted.dtype, True)
        np.testing.assert_array_equal(found, wanted)


def test_arrays_outlive_the_scratch_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = Scratch()
    array = scratch.kept(np.arange(10))
    del scratch
    assert array.tolist() == list(range(10))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_before_an_array_is_used():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SLAB_BYTES // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match="no room for what is known of the rows"):
            Scratch().empty((10,), np.int64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
