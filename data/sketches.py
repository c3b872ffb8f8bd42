"""Sketches of texts, 128 bytes each, by which texts that nearly equal each other are found among millions; made for a block of rows at once.

A text becomes the set of its word 5-grams, hashed. One hash tells a 5-gram its bin, 128 of them, and of every bin the smallest value is kept: one-permutation
hashing (Li, Owen, Zhang 2012, "One Permutation Hashing"). An empty bin takes the value of another, chosen by the bin's own sequence of tries (Shrivastava 2017,
"Optimal Densification for Fast and Accurate Minwise Hashing"). Eight bits are kept of every value (Li, Koenig 2010, "b-Bit Minwise Hashing"). Of two texts with
Jaccard index J a bin agrees with probability J + (1 - J) / 256, so the share of agreeing bins estimates J, with a standard error of about
sqrt(J (1 - J) / 128), and each eight bins are a 64-bit band of locality-sensitive hashing.

Words are runs of characters without white space and the marks of a sentence, ASCII letters in lower case; of scripts that do not part words (Chinese, Japanese)
every character is one. Shape letters: N bytes, W words, G 5-grams, R rows, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tunefleet.data.mixing import GOLDEN, mixed

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Bytes = npt.NDArray[np.uint8]
    Ints = npt.NDArray[np.int64]

WORDS = 5
BINS = 128
BANDS = BINS // 8
CHUNK_BYTES = 1 << 16  # of text at a time: the arrays that it becomes (half a megabyte each) stay in the processor's cache and in memory that is at hand
TRIES = 64
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_BASE = np.uint64(0xD6E8FEB86659FD93)  # odd, so that its powers can be divided by


def sketches(texts: Sequence[str]) -> Hashes:
    """The sketch of every text, shape (R, BANDS): a column is a band. Zeros for a text without a word, which is near to nothing."""
    made = np.zeros((len(texts), BANDS), np.uint64)
    start, size, part = 0, 0, []
    for row, text in enumerate(texts):
        part.append(text.encode("utf-8", "surrogatepass").replace(b"\0", b" "))
        size += len(part[-1]) + 1
        if size >= CHUNK_BYTES or row == len(texts) - 1:
            made[start : row + 1] = _sketched(part)
            start, size, part = row + 1, 0, []
    return made


def likeness(one: Hashes, other: Hashes) -> npt.NDArray[np.float32]:
    """The estimated Jaccard index of sketches, pair by pair."""
    agreeing = (one.view(np.uint8) == other.view(np.uint8)).sum(axis=1, dtype=np.float32) / BINS
    estimate: npt.NDArray[np.float32] = (agreeing - np.float32(1 / 256)) / np.float32(1 - 1 / 256)
    return estimate


def _sketched(texts: Sequence[bytes]) -> Hashes:
    whole_N = np.frombuffer(b"\0".join(texts) + b"\0", np.uint8)
    words_W, row_W = _words(whole_N)
    values_RK = _smallest(*_grams(words_W, row_W, len(texts)), len(texts))
    full_R = (values_RK != _EMPTY).any(axis=1)
    values_RK[full_R] = _densified(values_RK[full_R])
    full = mixed(values_RK[full_R] + np.arange(1, BINS + 1, dtype=np.uint64) * GOLDEN)  # a value that serves several bins says something else in each
    sketch_RK = np.zeros(values_RK.shape, np.uint8)
    sketch_RK[full_R] = full.astype(np.uint8)
    bands: Hashes = sketch_RK.view(np.uint64)
    return bands


def _words(whole_N: Bytes) -> tuple[Hashes, Ints]:
    """A hash of every word, and the number of its row. Rows end with a zero byte.

    The hash is a polynomial in the bytes, so that all are made by one running sum: the sum up to a word's end less that up to its start, divided by the
    power at its start.
    """
    letters_N = _letters()[whole_N]
    inside_N = letters_N != 0
    alone_N = (whole_N >= 0xE3) & (whole_N <= 0xED)  # the first of three bytes of a character that is a word by itself
    starts_N = inside_N.copy()
    starts_N[1:] &= ~inside_N[:-1] | alone_N[1:]
    starts_N[3:] |= alone_N[:-3] & inside_N[3:]
    starts = np.flatnonzero(starts_N)
    powers, inverses = _powers(1 << int(len(whole_N) - 1).bit_length())
    sums = np.empty(len(whole_N) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(letters_N * powers[: len(whole_N)], out=sums[1:])
    ends = np.append(starts[1:], len(whole_N))  # what stands between a word and the next counts nothing
    row_N = np.cumsum(whole_N == 0)
    return mixed((sums[ends] - sums[starts]) * inverses[starts]), row_N[starts]


def _grams(words_W: Hashes, row_W: Ints, rows: int) -> tuple[Hashes, Ints]:
    """Hashes of every run of five words of a row, and the row; of all words where there are fewer."""
    count_R = np.bincount(row_W, minlength=rows)
    first_R = np.cumsum(count_R) - count_R
    place_W, length_W = np.arange(len(words_W)) - first_R[row_W], count_R[row_W]
    starts = np.flatnonzero(place_W <= np.maximum(length_W - WORDS, 0))
    padded = np.concatenate([words_W, np.zeros(WORDS, np.uint64)])
    sums_G = padded[starts]
    left_G = length_W[starts] - place_W[starts]
    short = np.flatnonzero(left_G < WORDS)
    for i in range(1, WORDS):
        words_G = padded[starts + i]
        words_G[short[left_G[short] <= i]] = 0
        sums_G *= _BASE  # words are hashes already: a polynomial in them, mixed once, tells their order and number apart
        sums_G += words_G
    return mixed(sums_G), row_W[starts]


def _smallest(grams_G: Hashes, row_G: Ints, rows: int) -> Hashes:
    """The smallest value of every bin, (R, K)."""
    values_RK = np.full(rows * BINS, _EMPTY, np.uint64)
    places = row_G * BINS + (grams_G >> np.uint64(57)).astype(np.int64)
    np.minimum.at(values_RK, places, grams_G << np.uint64(7))
    return values_RK.reshape(rows, BINS)


def _densified(values_RK: Hashes) -> Hashes:
    """Empty bins filled from others; every row has one that is not."""
    full_RK = values_RK != _EMPTY
    filled = values_RK.reshape(-1).copy()
    row, column = np.nonzero(~full_RK)
    for tries_K in _tries():
        source = tries_K[column]
        found = full_RK[row, source]
        filled[row[found] * BINS + column[found]] = values_RK[row[found], source[found]]
        row, column = row[~found], column[~found]
        if not len(row):
            return filled.reshape(values_RK.shape)
    first_R = full_RK.argmax(axis=1)  # a text of a few words: one of its values serves the last bins
    filled[row * BINS + column] = values_RK[row, first_R[row]]
    return filled.reshape(values_RK.shape)


@lru_cache(maxsize=1)
def _tries() -> Ints:
    """Which bin a bin asks first, second, ...: (TRIES, K)."""
    numbers = np.arange(1, TRIES * BINS + 1, dtype=np.uint64) * GOLDEN
    return (mixed(numbers) >> np.uint64(57)).astype(np.int64).reshape(TRIES, BINS)


@lru_cache(maxsize=1)
def _letters() -> Hashes:
    """What a byte counts in the hash of a word; zero for what parts words."""
    table = np.arange(256, dtype=np.uint64)
    upper = np.arange(ord("A"), ord("Z") + 1)
    table[upper] = upper + 32
    table[np.frombuffer(b"\0 \t\n\v\f\r.,;:!?\"'()", np.uint8)] = 0
    table[:32] = 0
    return table


@lru_cache(maxsize=4)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the base, and what multiplies them to one (modulo 2 to the 64)."""
    inverse = pow(int(_BASE), -1, 1 << 64)
    powers = [np.cumprod(np.concatenate([[np.uint64(1)], np.full(count, base, np.uint64)]), dtype=np.uint64) for base in (_BASE, np.uint64(inverse))]
    return powers[0], powers[1]
