"""The affine map that reads a hidden state out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check
from .blas import multiply_steps
from .initializers import uniform_params
from .layout import as_rows, column_sums, empty_like, multiply_rows, rows_product, turned

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource


# Up to so many features each step is multiplied by itself; up to so many, in blocks of the weight.
_FEW, _MANY = 63, 256


class Linear:
    """o = W h + b, for inputs of any number of leading axes.

    Parameters
    ----------
    in_features : int
        Size of the last axis of the input, H.
    out_features : int
        Size of the last axis of the output, V.
    bias : bool, default True
        Whether there is a b.
    dtype : {float32, float64}, default float32
        Type of the parameters.
    rng : Generator or int, optional
        Draws the parameters from U(-1/√H, 1/√H), as `torch.nn.Linear` does.

    Attributes
    ----------
    params : dict
        ``weight`` of shape (V, H) and ``bias`` of shape (V,).

    Examples
    --------
    >>> layer = Linear(3, 2, rng=0)
    >>> y, cache = layer.forward(np.ones((5, 3), np.float32))
    >>> d_x, grads = layer.backward(np.ones_like(y), cache)
    >>> y.shape, d_x.shape, grads["weight"].shape, grads["bias"]
    ((5, 2), (5, 3), (2, 3), array([5., 5.], dtype=float32))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.in_features = check.integer("in_features", in_features)
        self.out_features = check.integer("out_features", out_features)
        self.bias = check.flag("bias", bias)
        self.params = uniform_params(self._shapes(), self.in_features, dtype, rng)

    def __repr__(self) -> str:
        bias = "" if self.bias else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias})"

    def __call__(self, x: ArrayLike) -> Array:
        """Return W x + b, of shape (..., V)."""
        return self.forward(x)[0]

    def forward(self, x: ArrayLike) -> tuple[Array, tuple[Array, Array | None]]:
        """Return the output and what `backward` needs.

        Parameters
        ----------
        x : array_like of float, shape (..., H)

        Returns
        -------
        y : ndarray of shape (..., V)
        cache
            Holds a reference to `x`: do not change it before `backward`.
        """
        x = check.float_array("x", x)
        size = self.in_features
        check.shape("x", x, f"(..., in_features={size})", x.ndim >= 1 and x.shape[-1] == size)
        weight = self.params["weight"]
        check.same_precision("x", x, weight.dtype)
        y, rows = _product(x, weight)
        if self.bias:
            y += self.params["bias"]
        return y, (x, rows)

    def backward(self, d_y: ArrayLike, cache: tuple[Array, Array | None]) -> tuple[Array, Params]:
        """Return the gradients of a scalar, given its gradient with respect to the output.

        Parameters
        ----------
        d_y : array_like of float, shape (..., V)
        cache
            From `forward`.

        Returns
        -------
        d_x : ndarray of shape (..., H)
        grads : dict
            Keys and shapes of `params`.
        """
        x, rows = cache
        d_y = check.float_array("d_y", d_y)
        expected = (*x.shape[:-1], self.out_features)
        check.shape("d_y", d_y, f"of y, {expected}", d_y.shape == expected)
        weight = self.params["weight"]
        check.same_precision("d_y", d_y, weight.dtype)
        d_rows, rows = as_rows(d_y), as_rows(x) if rows is None else rows
        grads = {"weight": rows_product(d_rows, rows)}
        if self.bias:
            grads["bias"] = column_sums(d_rows)
        d_x = empty_like(x, np.result_type(d_y, weight))  # (..., H), in the layout of x
        if d_x.flags.c_contiguous:
            np.matmul(d_rows, weight, out=d_x.reshape(rows.shape))
        elif self.out_features <= _FEW:
            np.matmul(d_y, weight, out=d_x)
        elif self.out_features > _MANY or not multiply_steps(weight.T, turned(d_y), turned(d_x)):
            d_x[...] = multiply_rows(d_rows, weight).reshape(x.shape)
        return d_x, grads

    def with_params(self, params: Mapping[str, ArrayLike]) -> Linear:
        """Return the same layer over other arrays, which are used as they are, not copied."""
        layer = copy.copy(self)
        layer.params = check.params("params", params, self._shapes())
        return layer

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if self.bias:
            shapes["bias"] = (self.out_features,)
        return shapes


def _product(x: Array, weight: Array) -> tuple[Array, Array | None]:
    """Return W x, (..., V), and x as rows where that took them."""
    V, lead = len(weight), x.shape[:-1]
    if x.ndim == 3:
        classes = np.empty((V, *lead), np.result_type(x, weight))  # each in one piece, for the loss
        if multiply_steps(weight, turned(x), classes.swapaxes(0, 1)):
            return classes.transpose(1, 2, 0), None
    rows = as_rows(x)
    return multiply_rows(rows, weight.T).reshape(*lead, V), rows
