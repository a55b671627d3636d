"""How the products of a step are asked for, which decides how fast BLAS makes them.

OpenBLAS, which comes with NumPy, arranges both matrices anew before each product: for few columns
that costs as much as a fifth of the product itself, for very few most of it. Its kernels for small
matrices, which exist for processors with AVX-512, do not, and are taken up to a million
multiplications. So a W that is larger is handed over in blocks of rows, all in one call.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .layout import exchanged, transposed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._validation import Array

_SMALL = 100**3  # multiplications
_FEW = 64  # columns; from there on arranging W pays
_FEW_BESIDE_THREADS = 8  # columns; with more a second thread gains more, which small products lack
_REGISTER = 16  # numbers in float32
_WHOLE_REGISTERS = (16, 32, 48)  # columns
_FEWEST_ROWS, _MOST_ROWS = 32, 64  # of a block; fewer pay only for whole registers, more never
_OFTEN = 8  # products, for which a copy of W pays


class OpenBLAS(NamedTuple):
    """What the library behind NumPy says of itself."""

    core: str  # the processor that its kernels were written for
    threads: Callable[[], int]

    @property
    def has_small_kernels(self) -> bool:
        """Whether there are kernels for small matrices."""
        return self.core.lower() in {"skylakex", "cooperlake", "sapphirerapids"}


@functools.cache
def openblas() -> OpenBLAS:
    """Return the OpenBLAS that NumPy's wheel brings; one without a name where it is another."""
    package = Path(np.__file__).parent
    folders = package.parent / "numpy.libs", package / ".dylibs"
    for path in itertools.chain.from_iterable(folder.glob("*openblas*") for folder in folders):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for prefix, suffix in itertools.product(("scipy_openblas", "openblas"), ("64_", "")):
            core = getattr(library, f"{prefix}_get_corename{suffix}", None)
            threads = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
            if core and threads:
                core.restype = ctypes.c_char_p
                return OpenBLAS(core().decode(), threads)
    return OpenBLAS("", lambda: 1)


class Product(NamedTuple):
    """A product W x to be made again and again: ``multiply(W, x, out)``."""

    multiply: Callable[..., Any]
    W: Array
    out: Array


def product(W: Array, out: Array, times: int) -> Product:
    """Return how to multiply W, (M, K), by columns (K, n) into `out`, (M, n), C-contiguous.

    `W` is C-contiguous or the transpose of what is, and is copied where that pays, for a product
    that is made so many times.
    """
    (M, K), n = W.shape, out.shape[1]
    if n == 1 or times < _OFTEN:
        return Product(np.ndarray.dot, W, out)
    rows = _block_rows(M, K, n)
    # `dot` takes half a microsecond less than `matmul`, but writes C-contiguous matrices only.
    if rows == 0:
        return Product(np.ndarray.dot, _upright(W), out)
    if rows == M:
        return Product(np.ndarray.dot, _blocks(W, M)[0] if n < _REGISTER else W, out)
    return Product(np.matmul, _blocks(W, rows), out.reshape(-1, rows, n))


def multiply_steps(W: Array, steps: Array, out: Array) -> bool:
    """Write W, (M, K), times each of the steps, (T, K, B), into `out`, (T, M, B), if that is fast.

    Return whether it was. Else one product over all rows is faster; but that arranges all of them
    for itself, which for a few classes takes longer than to multiply.
    """
    (M, K), (T, _, B) = W.shape, steps.shape
    columns = B > 1 and steps.strides[2] == out.strides[2] == steps.itemsize
    rows = _block_rows(M, K, B) if columns and T >= _OFTEN else 0
    if rows:
        np.matmul(_blocks(W, rows), steps[:, None], out=out.reshape(T, -1, rows, B))
    return rows > 0


def for_columns(W: Array, n: int, times: int) -> Array:
    """Return W, (M, K), or its blocks, (·, ·, K), as it is multiplied fastest by up to n columns.

    Of the columns, (K, up to n), each is one piece of memory.
    """
    if times < _OFTEN:
        return W
    rows = _divisor(len(W), _most_rows(len(W.T), n))
    return _blocks(W, rows) if rows else _upright(W)


def _block_rows(M: int, K: int, n: int) -> int:
    """Return how many rows a block of W, (M, K), has, for products with n columns; 0 for none.

    All of them, if the kernels for small matrices take them. Eight where the columns fill whole
    registers, which 16, 32 and 48 do: all sums then fit the registers, and W is read once, in the
    order of memory. Else as many as these kernels take.
    """
    if M * K * n <= _SMALL and openblas().has_small_kernels:
        return M
    most = _most_rows(K, n)
    return 8 if n in _WHOLE_REGISTERS and M % 8 == 0 and most >= 8 else _divisor(M, most)


def _most_rows(K: int, n: int) -> int:
    """Return the most rows of a block of W, (·, K), for products with n columns; 0 for none."""
    blas = openblas()
    few = _FEW if blas.threads() == 1 else _FEW_BESIDE_THREADS
    return min(_MOST_ROWS, _SMALL // (K * n)) if n <= few and blas.has_small_kernels else 0


def _divisor(M: int, most: int) -> int:
    """Return the largest divisor of M up to `most`; 0 if it is too small to pay."""
    return next((rows for rows in range(most, _FEWEST_ROWS - 1, -1) if M % rows == 0), 0)


def _blocks(W: Array, rows: int) -> Array:
    """Return a copy of W, (M, K), in blocks of rows, (M / rows, rows, K), each column-major.

    The transpose of a C-contiguous matrix is such a block itself.
    """
    (M, K), upright = W.shape, W.flags.c_contiguous
    if rows == M and not upright:
        return W[None]
    if not upright:
        return exchanged(W.T.reshape(K, -1, rows)).swapaxes(1, 2)
    if rows <= 16:
        return np.ascontiguousarray(W.reshape(-1, rows, K).swapaxes(1, 2)).swapaxes(1, 2)
    return transposed(W, rows).swapaxes(1, 2)


def _upright(W: Array) -> Array:
    """Return a C-contiguous matrix, or a C-contiguous copy of what is the transpose of one."""
    return W if W.flags.c_contiguous else transposed(W.T, len(W.T))[0]
