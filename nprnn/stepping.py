"""One sequence, one step at a time: what generation asks for.

The same cells as in `scan`, over arrays that are made once. A step of one sequence is short, so
what counts is the number of calls, and that no weight is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .stack import as_parts

if TYPE_CHECKING:
    from ._validation import Array
    from .stack import Recurrent, State


class Stepper:
    """The layers of one direction, over one sequence; each call reads one input.

    It holds the state. The parameters are not copied: change none while it is in use.

    Parameters
    ----------
    layers : Recurrent
        Of one direction.
    state : ndarray of shape (L, H), or the tuple of such; optional
        Where to begin; zeros without it.
    """

    def __init__(self, layers: Recurrent, state: State = None) -> None:
        self.cell = layers.cell
        H, W = layers.hidden_size, layers.params["weight_hh_l0"]
        S, G, K = self.cell.num_states, self.cell.num_gates, self.cell.num_kept
        begin = np.zeros((S, layers.num_layers, H), W.dtype)
        if state is not None:
            begin[...] = as_parts(state)
        self._gates, self._hidden = np.empty((2, G * H, 1), W.dtype)
        self._kept = np.empty((K * H, 1), W.dtype)
        self._layers = []
        for k in range(layers.num_layers):
            weights = layers.weights(k)
            b_ih, b_hh = weights.b_ih, weights.b_hh
            bias = np.zeros(G * H, W.dtype)
            if b_ih is not None and b_hh is not None:
                bias = self.cell.input_bias(b_ih, b_hh)
            # Two places for the states: a step reads one and writes the other.
            places = [list(begin[:, k, :, None]), list(np.empty((S, H, 1), W.dtype))]  # S of (H, 1)
            self._layers.append((weights, bias[:, None], places))
        self._columns: dict[int, Array] = {}  # W_ih x + b of the first layer, by one-hot input

    def __call__(self, x: Any) -> Any:
        """Read an input, (I,), or an integer for a one-hot one; return the last layer's h, (H,).

        A view of the state: valid until the next step.
        """
        cell, gates, hidden, kept = self.cell, self._gates, self._hidden, self._kept
        for weights, bias, places in self._layers:
            before, after = places
            if isinstance(x, int):
                if x not in self._columns:
                    self._columns[x] = weights.ih[:, x, None] + bias
                gates[...] = self._columns[x]
            else:
                weights.ih.dot(x[:, None], gates)
                np.add(gates, bias, gates)
            cell.keep(kept, weights.b_hh)
            weights.hh.dot(before[0], hidden)
            cell.forward(gates, hidden, kept, before, after)
            places.reverse()
            x = after[0][:, 0]
        return x
