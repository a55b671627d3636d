"""From one long sequence of tokens to batches of windows, time-major."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array, RandomSource

_BLOCK = 1 << 24  # tokens checked at a time


def sequential_batches(
    tokens: ArrayLike,
    batch_size: int,
    num_steps: int,
    *,
    rng: RandomSource = None,
    start: int = 0,
    columns: slice | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Cut the tokens into B parallel streams and walk along them, T steps at a time.

    Column b of one batch continues column b of the batch before, so that the state that comes out
    of one is the state that goes into the next.

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
        The sequence; a `numpy.memmap` is read window by window.
    batch_size : int
        Number of streams, B.
    num_steps : int
        Steps in a window, T.
    rng : Generator or int, optional
        Draws how many of the first tokens (fewer than T) are skipped, so that the cuts fall
        elsewhere in every epoch. Without it none is skipped.
    start : int, default 0
        Batches to leave out at the beginning: where an interrupted walk goes on.
    columns : slice, optional
        Which of the B columns to read and to yield; all without it.

    Yields
    ------
    inputs, targets : ndarrays of shape (T, B)
        Targets are the inputs one step later. What does not fill a window at the end is left out.

    Raises
    ------
    ValueError
        If there are fewer than B*T + 1 tokens; the message says which sizes would work.

    Examples
    --------
    >>> for inputs, targets in sequential_batches(range(13), batch_size=2, num_steps=3):
    ...     print(inputs.T.tolist(), targets.T.tolist())
    [[0, 1, 2], [6, 7, 8]] [[1, 2, 3], [7, 8, 9]]
    [[3, 4, 5], [9, 10, 11]] [[4, 5, 6], [10, 11, 12]]
    """
    sequence, batch_size, num_steps = _checked(tokens, batch_size, num_steps)
    offset = _offset(len(sequence), batch_size * num_steps, num_steps, rng)
    stream_length = (len(sequence) - offset - 1) // batch_size
    first = offset + stream_length * np.arange(batch_size)
    starts = (first + step for step in range(0, stream_length - num_steps + 1, num_steps))
    return _windows(sequence, _from(starts, start), num_steps, columns)


def random_batches(
    tokens: ArrayLike,
    batch_size: int,
    num_steps: int,
    *,
    rng: RandomSource = None,
    start: int = 0,
    columns: slice | None = None,
) -> Iterator[tuple[Array, Array]]:
    """Cut the tokens into windows of T steps and draw them in random order, B at a time.

    Every window is drawn once. Neighbours in a batch, and in two batches that follow each other,
    have nothing to do with each other: start each batch from a fresh state.

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
        The sequence; a `numpy.memmap` is read window by window.
    batch_size : int
        Windows in a batch, B.
    num_steps : int
        Steps in a window, T.
    rng : Generator or int, optional
        Draws the order, and how many of the first tokens (fewer than T) are skipped. Without it
        both differ from call to call.
    start : int, default 0
        Batches to leave out at the beginning: where an interrupted walk goes on.
    columns : slice, optional
        Which of the B columns to read and to yield; all without it.

    Yields
    ------
    inputs, targets : ndarrays of shape (T, B)
        Targets are the inputs one step later. Windows that do not fill a batch are left out.

    Raises
    ------
    ValueError
        If there are fewer than B*T + 1 tokens; the message says which sizes would work.

    Examples
    --------
    >>> for inputs, targets in random_batches(range(14), batch_size=2, num_steps=3, rng=6):
    ...     print(inputs.T.tolist(), targets.T.tolist())
    [[7, 8, 9], [10, 11, 12]] [[8, 9, 10], [11, 12, 13]]
    [[1, 2, 3], [4, 5, 6]] [[2, 3, 4], [5, 6, 7]]
    """
    sequence, batch_size, num_steps = _checked(tokens, batch_size, num_steps)
    rng = check.generator(rng)
    offset = _offset(len(sequence), batch_size * num_steps, num_steps, rng)
    num_windows = (len(sequence) - offset - 1) // num_steps
    starts = (
        offset + num_steps * windows for windows in _random_groups(num_windows, batch_size, rng)
    )
    return _windows(sequence, _from(starts, start), num_steps, columns)


def _from(starts: Iterator[Array], start: int) -> Iterator[Array]:
    """Leave out the first ones, before a token is read."""
    return itertools.islice(starts, check.integer("start", start, minimum=0), None)


def _random_groups(number: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield 0 .. number-1 in random order, so many at a time; what is left over is left out."""
    # Half the memory of int64, which for 10^9 tokens is much.
    small = number <= np.iinfo(np.int32).max
    order = np.arange(number, dtype=np.int32 if small else np.int64)
    rng.shuffle(order)
    for first in range(0, number - size + 1, size):
        yield order[first : first + size].astype(np.int64)


def _windows(
    sequence: Array, starts: Iterator[Array], num_steps: int, columns: slice | None
) -> Iterator[tuple[Array, Array]]:
    """Yield, for each array of B first places, the windows that start there and their targets."""
    steps = np.arange(num_steps + 1)[:, None]  # (T+1, 1)
    for number, first in enumerate(starts):
        if number % 4 == 0:
            let_go(sequence)
        own = first if columns is None else first[columns]
        window = np.asarray(sequence[own + steps])  # (T+1, B)
        yield window[:-1], window[1:].copy()


def let_go(sequence: Array) -> None:
    """Unmap what has been read of a memory map, which would pile up to the size of the file.

    It stays in the system's cache as long as there is room. Only read-only maps are touched.
    """
    mapped: Any = getattr(sequence, "_mmap", None)
    if isinstance(sequence, np.memmap) and sequence.mode == "r" and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def check_ids(name: str, sequence: Array, size: int, size_name: str) -> None:
    """Refuse a sequence that holds anything but integers in 0 .. size-1, block by block."""
    for start in range(0, max(1, len(sequence)), _BLOCK):
        check.index_array(name, sequence[start : start + _BLOCK], size, size_name)
        let_go(sequence)


def _checked(tokens: ArrayLike, batch_size: int, num_steps: int) -> tuple[Array, int, int]:
    batch_size = check.integer("batch_size", batch_size)
    num_steps = check.integer("num_steps", num_steps)
    # A memory map stays one.
    sequence = tokens if isinstance(tokens, np.ndarray) else check.array("tokens", tokens)
    if sequence.dtype.kind not in "iu" and sequence.size:
        raise TypeError(f"tokens must be an array of integers, got dtype {sequence.dtype}")
    check.shape("tokens", sequence, "(N,)", sequence.ndim == 1)
    available = len(sequence) - 1  # the last token is only ever a target
    if available < batch_size * num_steps:
        raise ValueError(too_few_tokens(len(sequence), batch_size, num_steps))
    return sequence, batch_size, num_steps


def too_few_tokens(num_tokens: int, batch_size: int, num_steps: int) -> str:
    """Say how many tokens a batch needs, and which sizes the given number is enough for."""
    available = num_tokens - 1
    needed = batch_size * num_steps + 1
    sentence = (
        f"tokens has {num_tokens}, too few for one batch: batch_size={batch_size} times "
        f"num_steps={num_steps} needs {needed}"
    )
    if available < 1:
        return sentence + "; even batch_size=1 with num_steps=1 needs 2"
    options = []
    if available >= num_steps:
        options.append(f"batch_size={available // num_steps} with num_steps={num_steps}")
    if available >= batch_size:
        options.append(f"num_steps={available // batch_size} with batch_size={batch_size}")
    if not options:
        options.append(f"batch_size=1 with num_steps={available}")
    return sentence + "; the largest that would work: " + ", or ".join(options)


def _offset(num_tokens: int, per_batch: int, num_steps: int, rng: Any) -> int:
    """Draw how many tokens to skip: fewer than T, and never so many that no batch is left."""
    if rng is None:
        return 0
    return int(check.generator(rng).integers(min(num_steps, num_tokens - per_batch)))
