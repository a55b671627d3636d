"""Where the numbers of a batch of sequences lie while the loop runs over them.

A grid (T, B, ·) holds a batch of sequences side by side, padded to the longest. The loop meets one
step after the other: an array (·, n), a column for each of its n sequences. `Dense` and `Ragged`
tell how: the first where all sequences have the same length, the second where they have not. Both
have the same methods, so that the loop knows nothing of padding or direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .blas import Product, for_columns, product
from .layout import as_rows, empty, turned

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from ._validation import Array

    Packing = Any  # Dense | Ragged
    Transitions = tuple[list[tuple[Array, ...]], list[tuple[Array, ...]]]


def packing(T: int, B: int, lengths: Array | None, reverse: bool) -> Packing:
    """Return how the loop meets a grid (T, B); `lengths`, (B,), are all T if they are None."""
    if lengths is None or (lengths == T).all():
        return Dense(T, B, reverse)
    return Ragged(T, B, lengths, reverse)


class Dense:
    """Sequences of one length: an array of all steps is (T, ·, B).

    The sequences last, because BLAS multiplies a W by the n columns of a narrow matrix up to twice
    as fast as the n rows of a low one by Wᵀ, and because each gate of a step is then one piece of
    memory.

    Parameters
    ----------
    T, B : int
        Shape of the grid.
    reverse : bool
        Whether each sequence is read from its last step to its first.
    """

    def __init__(self, T: int, B: int, reverse: bool) -> None:
        self.T, self.B, self.reverse = T, B, reverse

    def enter(self, grid: Array) -> Array:
        """Return the input, (T, B, ...), in the order in which it is read: a view, if BLAS can."""
        if grid.itemsize not in grid.strides[1:]:
            grid = np.ascontiguousarray(grid)
        return grid[::-1] if self.reverse else grid

    def arrange(self, grid: Array) -> Array:
        """Return an array (T, B, ·) of the caller's, in the order and layout of the loop."""
        return np.ascontiguousarray(turned(grid[::-1] if self.reverse else grid))

    def leave(self, array: Array) -> Array:
        """Return sequences (T, B, ·) in the order of the caller, a view."""
        return array[::-1] if self.reverse else array

    def enter_state(self, state: Array) -> Array:
        """Return states (..., B, H) in the order of the loop."""
        return state

    def leave_state(self, state: Array) -> Array:
        """Return states (..., B, H) in the order of the caller."""
        return state

    def empty(self, width: int, dtype: DTypeLike) -> Array:
        """Return a new array of all steps, (T, width, B)."""
        return empty((self.T, width, self.B), dtype)

    def empty_step(self, number: int, width: int, dtype: DTypeLike) -> Array:
        """Return as many new arrays for what all sequences have in turn, (number, width, B)."""
        return empty((number, width, self.B), dtype)

    def empty_states(self, initial: Array) -> Array:
        """Return room for all states, (S, T+1, H, B), that begins with the initial ones."""
        S, H, B = initial.shape
        states = empty((S, self.T + 1, H, B), initial.dtype)
        states[:, 0] = initial
        return states

    def before(self, states: Array) -> Array:
        """Return the state that each step comes from, of the states of one kind, (T+1, H, B)."""
        return states[:-1]

    def after(self, states: Array) -> Array:
        """Return the state that each step leads to, of the states of one kind, (T+1, H, B)."""
        return states[1:]

    def final(self, states: Array) -> Array:
        """Return the states after the last steps, (S, H, B)."""
        return states[:, -1]

    def steps(self, array: Array) -> list[Array]:
        """Return one view a step of an array of all steps."""
        return list(array) if array.size else [array[0]] * self.T

    def transitions(self, states: Array) -> Transitions:
        """Return, for each step, views of the states that it comes from, and of those it leads to.

        Each a tuple of one view a kind, of states (S, T+1, H, B).
        """
        places = list(zip(*map(list, states), strict=True))
        return places[:-1], places[1:]

    def scratch(self, array: Array) -> list[Array]:
        """Return, for each step, the part of (·, B) whose sequences are running: all of it."""
        return [array] * self.T

    def product(self, W: Array, out: Array) -> Product:
        """Return how to multiply W, or a transpose, by a step's columns into `out`, (·, B)."""
        return product(W, out, self.T)

    def rows(self, array: Array) -> Array:
        """Return sequences (T, B, ·) as a matrix (N, ·)."""
        return as_rows(array)

    def from_rows(self, rows: Array) -> Array:
        """Return a matrix (N, ·) as sequences (T, B, ·), a view."""
        return rows.reshape(self.T, self.B, rows.shape[1])


class Ragged:
    """Sequences of different lengths: an array of all steps holds the valid ones only, (·, N).

    First every sequence's first step, then every second one, and so on, the longest sequence
    first. So at step t the first `sizes[t]` columns of a state are still running, `sizes` never
    grows, and the previous states of a step are always the head of the block before. The reverse
    direction reads each sequence from its own end. In memory a column is one piece: the steps,
    whose numbers of columns differ, then are so too.

    Parameters
    ----------
    T, B : int
        Shape of the grid.
    lengths : ndarray of int, shape (B,)
        Valid steps of each sequence.
    reverse : bool
        Whether each sequence is read from its last valid step to its first.

    Attributes
    ----------
    sizes : list of int
        Sequences still running at each step, never growing.
    N : int
        Number of valid steps, Σ sizes.
    """

    def __init__(self, T: int, B: int, lengths: Array, reverse: bool) -> None:
        self.T, self.B = T, B
        self.order = np.argsort(-lengths, kind="stable")  # (B,) sequences by falling length
        falling = lengths[self.order]
        running = np.arange(T)[:, None] < falling  # (T, B)
        t, b = np.nonzero(running)  # (N,) each
        self.sizes = [n for n in running.sum(axis=1).tolist() if n]
        self.N = len(t)
        # Places in the flattened grid.
        self.places = (falling[b] - 1 - t if reverse else t) * B + self.order[b]  # (N,)
        # Places in the states of a run, which are the B initial ones and then one a step.
        led_to = np.arange(self.N) + B  # the state that a step leads to
        starts = np.cumsum([0, *self.sizes])
        self.come_from = led_to - np.array([B, *self.sizes])[t]  # (N,)
        self.last = np.where(falling > 0, starts[falling - 1] + B, 0) + np.arange(B)  # (B,)

    def enter(self, grid: Array) -> Array:
        """Return the valid steps of a grid (T, B, ...), (N, ...), C-contiguous."""
        flat = np.ascontiguousarray(grid.reshape(self.T * self.B, *grid.shape[2:]))
        return flat.take(self.places, axis=0)

    def arrange(self, grid: Array) -> Array:
        """Return the valid steps of a grid (T, B, ·) as columns (·, N)."""
        return self.enter(grid).T

    def leave(self, array: Array) -> Array:
        """Return valid steps (N, ·) as a grid (T, B, ·), 0 where there is none."""
        flat = np.zeros((self.T * self.B, *array.shape[1:]), array.dtype)
        flat[self.places] = array
        return flat.reshape(self.T, self.B, *array.shape[1:])

    def enter_state(self, state: Array) -> Array:
        """Return states (..., B, H) with the longest sequence first."""
        return state.take(self.order, axis=-2)

    def leave_state(self, state: Array) -> Array:
        """Return states (..., B, H) with the sequences where they were."""
        own = np.empty_like(state)
        own[..., self.order, :] = state
        return own

    def empty(self, width: int, dtype: DTypeLike) -> Array:
        """Return a new array of all steps, (width, N)."""
        return empty((self.N, width), dtype).T

    def empty_step(self, number: int, width: int, dtype: DTypeLike) -> Array:
        """Return as many new arrays for what all sequences have in turn, (number, width, B)."""
        return turned(empty((number, self.B, width), dtype))

    def empty_states(self, initial: Array) -> Array:
        """Return room for all states, (S, H, B + N), that begins with the initial ones."""
        S, H, B = initial.shape
        states = turned(empty((S, B + self.N, H), initial.dtype))
        states[..., :B] = initial
        return states

    def before(self, states: Array) -> Array:
        """Return the state that each step comes from, (H, N), of one kind, (H, B + N)."""
        come_from: Array = states.T.take(self.come_from, axis=0).T
        return come_from

    def after(self, states: Array) -> Array:
        """Return the state that each step leads to, (H, N), of one kind, (H, B + N)."""
        return states[:, self.B :]

    def final(self, states: Array) -> Array:
        """Return the states after the last steps, (S, H, B)."""
        return states.take(self.last, axis=2)

    def steps(self, array: Array) -> list[Array]:
        """Return one view a step of an array of all steps, (·, N)."""
        ends = np.cumsum(self.sizes).tolist()
        return [array[:, end - n : end] for n, end in zip(self.sizes, ends, strict=True)]

    def transitions(self, states: Array) -> Transitions:
        """Return, for each step, views of the states that it comes from, and of those it leads to.

        Each a tuple of one view a kind, of states (S, H, B + N).
        """
        starts = np.cumsum([0, self.B, *self.sizes]).tolist()
        before, after = (
            [
                tuple(states[..., start : start + n])
                for n, start in zip(self.sizes, of, strict=False)
            ]
            for of in (starts, starts[1:])
        )
        return before, after

    def scratch(self, array: Array) -> list[Array]:
        """Return, for each step, the part of (·, B) whose sequences are running."""
        return [array[:, :n] for n in self.sizes]

    def product(self, W: Array, out: Array) -> Product:
        """Return how to multiply W, or a transpose, by a step's columns into a part of `out`."""
        return Product(_product_and_copy, for_columns(W, self.B, self.T), out)

    def rows(self, array: Array) -> Array:
        """Return valid steps (N, ·) as a matrix."""
        return array

    def from_rows(self, rows: Array) -> Array:
        """Return a matrix (N, ·) as valid steps."""
        return rows


def _product_and_copy(W: Array, columns: Array, out: Array) -> None:
    """Write W columns into `out`, where a column is one piece of memory.

    BLAS takes half the time if it may write row by row, and the cell less if it meets one order
    only: so there is a copy.
    """
    out[...] = np.matmul(W, columns).reshape(out.shape)
