"""How PyTorch, ONNX and Keras write the cells: all that differs between them, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .recurrent import GRU, LSTM, RNN

if TYPE_CHECKING:
    from ._validation import Array


class Dialects(NamedTuple):
    """A cell, and how others write it.

    The gates are the blocks of H rows, one below the other, a letter each: those of the equations
    of `GRU` and `LSTM`.
    """

    layer: type[RNN | GRU | LSTM]  # its name is also that of ONNX's node
    gates: str  # here and in PyTorch
    onnx_gates: str
    onnx_options: str  # without which the node computes something else
    keras_gates: str
    keras_biases: int  # 1 if Keras has only the sum of b_ih and b_hh, which is all that counts

    @property
    def name(self) -> str:
        """With its article, for a sentence."""
        return f"{'a' if self.layer is GRU else 'an'} {self.layer.__name__}"


TABLE = (
    Dialects(RNN, "h", "h", "", "h", 1),
    Dialects(GRU, "rzn", "zrn", "linear_before_reset = 1", "zrn", 2),
    Dialects(LSTM, "ifgo", "iofg", "", "ifgo", 1),
)


def of_layer(layer: Any) -> Dialects:
    """Return the row of a layer, or say that it is of another kind."""
    for row in TABLE:
        if isinstance(layer, row.layer):
            return row
    raise TypeError(f"layer must be an RNN, GRU or LSTM, got {type(layer).__name__}")


def of_sizes(gate_rows: int, hidden_size: int) -> Dialects | None:
    """Return the row of a cell with that many rows for H units; None if there is no such cell."""
    return next((row for row in TABLE if len(row.gates) * hidden_size == gate_rows), None)


def reordered(array: Array, gates: str, wanted: str, axis: int = 0) -> Array:
    """Return a copy with the blocks of the gates in another order along an axis."""
    blocks = dict(zip(gates, np.split(array, len(gates), axis), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted], axis)
