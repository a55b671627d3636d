"""The loop over time: one layer, one direction, any cell.

What lies where is told by `packing`, so that it knows nothing of padding or direction. It owns the
matrix products; what a step makes of them belongs to a cell (see `cells`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .blas import multiply_steps
from .embedding import sum_by_class
from .layout import column_sums, empty, multiply_rows, rows_product, taller, turned

if TYPE_CHECKING:
    from ._validation import Array
    from .cells import Cell
    from .packing import Packing

# Up to so many classes the product with one-hot vectors takes half the time of gathering.
_FEW = 32

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
    x: Array  # of all steps, as they are read; integers stand for one-hot vectors
    gates: Array  # of all steps, as the cell left them; below them is ...
    kept: Array  # ... what else it kept
    states: Array  # (S, ...): the initial ones, then those that each step leads to

    def copied(self) -> Run:
        """Return a run whose gates, and what lies below them, can be overwritten."""
        gates = taller(self.gates)
        gates[...] = self.gates
        return self._replace(gates=gates, kept=gates[..., len(self.weights.hh) :, :])


def scan(
    cell: Cell, weights: Weights, packing: Packing, x: Array, initial: Array
) -> tuple[Array, Array, Run]:
    """Run a cell over all steps: one layer, one direction.

    Parameters
    ----------
    x : ndarray
        Input of all steps, (T, B, in) or (N, in); or integers, (T, B) or (N,), for one-hot vectors.
    initial : ndarray of shape (S, B, H), in the order of the packing
        The states before the first step: h, and what else the cell has.

    Returns
    -------
    output : ndarray
        h of all steps, a view of the states that the run holds.
    final : ndarray of shape (S, B, H), in the order of the packing
    run : Run
        For `scan_backward`.
    """
    H = initial.shape[2]
    b_ih, b_hh = weights.b_ih, weights.b_hh
    bias = None if b_ih is None or b_hh is None else cell.input_bias(b_ih, b_hh)
    dtype = np.result_type(initial, weights.hh, *([] if x.dtype.kind in "iu" else [x]))
    W = weights.hh.astype(dtype, copy=False)  # (G*H, H)
    states = packing.empty_states(turned(initial).astype(dtype, copy=False))
    output = packing.after(states[0])
    inside = output if cell.in_place else packing.empty(len(W) + cell.num_kept * H, dtype)
    gates, kept = inside[..., : len(W), :], inside[..., len(W) :, :]
    project(packing, x, weights.ih, bias, out=turned(gates))
    cell.keep(kept, b_hh)
    hidden = packing.empty_step(1, len(W), dtype)[0]
    forward, (multiply, W, products) = cell.forward, packing.product(W, hidden)
    before, after = packing.transitions(states)
    # The same views where gates and states are the same: NumPy adds faster than to others' memory.
    gate_steps = [after_t[0] for after_t in after] if cell.in_place else packing.steps(gates)
    steps = zip(
        gate_steps,
        packing.scratch(hidden),
        packing.scratch(products),
        packing.steps(kept),
        before,
        after,
        strict=True,
    )
    for gates_t, hidden_t, product_t, kept_t, before_t, after_t in steps:
        multiply(W, before_t[0], product_t)  # W_hh h_(t-1), which `hidden_t` is then
        forward(gates_t, hidden_t, kept_t, before_t, after_t)
    run = Run(weights, packing, x, inside, kept, states)
    return turned(output), turned(packing.final(states)), run


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
        From `scan`. Its gates, and what lies below them, are overwritten: it serves once.
    d_output : ndarray
        Of all steps, as the packing arranges them.
    d_final : ndarray of shape (S, B, H), in the order of the packing

    Returns
    -------
    d_x : ndarray
        Of all steps; None for integer input.
    d_initial : ndarray of shape (S, B, H), in the order of the packing
    grads : Weights
    """
    weights, packing, x, _, _, states = run
    d_gates, d_initial = _loop_backward(cell, run, d_output, d_final)
    columns = packing.rows(turned(d_gates)).T  # (·, N)
    del d_gates  # which may be as large as everything else together
    hidden_side = cell.hidden_side(columns)  # (G*H, N)
    before = packing.rows(turned(packing.before(states[0])))
    d_W_hh = rows_product(hidden_side.T, before)  # (G*H, H)
    d_b_ih = d_b_hh = None if weights.b_hh is None else column_sums(hidden_side.T)
    input_side = cell.input_side(columns)  # (G*H, N), perhaps where the hidden one was
    if d_b_hh is not None:
        d_b_ih = d_b_hh.copy() if input_side is hidden_side else column_sums(input_side.T)
    d_W_ih, d_x = project_backward(packing, x, weights.ih, input_side.T)
    return d_x, d_initial, Weights(d_W_ih, d_W_hh, d_b_ih, d_b_hh)


def _loop_backward(cell: Cell, run: Run, d_output: Array, d_final: Array) -> tuple[Array, Array]:
    """Return the gradients of the gates at all steps, and of the initial states, (S, B, H)."""
    weights, packing, _, gates, kept, states = run
    (S, _, H), dtype = d_final.shape, d_final.dtype
    before = [packing.before(every) for every in states]
    after = [packing.after(every) for every in states]
    d_gates, *factors = (
        factor.astype(dtype, copy=False)
        for factor in cell.local_derivatives(gates, kept, before, after)
    )  # f'(a), which the loop makes d_a
    d_states = packing.empty_step(S, H, dtype)  # of the states after a step
    d_states[...] = turned(d_final)
    # What goes through W_hh is all that h gets, or comes on top of what the cell passes on.
    backward, passes_on = cell.backward, cell.passes_on
    through = packing.empty_step(1, H, dtype)[0] if passes_on else d_states[0]
    multiply, W, products = packing.product(weights.hh.astype(dtype, copy=False).T, through)
    d_hidden = cell.hidden_side(d_gates)
    d_gate_steps = packing.steps(d_gates)
    steps = zip(
        packing.scratch(products),
        packing.scratch(through),
        zip(*map(packing.scratch, d_states), strict=True),
        packing.steps(d_output),
        d_gate_steps,
        d_gate_steps if d_hidden is d_gates else packing.steps(d_hidden),
        zip(*map(packing.steps, factors), strict=True) if factors else [()] * len(d_gate_steps),
        strict=True,
    )
    for product_t, through_t, d_states_t, d_output_t, d_gates_t, d_hidden_t, factors_t in reversed(
        list(steps)
    ):
        d_h_t = d_states_t[0]
        np.add(d_h_t, d_output_t, d_h_t)
        backward(d_states_t, d_gates_t, factors_t)
        multiply(W, d_hidden_t, product_t)  # W_hhᵀ d_a_t, which `through_t` is then
        if passes_on:
            np.add(d_h_t, through_t, d_h_t)
    return d_gates, turned(d_states)


def project(packing: Packing, x: Array, W_ih: Array, bias: Array | None, out: Array) -> None:
    """Write the input's half of all gates, W_ih x + b, of all steps."""
    if x.dtype.kind in "iu":
        _project_one_hot(x, W_ih, bias, out)
        return
    if _in_rows(out):
        np.matmul(packing.rows(x), W_ih.T, out=out.reshape(-1, len(W_ih)))
    elif x.ndim == 2 or not multiply_steps(W_ih, turned(x), turned(out)):
        np.matmul(x, W_ih.T, out=out)
    if bias is not None:
        tiled = np.empty_like(out[:1])  # in the layout of a step: added in one go
        tiled[...] = bias
        np.add(out, tiled, out=out)


def _in_rows(out: Array) -> bool:
    """Whether the gates of a sequence's step lie in one piece: one sequence, or `Ragged` ones."""
    return out.ndim == 2 or out.shape[1] == 1


def _project_one_hot(x: Array, W_ih: Array, bias: Array | None, out: Array) -> None:
    """Write W_ih x + b for one-hot vectors: each is a column of W_ih, and the bias."""
    if x.size < W_ih.shape[1]:
        np.add(W_ih.T.take(x, axis=0), 0 if bias is None else bias, out=out)
        return
    columns = W_ih if bias is None else W_ih + bias[:, None]  # (G*H, V)
    if _in_rows(out) or out.dtype != columns.dtype:
        out[...] = columns.T.take(x, axis=0)
    elif columns.shape[1] <= _FEW and np.isfinite(columns).all():  # 0 times a NaN is a NaN
        T, B = x.shape
        one_hot = empty((T, columns.shape[1], B), out.dtype)
        one_hot[...] = 0
        one_hot[np.arange(T)[:, None], x, np.arange(B)] = 1
        if not multiply_steps(columns, one_hot, turned(out)):
            np.matmul(columns, one_hot, out=turned(out))
    else:
        for x_t, out_t in zip(x, out, strict=True):
            columns.take(x_t, axis=1, out=out_t.T, mode="clip")


def project_backward(
    packing: Packing, x: Array, W_ih: Array, rows: Array
) -> tuple[Array, Array | None]:
    """Return the gradients of W_ih, (G*H, in), and of the input; None for integers.

    `rows`, (N, G*H), are the gradients of all gates' halves from the input.
    """
    if x.dtype.kind in "iu":
        # Column v of W_ih has met the rows whose input is v.
        return sum_by_class(rows, x.ravel(), W_ih.shape[1]), None
    return rows_product(rows, packing.rows(x)), packing.from_rows(multiply_rows(rows, W_ih))
