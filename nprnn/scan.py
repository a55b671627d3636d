"""The loop over time: one layer, one direction, any cell.

It meets packed rows (see `packing`), and so knows nothing of padding or direction. It owns the
matrix products; what a step makes of them belongs to a cell (see `cells`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ._validation import Array
    from .cells import VanillaCell
    from .packing import Packing

# The allocator of glibc hands memory back to the system whenever more than twice its largest freed
# block lies idle, and every array of the next step is paid for again, page by page: up to a quarter
# of a training step. Freeing one block, which is never touched, raises the limit to 64 MB for the
# process. Other allocators take no notice.
np.empty(31 << 20, np.uint8)

# Up to about this many classes a product with one-hot rows takes less time than sorting.
_ONE_HOT_LIMIT = 100


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
    states: Array  # (B + N, H): the initial ones, then the one that each row leads to


def scan(
    cell: VanillaCell, weights: Weights, packing: Packing, x: Array, h_0: Array
) -> tuple[Array, Array, Run]:
    """Run a cell over all steps: one layer, one direction.

    Parameters
    ----------
    x : ndarray of shape (N, in) or (N,)
        Packed input; integers stand for one-hot rows.
    h_0 : ndarray of shape (B, H), in packed order

    Returns
    -------
    output : ndarray of shape (N, H), packed
        A view of the states that the run holds.
    h_T : ndarray of shape (B, H), in packed order
    run : Run
        For `scan_backward`.
    """
    B, H = h_0.shape
    gates = project(x, weights)  # (N, G*H)
    dtype = np.result_type(gates, h_0)
    states = np.empty((B + len(x), H), dtype)
    states[:B] = h_0
    before, after = states[:B], packing.steps(states[B:])
    W = weights.hh.T.astype(dtype, copy=False)  # (H, G*H)
    hidden = np.empty((B, W.shape[1]), dtype)
    for gates_t, h_next in zip(packing.steps(gates), after, strict=True):
        n = len(h_next)
        hidden_t = np.dot(before[:n], W, out=hidden[:n])  # W_hh h_(t-1)
        cell.forward(gates_t, hidden_t, h_next)
        before = h_next
    return states[B:], packing.final_state(states), Run(weights, packing, x, states)


def scan_backward(
    cell: VanillaCell, run: Run, d_output: Array, d_h_T: Array
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
    d_h_T : ndarray of shape (B, H), in packed order
        Overwritten.

    Returns
    -------
    d_x : ndarray of shape (N, in), packed; None for integer input
    d_h_0 : ndarray of shape (B, H), in packed order
    grads : Weights
    """
    weights, packing, x, states = run
    h = states[len(d_h_T) :]
    d_h = d_h_T
    d_gates = cell.local_derivatives(h)  # (N, G*H), f'(a) until the loop makes it d_a
    d_gates = d_gates.astype(d_h.dtype, copy=False)
    W = weights.hh.astype(d_h.dtype, copy=False)  # (G*H, H)
    steps = zip(packing.steps(d_gates), packing.steps(d_output), strict=True)
    for d_gates_t, d_output_t in reversed(list(steps)):
        d_h_t = d_h[: len(d_output_t)]
        np.add(d_h_t, d_output_t, out=d_h_t)
        cell.backward(d_h_t, d_gates_t)
        np.dot(d_gates_t, W, out=d_h_t)

    d_W_ih, d_x = project_backward(x, weights, d_gates)
    d_W_hh = d_gates.T @ packing.states_before(states)  # (G*H, H)
    if weights.b_ih is None:
        return d_x, d_h, Weights(d_W_ih, d_W_hh)
    d_b = np.ones(len(d_gates), d_gates.dtype) @ d_gates  # (G*H,), the sum over all steps
    return d_x, d_h, Weights(d_W_ih, d_W_hh, d_b, d_b.copy())


def project(x: Array, weights: Weights) -> Array:
    """Return the input's half of all gates at once, W_ih x + b_ih + b_hh, (N, G*H)."""
    bias = 0 if weights.b_ih is None else weights.b_ih + weights.b_hh
    if x.ndim > 1:
        return x @ weights.ih.T + bias
    if len(x) < weights.ih.shape[1]:
        return weights.ih.T[x] + bias
    # W_ih times a one-hot vector is a column of W_ih: add the bias to each column once, and gather.
    return np.add(weights.ih.T, bias, order="C").take(x, axis=0)


def project_backward(x: Array, weights: Weights, d_gates: Array) -> tuple[Array, Array | None]:
    """Return the gradients of W_ih, (G*H, in), and of the input, (N, in); None for integers."""
    if x.ndim > 1:
        return d_gates.T @ x, d_gates @ weights.ih
    num_classes = weights.ih.shape[1]
    if num_classes <= _ONE_HOT_LIMIT:
        rows = np.zeros((len(x), num_classes), d_gates.dtype)
        rows[np.arange(len(x)), x] = 1
        return d_gates.T @ rows, None
    # Column v is the sum of the rows whose input is v: sort them by input, and add each group up.
    order = np.argsort(x, kind="stable")
    inputs = x[order]
    starts = np.flatnonzero(np.diff(inputs, prepend=-1))
    d_W = np.zeros((num_classes, d_gates.shape[1]), d_gates.dtype)
    d_W[inputs[starts]] = np.add.reduceat(d_gates[order], starts, axis=0)
    return np.ascontiguousarray(d_W.T), None
