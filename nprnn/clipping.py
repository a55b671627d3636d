"""Clipping of gradients, over dicts of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check
from ._validation import NonFiniteError

if TYPE_CHECKING:
    from ._validation import Array


def clip_grad_norm(grads: Mapping[str, Array], max_norm: float) -> float:
    """Scale all gradients down, in place, so that their common norm is at most `max_norm`.

    Pascanu, Mikolov and Bengio (2013), "On the difficulty of training recurrent neural networks",
    algorithm 1. As in PyTorch the factor is min(1, max_norm / (norm + 1e-6)).

    Parameters
    ----------
    grads : dict of ndarray
        Changed in place.
    max_norm : float
        Largest norm allowed, above 0; infinity clips nothing.

    Returns
    -------
    float
        The Euclidean norm of all entries together, before clipping.

    Raises
    ------
    NonFiniteError
        If an entry is NaN or infinite, or the norm is above the largest float. The message names
        the parameter and the index, and the gradients are left as they were. (It is a
        FloatingPointError and a ValueError.)

    Examples
    --------
    >>> grads = {"w": np.array([3.0, 4.0])}
    >>> clip_grad_norm(grads, 1.0)
    5.0
    >>> grads["w"].round(6)
    array([0.6, 0.8])
    """
    max_norm = check.real("max_norm", max_norm, "(0, inf]")
    _check_writable(grads)
    norm = _norm(grads)
    if norm == math.inf:
        raise NonFiniteError("gradients left as they were: their norm is above the largest float")
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for gradient in grads.values():
            np.multiply(gradient, factor, out=gradient)
    return norm


def clip_grad_value(grads: Mapping[str, Array], clip_value: float) -> None:
    """Clip every entry of every gradient, in place, to [-clip_value, clip_value].

    Parameters
    ----------
    grads : dict of ndarray
        Changed in place. A NaN stays a NaN.
    clip_value : float
        Largest magnitude allowed, above 0; infinity clips nothing.

    Examples
    --------
    >>> grads = {"w": np.array([3.0, -4.0, 0.5])}
    >>> clip_grad_value(grads, 1.0)
    >>> grads["w"]
    array([ 1. , -1. ,  0.5])
    """
    clip_value = check.real("clip_value", clip_value, "(0, inf]")
    _check_writable(grads)
    for gradient in grads.values():
        np.clip(gradient, -clip_value, clip_value, out=gradient)


def _norm(grads: Mapping[str, Array]) -> float:
    """Return the Euclidean norm of all entries, without overflow or underflow on the way."""
    with np.errstate(over="ignore", under="ignore"):
        squares = [float(flat.dot(flat)) for flat in (g.ravel() for g in grads.values())]
    norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf
    # In this range no square of an entry that matters has left the range of float32.
    if 1e-12 < norm < 1e18:
        return norm
    peaks = [float(np.abs(g).max()) for g in grads.values() if g.size]
    if not all(map(math.isfinite, peaks)):  # of each: Python's max may pass over a NaN
        _refuse_non_finite(grads)
    largest = max(peaks, default=0.0)
    if largest == 0:
        return 0.0
    scaled = (np.ravel(g).astype(np.float64) / largest for g in grads.values())
    return largest * math.sqrt(math.fsum(float(np.dot(flat, flat)) for flat in scaled))


def _refuse_non_finite(grads: Mapping[str, Array]) -> None:
    faults = []
    for name, gradient in grads.items():
        bad = ~np.isfinite(gradient)
        if bad.any():
            index = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
            faults.append(
                f"grads[{name!r}] has {int(bad.sum())} of {bad.size} entries not finite, "
                f"the first at {index}: {gradient[index]}"
            )
    raise NonFiniteError("gradients left as they were: " + "; ".join(faults))


def _check_writable(grads: Mapping[str, Array]) -> None:
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads must be a dict of arrays, got {type(grads).__name__}")
    for name, gradient in grads.items():
        if not isinstance(gradient, np.ndarray) or gradient.dtype.kind != "f":
            kind = getattr(gradient, "dtype", type(gradient).__name__)
            raise TypeError(f"grads[{name!r}] must be an ndarray of floats, got {kind}")
        if not gradient.flags.writeable:
            raise ValueError(f"grads[{name!r}] is read-only, and clipping works in place: copy it")
