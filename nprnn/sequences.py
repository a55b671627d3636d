"""Batches of sequences of different lengths: padding them, taking them apart, the last steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array


def pad_sequences(
    sequences: Sequence[ArrayLike], *, batch_first: bool = False
) -> tuple[Array, Array]:
    """Lay sequences of different lengths side by side, with zeros after their ends.

    Parameters
    ----------
    sequences : sequence of B array_likes, each of shape (its length, ...)
        Of one dtype and, but for the length, of one shape. A length may be 0.
    batch_first : bool, default False
        Whether the result is (B, T, ...) rather than (T, B, ...).

    Returns
    -------
    padded : ndarray of shape (T, B, ...)
        T is the largest length.
    lengths : ndarray of int, shape (B,)

    Examples
    --------
    >>> padded, lengths = pad_sequences([[1, 2, 3], [4]])
    >>> padded.T, lengths
    (array([[1, 2, 3],
           [4, 0, 0]]), array([3, 1]))
    """
    arrays = [check.array(f"sequences[{b}]", sequence) for b, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("sequences must hold at least one sequence, got none")
    # Of what the empty list is a list, the others know.
    first = next((array for array in arrays if array.size), arrays[0])
    for b, array in enumerate(arrays):
        same = array.ndim == first.ndim and array.shape[1:] == first.shape[1:]
        if first.ndim == 0 or not (same or array.shape == (0,)):
            sizes = "".join(f", {size}" for size in first.shape[1:]) or ","
            raise ValueError(f"sequences[{b}] must have shape (length{sizes}); got {array.shape}")
        if array.size and array.dtype != first.dtype:
            raise TypeError(f"sequences[{b}] must be {first.dtype} like the others: {array.dtype}")
    lengths = np.array([len(array) for array in arrays])
    padded = np.zeros((len(arrays), lengths.max(), *first.shape[1:]), first.dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array.reshape(len(array), *first.shape[1:])
    return (padded if batch_first else np.ascontiguousarray(padded.swapaxes(0, 1))), lengths


def unpad_sequences(
    padded: ArrayLike, lengths: ArrayLike, *, batch_first: bool = False
) -> list[Array]:
    """Take a padded batch apart: the inverse of `pad_sequences`.

    Parameters
    ----------
    padded : array_like of shape (T, B, ...)
        With `batch_first` (B, T, ...).
    lengths : array_like of int, shape (B,)

    Returns
    -------
    list of B ndarrays, each of shape (its length, ...)
        Copies.
    """
    grid = check.array("padded", padded)
    check.shape("padded", grid, "(T, B, ...)", grid.ndim >= 2)
    rows = grid if batch_first else grid.swapaxes(0, 1)
    sizes = check.lengths("lengths", lengths, rows.shape[1], rows.shape[0])
    return [row[:size].copy() for row, size in zip(rows, sizes.tolist(), strict=True)]


def last_output(
    output: ArrayLike,
    lengths: ArrayLike | None = None,
    bidirectional: bool = False,
    *,
    batch_first: bool = False,
) -> Array:
    """Return what each direction puts out after it has read its whole sequence.

    For the forward direction that is the last valid step. For the reverse direction it is the first
    step: at the last one it has read a single item, which is why `output[-1]` is a trap twice.

    Parameters
    ----------
    output : array_like of shape (T, B, D*H)
        Of a recurrent layer. With `batch_first` (B, T, D*H).
    lengths : array_like of int, shape (B,), optional
        Valid steps of each sequence; all T without it.
    bidirectional : bool, default False
        Whether the second half of the last axis is the reverse direction.

    Returns
    -------
    ndarray of shape (B, D*H)
        0 for a sequence of length 0.

    Examples
    --------
    >>> import nprnn
    >>> layer = nprnn.RNN(2, 3, bidirectional=True, rng=0)
    >>> x, lengths = nprnn.pad_sequences([np.ones((4, 2), "f"), np.ones((2, 2), "f")])
    >>> output, state = layer(x, lengths=lengths)
    >>> bool((last_output(output, lengths, bidirectional=True) == np.hstack(state)).all())
    True
    """
    grid = check.float_array("output", output)
    check.shape("output", grid, "(T, B, D*H)", grid.ndim == 3)
    grid = grid.swapaxes(0, 1) if batch_first else grid
    T, B, width = grid.shape
    if check.flag("bidirectional", bidirectional) and width % 2:
        raise ValueError(f"output must have an even last axis for two directions, got {width}")
    if T == 0:
        raise ValueError(f"output must have at least one time step; got shape {grid.shape}")
    sizes = np.full(B, T) if lengths is None else check.lengths("lengths", lengths, T, B)
    forward = width // 2 if bidirectional else width
    last = np.empty((B, width), grid.dtype)
    last[:, :forward] = grid[np.maximum(sizes, 1) - 1, np.arange(B), :forward]
    last[:, forward:] = grid[0, :, forward:]
    last[sizes == 0] = 0
    return last
