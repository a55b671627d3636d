"""Steps against the gradient: clipping and optimizers, over dicts of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check
from ._validation import NonFiniteError

if TYPE_CHECKING:
    from ._validation import Array, Params


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
        If an entry is NaN or infinite. The message names the parameter and the index, and the
        gradients are left as they were. (It is a FloatingPointError and a ValueError.)

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
        squares = [float(np.dot(flat, flat)) for flat in map(np.ravel, grads.values())]
    norm = math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.inf
    # In this range no square of an entry that matters has left the range of float32.
    if 1e-12 < norm < 1e18:
        return norm
    largest = max((float(np.abs(g).max()) for g in grads.values() if g.size), default=0.0)
    if not math.isfinite(largest):
        _refuse_non_finite(grads)
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


def _check_dict(name: str, arrays: Any) -> None:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name} must be a dict of arrays, got {type(arrays).__name__}")


def _check_writable(grads: Mapping[str, Array]) -> None:
    _check_dict("grads", grads)
    for name, gradient in grads.items():
        if not isinstance(gradient, np.ndarray) or gradient.dtype.kind != "f":
            kind = getattr(gradient, "dtype", type(gradient).__name__)
            raise TypeError(f"grads[{name!r}] must be an ndarray of floats, got {kind}")
        if not gradient.flags.writeable:
            raise ValueError(f"grads[{name!r}] is read-only, and clipping works in place: copy it")


class SGD:
    """Stochastic gradient descent, with the update of `torch.optim.SGD`.

    For each parameter p with gradient g, weight decay λ, momentum μ, dampening τ and rate η::

        g ← g + λ p
        b ← μ b + (1 - τ) g        (b ← g on the first step)
        p ← p - η b                (η (g + μ b) with Nesterov's momentum)

    Momentum after Polyak (1964); Nesterov's form after Sutskever et al. (2013).

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float
        Learning rate η, at least 0. The attribute may be set between steps.
    momentum, dampening, weight_decay : float, default 0
        μ, τ, λ.
    nesterov : bool, default False
        Needs momentum and no dampening.

    Attributes
    ----------
    momentum_buffers : dict of ndarray
        b for each parameter; empty before the first step and without momentum.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> SGD(params, lr=0.5).step({"w": np.array([1.0, -1.0])})
    >>> params["w"]
    array([0.5, 2.5])
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _check_dict("params", params)
        self.params = params
        for name, value in params.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
                kind = getattr(value, "dtype", type(value).__name__)
                raise TypeError(f"params[{name!r}] must be an ndarray of floats, got {kind}")
            if not value.flags.writeable:
                raise ValueError(f"params[{name!r}] is read-only, and steps are made in place")
        self.lr = check.real("lr", lr, "[0, inf)")
        self.momentum = check.real("momentum", momentum, "[0, inf)")
        self.dampening = check.real("dampening", dampening, "(-inf, inf)")
        self.nesterov = check.flag("nesterov", nesterov)
        self.weight_decay = check.real("weight_decay", weight_decay, "[0, inf)")
        if nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov needs momentum above 0 and dampening 0, got {momentum} and {dampening}"
            )
        self.momentum_buffers: Params = {}

    def __repr__(self) -> str:
        """Show every setting."""
        names = ("lr", "momentum", "dampening", "nesterov", "weight_decay")
        return f"SGD({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def step(self, grads: Mapping[str, Array]) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : dict of ndarray
            The keys and shapes of the parameters; not changed.

        Raises
        ------
        TypeError, ValueError
            If the gradients do not fit the parameters; nothing is updated then.
        """
        self._check_fit(grads)
        for name, value in self.params.items():
            gradient = grads[name]
            if self.weight_decay:
                gradient = gradient + self.weight_decay * value
            if self.momentum:
                gradient = self._with_momentum(name, gradient)
            value -= self.lr * gradient

    def _with_momentum(self, name: str, gradient: Array) -> Array:
        buffer = self.momentum_buffers.get(name)
        if buffer is None:
            buffer = self.momentum_buffers[name] = np.array(gradient)
        else:
            buffer *= self.momentum
            buffer += (1 - self.dampening) * gradient
        return gradient + self.momentum * buffer if self.nesterov else buffer

    def _check_fit(self, grads: Mapping[str, Array]) -> None:
        _check_dict("grads", grads)
        faults = [f"missing {key}" for key in self.params if key not in grads]
        faults += [f"unexpected {key}" for key in grads if key not in self.params]
        if faults:
            raise ValueError("grads do not fit the parameters: " + "; ".join(faults))
        for name, value in self.params.items():
            gradient: Any = grads[name]
            if not isinstance(gradient, np.ndarray) or gradient.dtype != value.dtype:
                kind = getattr(gradient, "dtype", type(gradient).__name__)
                raise TypeError(f"grads[{name!r}] must be {value.dtype} like its parameter: {kind}")
            if gradient.shape != value.shape:
                raise ValueError(
                    f"grads[{name!r}] must have shape {value.shape}; got {gradient.shape}"
                )
