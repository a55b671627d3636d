"""How the products of a step are asked for, which decides how fast BLAS makes them.

OpenBLAS, which comes with NumPy, arranges both matrices anew before each product: for few columns
that costs as much as a fifth of the product itself, for very few most of it. Its kernels for small
matrices, which exist for processors with AVX-512, do not, and are taken up to a million
multiplications. So a W that is larger is handed over in blocks of rows, all in one call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .layout import as_pieces, empty, exchanged, on_cache_lines, transposed, turned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._validation import Array

_SMALL = 100**3  # multiplications
_FEW = 64  # columns; from there on arranging W pays, unless they fill whole registers
_FEW_BESIDE_THREADS = 9  # columns; there a second thread gains more, which small products lack
_REGISTER = 16  # numbers in float32
_FEW_REGISTERS = 8  # of columns
_WORTH_A_CALL = 2**16  # multiplications
_FEWEST_ROWS, _MOST_ROWS = 32, 64  # of other blocks; fewer do not pay, more are no faster
_OFTEN = 8  # products, for which a copy of W pays


class OpenBLAS(NamedTuple):
    """What the library behind NumPy says of itself."""

    core: str  # the processor that its kernels were written for
    threads: Callable[[], int]
    set_threads: Callable[[int], Any] = lambda number: None

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
            set_threads = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
            if core and threads and set_threads:
                core.restype = ctypes.c_char_p
                return OpenBLAS(core().decode(), threads, set_threads)
    return OpenBLAS("", lambda: 1)


_lock = threading.Lock()
_found: list[int] = []  # by each who holds BLAS at one thread: how many it had


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS at one thread, everywhere in the process, until the last who asks for it is done.

    For whoever computes in several threads by itself: those of BLAS would wait for each other.
    """
    blas = openblas()
    with _lock:
        _found.append(blas.threads())
        blas.set_threads(1)
    try:
        yield
    finally:
        with _lock:
            blas.set_threads(_found.pop())  # one, until the last who leaves finds the first number


class Product(NamedTuple):
    """A product W x to be made again and again: ``multiply(W, x, out)``."""

    multiply: Callable[..., Any]
    W: Any  # in the form that `multiply` takes
    out: Array


def product(W: Array, out: Array, times: int) -> Product:
    """Return how to multiply W, (M, K), by columns (K, n) into `out`, (M, n), C-contiguous.

    `W` is C-contiguous or the transpose of what is, and is copied where that pays, for a product
    that is made so many times.
    """
    (M, K), n = W.shape, out.shape[1]
    if n == 1 or times < _OFTEN:
        return Product(np.ndarray.dot, W, out)
    if _ragged_registers(M, K, n):
        return _product_on_lines(W, out)
    rows = _block_rows(M, K, n)
    # `dot` takes half a microsecond less than `matmul`, but writes C-contiguous matrices only.
    if rows == 0:
        return Product(np.ndarray.dot, _upright(W), out)
    blocks = _blocks(W, rows, n)
    if rows == M:
        return Product(np.ndarray.dot, blocks[0], out)
    return Product(np.matmul, blocks, out.reshape(-1, rows, n))


def _ragged_registers(M: int, K: int, n: int) -> bool:
    """Whether columns (K, n) are many and fill no whole registers, so that they are moved first."""
    blas = openblas()
    few = 3 * _REGISTER < n < _FEW_REGISTERS * _REGISTER and n % _REGISTER > 0
    in_blocks = M % 8 == 0 and 8 * K * n <= _SMALL < M * K * n
    return few and in_blocks and blas.has_small_kernels and blas.threads() == 1


def _product_on_lines(W: Array, out: Array) -> Product:
    """Return how to multiply W by columns (K, n) whose rows are moved to lines of the cache first.

    Each block of W reads all of them, and where a row does not begin on a line, half of its vectors
    lie in two. To move them takes a fortieth of the product.
    """
    (M, K), n = W.shape, out.shape[1]
    rows = 16 if M % 16 == 0 and 16 * K * n <= _SMALL else 8
    whole = -(-n // _REGISTER) * _REGISTER
    lines = on_cache_lines((K, whole), out.dtype)[:, :n]
    form = _blocks(W, rows, n), lines, as_pieces(lines)
    return Product(_move_and_multiply, form, out.reshape(-1, rows, n))


def _move_and_multiply(form: tuple[Array, Array, Array], columns: Array, out: Array) -> None:
    blocks, lines, pieces = form
    np.copyto(pieces, as_pieces(columns))
    np.matmul(blocks, lines, out)


def multiply_steps(W: Array, steps: Array, out: Array) -> bool:
    """Write W, (M, K), times each of the steps, (T, K, B), into `out`, (T, M, B), if that is fast.

    Return whether it was. Else one product over all rows is faster; but that arranges all of them
    for itself, which for a few classes takes longer than to multiply.
    """
    (M, K), (T, _, B) = W.shape, steps.shape
    columns = B > 1 and steps.strides[2] == out.strides[2] == steps.itemsize
    rows = _block_rows(M, K, B) if columns and T >= _OFTEN else 0
    if rows:
        np.matmul(_blocks(W, rows, B), steps[:, None], out=out.reshape(T, -1, rows, B))
    return rows > 0


def for_columns(W: Array, n: int, times: int) -> Array:
    """Return W, (M, K), or its blocks, (·, ·, K), as it is multiplied fastest by up to n columns.

    Of the columns, (K, up to n), each is one piece of memory.
    """
    if times < _OFTEN:
        return W
    rows = _divisor(len(W), len(W.T), n)
    return _blocks(W, rows, n) if rows else _upright(W)


def _block_rows(M: int, K: int, n: int) -> int:
    """Return how many rows a block of W, (M, K), has, for products with n columns; 0 for none.

    All of them, if the kernels for small matrices take them. Eight where the columns fill whole
    registers: all sums then fit the registers, and W is read once, in the order of memory. Else as
    many as these kernels take.
    """
    blas = openblas()
    if not blas.has_small_kernels:
        return 0
    if M * K * n <= _SMALL:
        return M
    registers, rest = divmod(n, _REGISTER)
    few = _FEW_REGISTERS if blas.threads() == 1 else 0
    if rest == 0 and registers <= few and M % 8 == 0 and 8 * K * n <= _SMALL:
        rows = 8
        while rows * K * n < _WORTH_A_CALL and M % (2 * rows) == 0:
            rows *= 2
        return rows
    return _divisor(M, K, n)


def _divisor(M: int, K: int, n: int) -> int:
    """Return the most rows of equal blocks that the kernels for small matrices take; 0 for none."""
    blas = openblas()
    few = _FEW if blas.threads() == 1 else _FEW_BESIDE_THREADS
    if n >= few or not blas.has_small_kernels:
        return 0
    most = min(_MOST_ROWS, _SMALL // (K * n))
    return next((rows for rows in range(most, _FEWEST_ROWS - 1, -1) if M % rows == 0), 0)


def _blocks(W: Array, rows: int, n: int) -> Array:
    """Return W, (M, K), in blocks of rows, (M / rows, rows, K), to be multiplied by n columns.

    Each block is column-major, which takes a copy unless W is the transpose of a C-contiguous
    matrix and one block. For one block and columns that fill a register it would not pay.
    """
    (M, K), upright = W.shape, W.flags.c_contiguous
    if rows == M and (n >= _REGISTER or not upright):
        return W[None]
    if not upright:
        return turned(exchanged(W.T.reshape(K, -1, rows)))
    if rows > 16:
        return turned(transposed(W, rows))
    own = empty((M // rows, K, rows), W.dtype)
    own[...] = turned(W.reshape(-1, rows, K))
    return turned(own)


def _upright(W: Array) -> Array:
    """Return a C-contiguous matrix, or a C-contiguous copy of what is the transpose of one."""
    return W if W.flags.c_contiguous else transposed(W.T, len(W.T))[0]
