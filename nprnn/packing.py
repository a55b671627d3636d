"""Padded grids and packed rows.

A grid (T, B, ...) holds a batch of sequences side by side, padded to the longest. Packed rows
(N, ...) are its valid steps only: first every sequence's first step, then every second one, and so
on, the longest sequence first. So at step t the first `sizes[t]` rows of a state are still running,
`sizes` never grows, and the previous states of a step are always the head of the block before. The
reverse direction is a packing that reads each sequence from its own end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ._validation import Array


class Packing:
    """The order in which the loop meets the valid steps of a grid (T, B).

    Parameters
    ----------
    T, B : int
        Shape of the grid.
    lengths : ndarray of int, shape (B,), optional
        Valid steps of each sequence; all T without it.
    reverse : bool
        Whether each sequence is read from its last valid step to its first.

    Attributes
    ----------
    sizes : list of int
        Sequences still running at each step, never growing.
    N : int
        Number of valid steps, Σ sizes.
    """

    def __init__(self, T: int, B: int, lengths: Array | None, reverse: bool) -> None:
        self.T, self.B = T, B
        self.rows: Array | None = None  # (N,) places in the flattened grid; None: it as it is
        self.order: Array | None = None  # (B,) sequences by falling length; None: as they are
        if lengths is None:
            self.sizes, self.N = [B] * T, T * B
            if reverse:
                self.rows = np.arange(T * B).reshape(T, B)[::-1].ravel()
            return
        self.order = np.argsort(-lengths, kind="stable")
        falling = lengths[self.order]
        running = np.arange(T)[:, None] < falling  # (T, B)
        t, b = np.nonzero(running)  # (N,) each
        self.sizes = [n for n in running.sum(axis=1).tolist() if n]
        self.N = len(t)
        self.rows = (falling[b] - 1 - t if reverse else t) * B + self.order[b]
        # Places in the states of a run, which are the B initial ones and then one a row.
        after = np.arange(self.N) + B  # the state that a row leads to
        starts = np.cumsum([0, *self.sizes])
        self.before = after - np.array([B, *self.sizes])[t]  # (N,), the state that it comes from
        self.last = np.where(falling > 0, starts[falling - 1] + B, 0) + np.arange(B)  # (B,)

    def pack(self, grid: Array) -> Array:
        """Return the valid steps of a grid (T, B, ...) as rows (N, ...), C-contiguous."""
        flat = np.ascontiguousarray(grid.reshape(self.T * self.B, *grid.shape[2:]))
        return flat if self.rows is None else flat.take(self.rows, axis=0)

    def unpack(self, packed: Array) -> Array:
        """Return the grid (T, B, ...) of the rows (N, ...), 0 where there is no valid step."""
        flat = packed
        if self.rows is not None:
            flat = np.zeros((self.T * self.B, *packed.shape[1:]), packed.dtype)
            flat[self.rows] = packed
        return flat.reshape(self.T, self.B, *packed.shape[1:])

    def pack_state(self, state: Array) -> Array:
        """Return states (..., B, H) with the longest sequence first; as they are if they are so."""
        return state if self.order is None else state.take(self.order, axis=-2)

    def unpack_state(self, packed: Array) -> Array:
        """Return states (..., B, H) with the sequences where they were."""
        if self.order is None:
            return packed
        state = np.empty_like(packed)
        state[..., self.order, :] = packed
        return state

    def states_before(self, states: Array) -> Array:
        """Return the state before each row, (N, H), from all states of a run, (B + N, H)."""
        return states[: self.N] if self.order is None else states.take(self.before, axis=0)

    def final_state(self, states: Array) -> Array:
        """Return the states after the last steps, (S, B, H), from all of a run, (S, B + N, H)."""
        return states[:, self.N :] if self.order is None else states.take(self.last, axis=1)

    def steps(self, packed: Array) -> list[Array]:
        """Return one view a step of the rows (N, ...)."""
        if self.order is None:
            return list(packed.reshape(self.T, self.B, *packed.shape[1:]))
        ends = np.cumsum(self.sizes).tolist()
        return [packed[end - n : end] for n, end in zip(self.sizes, ends, strict=True)]

    def heads(self, states: Array) -> list[Array]:
        """Return, for each step, a view of the states that it comes from, of (B + N, H)."""
        if self.order is None:
            return self.steps(states[: self.N])
        starts = np.cumsum([0, self.B, *self.sizes]).tolist()
        return [states[start : start + n] for n, start in zip(self.sizes, starts, strict=False)]

    def scratch(self, array: Array) -> list[Array]:
        """Return, for each step, a view of the rows of (B, ...) whose sequences are running."""
        if self.order is None:
            return [array] * self.T
        return [array[:n] for n in self.sizes]
