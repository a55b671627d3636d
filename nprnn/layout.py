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


def on_cache_lines(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return a new array that begins where a line of the cache does: for parameters.

    Others of NumPy begin at any 16 bytes. BLAS multiplies a single vector by a matrix that lies
    across the lines a seventh slower.
    """
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(kind).reshape(shape)


def turned(array: Array) -> Array:
    """Return (..., n, K) as (..., K, n) or the other way, a view: rows as columns."""
    return array.swapaxes(-1, -2)


def taller(array: Array, times: int) -> Array:
    """Return a new array (..., times * K, n), laid out as one (..., K, n)."""
    *lead, K, n = array.shape
    if lead or array.flags.c_contiguous:
        return np.empty((*lead, times * K, n), array.dtype)
    return np.empty((n, times * K), array.dtype).T


def as_rows(array: Array) -> Array:
    """Return (..., K) as a matrix (N, K), moving as little memory as possible.

    Of steps that are column-major it is column-major too: B numbers at a time stay together, where
    the other order would be a transposition, number by number.
    """
    K = array.shape[-1]
    if array.ndim == 3 and array.strides[1] == array.itemsize < array.strides[2]:
        return exchanged(turned(array)).reshape(K, -1).T
    return np.ascontiguousarray(array).reshape(-1, K)


def exchanged(array: Array) -> Array:
    """Return (M, N, B) as a new array (N, M, B), C-contiguous; the last axis lies in one piece.

    Such a piece is moved as if it were one number: that takes a half to four fifths of the time.
    """
    M, N, B = array.shape
    pieces = array.view(np.dtype((np.void, B * array.itemsize)))[..., 0]  # (M, N)
    return np.ascontiguousarray(pieces.T).view(array.dtype).reshape(N, M, B)


def transposed(matrix: Array, rows: int) -> Array:
    """Return the transposes of so many rows of a matrix (M, K) each, a copy (M / rows, K, rows).

    Sixteen rows at a time, so that the cache holds what is read and what is written: all at once
    takes up to seven times as long.
    """
    M, K = matrix.shape
    own = np.empty((M // rows, K, rows), matrix.dtype)
    for block, part in zip(own, matrix.reshape(-1, rows, K), strict=True):
        for row in range(0, rows, 16):
            block[:, row : row + 16] = part[row : row + 16].T
    return own


def rows_product(a: Array, b: Array) -> Array:
    """Return aᵀ b, (K, M), of two matrices (N, K) and (N, M), C-contiguous.

    BLAS takes a quarter less time where the first of the two is the wider one.
    """
    if a.shape[1] >= b.shape[1]:
        return a.T @ b
    return np.ascontiguousarray((b.T @ a).T)


def multiply_rows(rows: Array, matrix: Array) -> Array:
    """Return rows @ matrix, column-major if the rows are."""
    order: Any = "C" if rows.flags.c_contiguous else "F"
    product = np.empty((len(rows), matrix.shape[1]), np.result_type(rows, matrix), order)
    return np.matmul(rows, matrix, out=product)


def column_sums(rows: Array) -> Array:
    """Return the sum of the rows (N, K), as a product: several times faster than `sum`."""
    sums: Array = np.ones(len(rows), rows.dtype).dot(rows)
    return sums
