"""How arrays lie in memory, and how many steps become one matrix.

An array of steps is (T, K, B), a sequence a column. Its callers' axes are (T, B, K); a view of it
as such is column-major within a step, and what is said here holds for either order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ._validation import Array

_LINE = 64  # bytes
_LARGE = 4096  # numbers: to find the line takes a microsecond


def on_cache_lines(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return a new array that begins where a line of the cache does.

    Others of NumPy begin at any 16 bytes. A vector of AVX-512 fills a line: read from anywhere else
    it is in two of them. Products and sums then take a fifth to a half longer.
    """
    kind = np.dtype(dtype)
    room = np.empty(math.prod(shape) * kind.itemsize + _LINE, np.uint8)
    return np.ndarray(shape, kind, room, -room.ctypes.data % _LINE)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return a new array, on the lines of the cache if it is large enough for that to pay."""
    return on_cache_lines(shape, dtype) if math.prod(shape) >= _LARGE else np.empty(shape, dtype)


def turned(array: Array) -> Array:
    """Return (..., n, K) as (..., K, n) or the other way, a view: rows as columns."""
    return array.swapaxes(-1, -2)


def in_columns(array: Array) -> bool:
    """Whether steps (T, B, K) are column-major: a number of all sequences is one piece."""
    return array.ndim == 3 and array.strides[1] == array.itemsize < array.strides[2]


def empty_like(array: Array, dtype: DTypeLike) -> Array:
    """Return a new array of the same shape and layout, for one that has no gaps."""
    if in_columns(array):
        T, B, K = array.shape
        return turned(empty((T, K, B), dtype))
    return np.empty_like(array, dtype)


def taller(array: Array, times: int = 1) -> Array:
    """Return a new array (..., times * K, n), laid out as one (..., K, n)."""
    *lead, K, n = array.shape
    if lead or array.flags.c_contiguous:
        return empty((*lead, times * K, n), array.dtype)
    return empty((n, times * K), array.dtype).T


def as_rows(array: Array) -> Array:
    """Return (..., K) as a matrix (N, K), moving as little memory as possible.

    Of steps that are column-major it is column-major too: B numbers at a time stay together, where
    the other order would be a transposition, number by number.
    """
    K = array.shape[-1]
    if in_columns(array):
        return exchanged(turned(array)).reshape(K, -1).T
    return np.ascontiguousarray(array).reshape(-1, K)


def as_pieces(array: Array) -> Array:
    """Return (..., B), whose last axis lies in one piece, as an array (...) of such pieces.

    To move a piece as if it were one number takes a half to four fifths of the time.
    """
    pieces: Array = array.view(np.dtype((np.void, array.shape[-1] * array.itemsize)))[..., 0]
    return pieces


def exchanged(array: Array) -> Array:
    """Return (M, N, B) as a new array (N, M, B), C-contiguous; the last axis lies in one piece.

    Of M up to 64 at a time, so that the cache holds what is written: all at once takes up to twice
    as long.
    """
    M, N, B = array.shape
    own = empty((N, M, B), array.dtype)
    to, pieces = as_pieces(own), as_pieces(array)
    for start in range(0, M, 64):
        to[:, start : start + 64] = pieces[start : start + 64].T
    return own


def transposed(matrix: Array, rows: int) -> Array:
    """Return the transposes of so many rows of a matrix (M, K) each, a copy (M / rows, K, rows).

    Sixteen rows at a time, so that the cache holds what is read and what is written: all at once
    takes up to seven times as long.
    """
    M, K = matrix.shape
    own = empty((M // rows, K, rows), matrix.dtype)
    for block, part in zip(own, matrix.reshape(-1, rows, K), strict=True):
        for row in range(0, rows, 16):
            block[:, row : row + 16] = part[row : row + 16].T
    return own


def rows_product(a: Array, b: Array) -> Array:
    """Return aᵀ b, (K, M), of two matrices (N, K) and (N, M), C-contiguous.

    Of column-major ones BLAS takes up to a quarter less time where the first is the wider one.
    """
    if a.flags.c_contiguous or a.shape[1] >= b.shape[1]:
        product: Array = a.T.dot(b)
        return product
    return np.ascontiguousarray(b.T.dot(a).T)


def multiply_rows(rows: Array, matrix: Array) -> Array:
    """Return rows @ matrix, column-major if the rows are."""
    order: Any = "C" if rows.flags.c_contiguous else "F"
    product = np.empty((len(rows), matrix.shape[1]), np.result_type(rows, matrix), order)
    return np.matmul(rows, matrix, out=product)


def column_sums(rows: Array) -> Array:
    """Return the sum of the rows (N, K), as a product: several times faster than `sum`."""
    sums: Array = np.ones(len(rows), rows.dtype).dot(rows)
    return sums
