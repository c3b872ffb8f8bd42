"""Neighbouring numbers become unrelated ones: what sketches, keys and the order of rows have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 adds from one number to the next: 2 to the 64 divided by the golden ratio."""


def mixed(values: Hashes) -> Hashes:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2714064.2660195): a bijection of the 64-bit integers.

    It is written out here since orders and sketches that were stored must not change with the version of a library.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
