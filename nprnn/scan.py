"""The loop over time: one layer, one direction, any cell.

It meets packed rows (see `packing`), and so knows nothing of padding or direction. It owns the
matrix products; what a step makes of them belongs to a cell (see `cells`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .embedding import sum_by_class

if TYPE_CHECKING:
    from ._validation import Array
    from .cells import Cell
    from .packing import Packing

# The allocator of glibc hands memory back to the system whenever more than twice its largest freed
# block lies idle, and every array of the next step is paid for again, page by page: up to a quarter
# of a training step. Freeing one block, which is never touched, raises the limit to 64 MB for the
# process. Other allocators take no notice.
np.empty(31 << 20, np.uint8)


class Weights(NamedTuple):
    """The parameters of one layer in one direction."""

    ih: Array  # (G*H, in)
    hh: Array  # (G*H, H)
    b_ih: Array | None = None  # (G*H,)
    b_hh: Array | None = None  # (G*H,)


class Run(NamedTuple):
    """What the backward pass of one layer in one direction needs."""

    weights: Weights
    packing: Packing
    x: Array  # (N, in), or (N,) integers
    gates: Array  # (N, G*H), as the cell left them
    kept: Array  # (N, K*H), what else the cell kept
    states: Array  # (S, B + N, H): the initial ones, then those that each row leads to


def scan(
    cell: Cell, weights: Weights, packing: Packing, x: Array, initial: Array
) -> tuple[Array, Array, Run]:
    """Run a cell over all steps: one layer, one direction.

    Parameters
    ----------
    x : ndarray of shape (N, in) or (N,)
        Packed input; integers stand for one-hot rows.
    initial : ndarray of shape (S, B, H), in packed order
        The states before the first step: h, and what else the cell has.

    Returns
    -------
    output : ndarray of shape (N, H), packed
        A view of the states that the run holds.
    final : ndarray of shape (S, B, H), in packed order
    run : Run
        For `scan_backward`.
    """
    S, B, H = initial.shape
    b_ih, b_hh = weights.b_ih, weights.b_hh
    bias = 0 if b_ih is None or b_hh is None else cell.input_bias(b_ih, b_hh)
    gates = project(x, weights.ih, bias)  # (N, G*H)
    dtype = np.result_type(gates, initial)
    gates = gates.astype(dtype, copy=False)
    N = len(gates)
    kept = np.empty((N, cell.num_kept * H), dtype)
    cell.keep(kept, b_hh)
    states = np.empty((S, B + N, H), dtype)
    states[:, :B] = initial
    W = weights.hh.T.astype(dtype, copy=False)  # (H, G*H)
    hidden = packing.scratch(np.empty((B, W.shape[1]), dtype))
    before = zip(*map(packing.heads, states), strict=True)
    after = zip(*map(packing.steps, states[:, B:]), strict=True)
    steps = zip(packing.steps(gates), hidden, packing.steps(kept), before, after, strict=True)
    for gates_t, hidden_t, kept_t, before_t, after_t in steps:
        np.dot(before_t[0], W, out=hidden_t)  # W_hh h_(t-1)
        cell.forward(gates_t, hidden_t, kept_t, before_t, after_t)
    run = Run(weights, packing, x, gates, kept, states)
    return states[0, B:], packing.final_state(states), run


def scan_backward(
    cell: Cell, run: Run, d_output: Array, d_final: Array
) -> tuple[Array | None, Array, Weights]:
    """Backpropagate through time: one layer, one direction.

    What reaches h_t is the gradient of its own output plus what step t+1 sends back through W_hh,

        d_h_t = d_output_t + W_hhᵀ d_a_(t+1),    d_a_t = f'(a_t) d_h_t,

    which is linear in d_h. So f' is computed for all steps before the loop, and the gradients of
    the weights, sums over all steps, are one product each after it.

    Parameters
    ----------
    run : Run
        From `scan`.
    d_output : ndarray of shape (N, H), packed
    d_final : ndarray of shape (S, B, H), in packed order
        Overwritten.

    Returns
    -------
    d_x : ndarray of shape (N, in), packed; None for integer input
    d_initial : ndarray of shape (S, B, H), in packed order
    grads : Weights
    """
    weights, packing, x, gates, kept, states = run
    B, dtype = d_final.shape[1], d_final.dtype
    before = [packing.states_before(every) for every in states]  # (N, H) each
    after = [every[B:] for every in states]
    d_gates, *factors = (
        factor.astype(dtype, copy=False)
        for factor in cell.local_derivatives(gates, kept, before, after)
    )  # f'(a), which the loop makes d_a
    d_hidden = cell.hidden_side(d_gates)  # (N, G*H)
    W = weights.hh.astype(dtype, copy=False)  # (G*H, H)
    carried = d_final[0]  # (B, H), what reaches h from later steps
    d_states = d_final.copy()  # (S, B, H), of the states after a step
    arrays = [d_output, d_gates, d_hidden, *factors]
    steps = zip(
        packing.scratch(carried),
        zip(*map(packing.scratch, d_states), strict=True),
        *map(packing.steps, arrays),
        strict=True,
    )
    for carried_t, d_states_t, d_output_t, d_gates_t, d_hidden_t, *factors_t in reversed(
        list(steps)
    ):
        d_h_t = d_states_t[0]
        np.add(carried_t, d_output_t, out=d_h_t)
        cell.backward(d_states_t, d_gates_t, factors_t)
        np.dot(d_hidden_t, W, out=carried_t)
        if cell.passes_on:
            np.add(carried_t, d_h_t, out=carried_t)
    d_states[0] = carried

    d_input = cell.input_side(d_gates)  # (N, G*H)
    d_W_ih, d_x = project_backward(x, weights.ih, d_input)
    d_W_hh = d_hidden.T @ before[0]  # (G*H, H)
    if weights.b_ih is None:
        return d_x, d_states, Weights(d_W_ih, d_W_hh)
    ones = np.ones(len(x), dtype)  # (N,), sums over all steps
    return d_x, d_states, Weights(d_W_ih, d_W_hh, ones @ d_input, ones @ d_hidden)


def project(x: Array, W_ih: Array, bias: Array | float) -> Array:
    """Return the input's half of all gates at once, W_ih x + b, (N, G*H)."""
    if x.ndim > 1:
        return x @ W_ih.T + bias
    if len(x) < W_ih.shape[1]:
        return W_ih.T[x] + bias
    # W_ih times a one-hot vector is a column of W_ih: add the bias to each column once, and gather.
    return np.add(W_ih.T, bias, order="C").take(x, axis=0)


def project_backward(x: Array, W_ih: Array, d_gates: Array) -> tuple[Array, Array | None]:
    """Return the gradients of W_ih, (G*H, in), and of the input, (N, in); None for integers."""
    if x.ndim > 1:
        return d_gates.T @ x, d_gates @ W_ih
    # Column v of W_ih has met the rows whose input is v.
    return np.ascontiguousarray(sum_by_class(d_gates, x, W_ih.shape[1]).T), None
