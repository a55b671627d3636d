"""The mathematics of one time step, and nothing else.

A cell is elementwise. It maps the gates' two halves, computed from the input and from the previous
state, to the next state, and a gradient of the next state to a gradient of the gates. The matrix
products, time, direction, depth and padding belong to `recurrent`.

Every method works for float32, float64 and complex numbers (the complex step needs the last) and
writes into the arrays that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ._validation import Array


class Activation(NamedTuple):
    """A function f applied in place, and its derivative f'(a) written in terms of h = f(a)."""

    apply: Callable[[Array], None]
    derivative: Callable[[Array], Array]


def _tanh(a: Array) -> None:
    np.tanh(a, out=a)


def _tanh_derivative(h: Array) -> Array:
    derivative: Array = h * h
    np.subtract(1, derivative, out=derivative)  # 1 - h²
    return derivative


def _relu(a: Array) -> None:
    # `a <= 0` and not `maximum`: complex numbers branch on the real part, and a NaN stays a NaN.
    np.copyto(a, 0, where=a.real <= 0)


def _relu_derivative(h: Array) -> Array:
    return (h.real > 0).astype(h.dtype)


ACTIVATIONS = {
    "tanh": Activation(_tanh, _tanh_derivative),
    "relu": Activation(_relu, _relu_derivative),
}


class VanillaCell:
    """The simple recurrent cell (Elman 1990): h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Parameters
    ----------
    nonlinearity : {"tanh", "relu"}
        The function f.
    """

    num_gates = 1

    def __init__(self, nonlinearity: str) -> None:
        self.activation = ACTIVATIONS[nonlinearity]

    def forward(self, input_gates: Array, hidden_gates: Array, h_next: Array) -> None:
        """h_t = f(input gates + hidden gates), each of shape (B, H)."""
        np.add(input_gates, hidden_gates, out=h_next)
        self.activation.apply(h_next)

    def local_derivatives(self, h: Array) -> Array:
        """f'(a) for the states h = f(a) of all steps at once."""
        return self.activation.derivative(h)

    def backward(self, d_h: Array, d_gates: Array) -> None:
        """d_a = f'(a) d_h, where `d_gates` comes in as f'(a) and goes out as d_a."""
        np.multiply(d_gates, d_h, out=d_gates)
