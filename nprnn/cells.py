"""The mathematics of one time step, and nothing else.

A cell is elementwise. It maps the gates' two halves, computed from the input and from the previous
state, to the next state, and gradients of the next state to gradients of the gates. The matrix
products, time, direction, depth and padding belong to `scan` and `recurrent`; whoever adds a cell
writes a class here, and has all of that.

A sequence is a column, as h is in W h: arrays of a step are (·, n), those of n of the B sequences.

Every method works for float32, float64 and complex numbers (the complex step needs the last) and
writes into the arrays that it is given. The last argument of each call of NumPy is where its result
goes: a name, ``out=``, would cost a tenth of a microsecond each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .layout import taller

if TYPE_CHECKING:
    from ._validation import Array


class Activation(NamedTuple):
    """A function f, and its derivative f'(a) written in terms of h = f(a)."""

    apply: Callable[[Array, Array], Any]  # from a into the second array, which may be the same
    derivative: Callable[[Array], Array]


def _one_minus_square(h: Array, out: Array) -> None:
    """Write 1 - h², which is tanh'(a) for h = tanh(a); `out` may be h."""
    np.multiply(h, h, out)
    np.subtract(1, out, out)


def _sigmoid_derivative(s: Array, out: Array) -> None:
    """Write s (1 - s), which is σ'(a) for s = σ(a)."""
    np.subtract(1, s, out)
    np.multiply(out, s, out)


def _tanh_derivative(h: Array) -> Array:
    derivative = taller(h)
    _one_minus_square(h, derivative)
    return derivative


def _relu(a: Array, out: Array) -> None:
    # `a > 0` and not `maximum`: complex numbers branch on the real part.
    np.copyto(out, np.where(a.real <= 0, 0, a))  # a NaN stays a NaN


def _relu_derivative(h: Array) -> Array:
    return (h.real > 0).astype(h.dtype)


ACTIVATIONS = {
    "tanh": Activation(np.tanh, _tanh_derivative),
    "relu": Activation(_relu, _relu_derivative),
}


# As arrays: a call takes a quarter of a microsecond less than with a number of Python's.
_HALVES: dict[Any, Any] = {np.dtype(char): np.array(0.5, char) for char in "fdFD"}


def _sigmoid(a: Array) -> None:
    """1 / (1 + e^-a) = (1 + tanh(a/2)) / 2, which neither overflows nor minds complex numbers."""
    half = _HALVES.get(a.dtype, 0.5)
    np.multiply(a, half, a)
    np.tanh(a, a)
    np.multiply(a, half, a)
    np.add(a, half, a)


class Cell:
    """What the loop over time asks of a cell.

    The gates of all steps are computed from the input before the loop, W_ih x + b; the loop adds to
    each step what the state before it makes of W_hh. Arrays (·, n) are those of one step, a column
    for each of n sequences. Arrays (..., ·, n) are those of all steps, (T, ·, B) or (·, N): index
    and split them along the last axis but one, and leave the others alone.

    A class attribute each: `num_gates`, G; `num_states`, 1 for h, 2 for h and c; `num_kept`, how
    many numbers a unit and step keeps for the backward pass beside gates and states;
    `passes_on`, whether h_(t-1) also reaches h_t on another way than through W_hh; `in_place`, for
    a cell of one gate that keeps nothing else, whether that lies where h does, and is gone when
    `forward` has written h.
    """

    num_gates = 1
    num_states = 1
    num_kept = 0
    passes_on = False
    in_place = False

    def input_bias(self, b_ih: Array, b_hh: Array) -> Array:
        """Return what is added to the input's half of the gates, (G*H,)."""
        return b_ih + b_hh

    def keep(self, kept: Array, b_hh: Array | None) -> None:
        """Prepare the array of what is kept, (..., num_kept*H, n), before the loop."""

    def forward(
        self,
        gates: Array,
        hidden: Array,
        kept: Array,
        before: Sequence[Array],
        after: Sequence[Array],
    ) -> None:
        """Compute the states after a step from those before it, (H, n) each.

        `gates` and `hidden`, (G*H, n), are the halves from the input and from h; both may be
        overwritten, the first with what `local_derivatives` needs.
        """
        raise NotImplementedError

    def local_derivatives(
        self, gates: Any, kept: Array, before: Sequence[Array], after: Sequence[Array]
    ) -> tuple[Array, ...]:
        """Return what `backward` multiplies with, for all steps at once, (..., ·, n) each.

        `gates`, (..., (G + num_kept)*H, n), are those that `forward` left and, below them, `kept`:
        both may be overwritten, if the cell is not `in_place`, and are asked for once. The first
        array returned is the one that `backward` makes the gradient of the gates. All are new, or
        views of `gates`, or of what is not changed.
        """
        raise NotImplementedError

    def backward(self, d_states: Sequence[Array], d_gates: Array, factors: Sequence[Array]) -> None:
        """Turn the gradients of the states after a step into those of the gates.

        `d_gates` and `factors` are a step's part of the local derivatives. Of `d_states`, (H, n)
        each, those other than h's are left as the gradients of the states before the step; h's too
        where the cell passes h on, less what goes through W_hh.
        """
        raise NotImplementedError

    def hidden_side(self, d_gates: Array) -> Array:
        """Return the gradient of the half that comes from h, (..., G*H, n); a view, or the same."""
        return d_gates

    def input_side(self, d_gates: Array) -> Array:
        """Return the gradient of the half that comes from the input, (..., G*H, n).

        Asked for last: what only `hidden_side` returns may be overwritten.
        """
        return d_gates


class VanillaCell(Cell):
    """The simple recurrent cell (Elman 1990): h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Parameters
    ----------
    nonlinearity : {"tanh", "relu"}
        The function f.
    """

    in_place = True  # f' is a function of h

    def __init__(self, nonlinearity: str) -> None:
        self.apply, self.derivative = ACTIVATIONS[nonlinearity]

    def forward(
        self,
        gates: Array,
        hidden: Array,
        kept: Array,
        before: Sequence[Array],
        after: Sequence[Array],
    ) -> None:
        """h_t = f(input half + hidden half)."""
        (h,) = after
        np.add(gates, hidden, h)
        self.apply(h, h)

    def local_derivatives(
        self, gates: Any, kept: Array, before: Sequence[Array], after: Sequence[Array]
    ) -> tuple[Array, ...]:
        """f'(a), in terms of h = f(a)."""
        (h,) = after
        return (self.derivative(h),)

    def backward(self, d_states: Sequence[Array], d_gates: Array, factors: Sequence[Array]) -> None:
        """d_a = f'(a) d_h."""
        (d_h,) = d_states
        np.multiply(d_gates, d_h, d_gates)


class GRUCell(Cell):
    """The gated recurrent unit (Cho et al. 2014), the reset gate applied after the product.

    ::

        r = σ(W_ir x + b_ir + W_hr h + b_hr)            reset
        z = σ(W_iz x + b_iz + W_hz h + b_hz)            update
        n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn))   candidate
        h' = (1 - z) ∘ n + z ∘ h

    So do PyTorch, cuDNN and Keras by default, since the product then is one for all three gates;
    the paper applies r to h before it. The gates stand in the order r, z, n.
    """

    num_gates = 3
    num_kept = 1
    passes_on = True

    def input_bias(self, b_ih: Array, b_hh: Array) -> Array:
        """Return b_ih + b_hh but for n, whose b_hn stands inside r ∘ (…)."""
        bias: Array = b_ih + b_hh
        H = len(bias) // 3
        bias[2 * H :] = b_ih[2 * H :]
        return bias

    def keep(self, kept: Array, b_hh: Array | None) -> None:
        """Start from b_hn, to which each step adds W_hn h."""
        kept[...] = 0 if b_hh is None else b_hh[-kept.shape[-2] :, None]

    def forward(
        self,
        gates: Array,
        hidden: Array,
        kept: Array,
        before: Sequence[Array],
        after: Sequence[Array],
    ) -> None:
        """Compute the equations of the class; `gates` holds r, z, n then, `kept` W_hn h + b_hn."""
        (h_before,), (h,) = before, after
        H = len(h)
        r_z, r, z, n = gates[: 2 * H], gates[:H], gates[H : 2 * H], gates[2 * H :]
        hidden_n = hidden[2 * H :]
        np.add(r_z, hidden[: 2 * H], r_z)
        _sigmoid(r_z)
        # n = tanh(input half + r ∘ (W_hn h + b_hn))
        np.add(kept, hidden_n, kept)
        np.multiply(r, kept, hidden_n)
        np.add(n, hidden_n, n)
        np.tanh(n, n)
        # h' = n + z ∘ (h - n)
        np.subtract(h_before, n, h)
        np.multiply(h, z, h)
        np.add(h, n, h)

    def local_derivatives(
        self, gates: Any, kept: Array, before: Sequence[Array], after: Sequence[Array]
    ) -> tuple[Array, ...]:
        """Return what each gate's gradient is for d_h = 1, and z.

        Four blocks of H, where r, z, n and `kept` were: r and z, whose halves have the same
        gradient; n's hidden half, r times that of its input half; and that.
        """
        (h_before,) = before
        r, z, n, d_n = np.split(gates, 4, axis=-2)
        z_before, one_minus, other = taller(z), taller(z), taller(z)
        np.copyto(z_before, z)
        np.subtract(1, z, one_minus)
        # z (1 - z)(h - n)
        np.multiply(z, one_minus, z)
        np.subtract(h_before, n, other)
        np.multiply(z, other, z)
        # (1 - z)(1 - n²)
        _one_minus_square(n, n)
        np.multiply(n, one_minus, n)
        # r (1 - r)(W_hn h + b_hn) d_n
        _sigmoid_derivative(r, other)
        np.multiply(other, kept, other)
        np.multiply(other, n, other)
        np.copyto(d_n, n)
        np.multiply(n, r, n)
        np.copyto(r, other)
        return gates, z_before

    def backward(self, d_states: Sequence[Array], d_gates: Array, factors: Sequence[Array]) -> None:
        """All four blocks times d_h; and z ∘ d_h goes straight to the h before."""
        (d_h,), (z,) = d_states, factors
        H = len(d_h)
        for start in (0, H, 2 * H, 3 * H):
            block = d_gates[start : start + H]
            np.multiply(block, d_h, block)
        np.multiply(d_h, z, d_h)

    def hidden_side(self, d_gates: Array) -> Array:
        """Return r, z, and n's hidden half."""
        return d_gates[..., : 3 * (d_gates.shape[-2] // 4), :]

    def input_side(self, d_gates: Array) -> Array:
        """Return r, z, and n's input half, which takes the place of its hidden half."""
        _, _, n_hidden, n = np.split(d_gates, 4, axis=-2)
        np.copyto(n_hidden, n)
        return self.hidden_side(d_gates)


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate Gers et al. 2000).

    ::

        i = σ(W_ii x + b_ii + W_hi h + b_hi)        input
        f = σ(W_if x + b_if + W_hf h + b_hf)        forget
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)     candidate
        o = σ(W_io x + b_io + W_ho h + b_ho)        output
        c' = f ∘ c + i ∘ g
        h' = o ∘ tanh(c')

    The gates stand in the order i, f, g, o.
    """

    num_gates = 4
    num_states = 2
    num_kept = 1

    def forward(
        self,
        gates: Array,
        hidden: Array,
        kept: Array,
        before: Sequence[Array],
        after: Sequence[Array],
    ) -> None:
        """Compute the equations of the class; `gates` holds i, f, g, o then, `kept` tanh(c')."""
        (_, c_before), (h, c) = before, after
        H = len(h)
        i_f, i, f = gates[: 2 * H], gates[:H], gates[H : 2 * H]
        g, o = gates[2 * H : 3 * H], gates[3 * H :]
        np.add(gates, hidden, gates)
        # σ(a) = (1 + tanh(a/2)) / 2 for i, f and o, tanh(a) for g: one tanh for all four
        half = _HALVES.get(gates.dtype, 0.5)
        np.multiply(i_f, half, i_f)
        np.multiply(o, half, o)
        np.tanh(gates, gates)
        for sigmoids in (i_f, o):
            np.multiply(sigmoids, half, sigmoids)
            np.add(sigmoids, half, sigmoids)
        # c' = f ∘ c + i ∘ g
        np.multiply(i, g, h)
        np.multiply(f, c_before, c)
        np.add(c, h, c)
        # h' = o ∘ tanh(c')
        np.tanh(c, kept)
        np.multiply(o, kept, h)

    def local_derivatives(
        self, gates: Any, kept: Array, before: Sequence[Array], after: Sequence[Array]
    ) -> tuple[Array, ...]:
        """Return the gates' gradients for d_c' = 1, o's for d_h' = 1; d_c' for d_h' = 1; and f.

        The gradients where the gates were, that of c' where tanh(c') was.
        """
        c_before = before[1]
        i, f, g, o, through_h = np.split(gates, 5, axis=-2)
        f_before, slope = taller(f), taller(f)
        np.copyto(f_before, f)
        # f (1 - f) c
        _sigmoid_derivative(f, slope)
        np.multiply(slope, c_before, f)
        # o (1 - o) tanh c', and (1 - tanh² c') o
        _sigmoid_derivative(o, slope)
        np.multiply(slope, kept, slope)
        _one_minus_square(kept, through_h)
        np.multiply(through_h, o, through_h)
        np.copyto(o, slope)
        # i (1 - i) g, and (1 - g²) i
        _sigmoid_derivative(i, slope)
        np.multiply(slope, g, slope)
        _one_minus_square(g, g)
        np.multiply(g, i, g)
        np.copyto(i, slope)
        return gates[..., : 4 * (gates.shape[-2] // 5), :], through_h, f_before

    def backward(self, d_states: Sequence[Array], d_gates: Array, factors: Sequence[Array]) -> None:
        """d_c' gets o (1 - tanh² c') d_h'; then i, f, g follow d_c' and o follows d_h'."""
        (d_h, d_c), (through_h, f) = d_states, factors
        H = len(d_h)
        d_o = d_gates[3 * H :]
        np.multiply(d_o, d_h, d_o)
        np.multiply(d_h, through_h, d_h)
        np.add(d_c, d_h, d_c)
        for start in (0, H, 2 * H):
            block = d_gates[start : start + H]
            np.multiply(block, d_c, block)
        np.multiply(d_c, f, d_c)
