"""Steps against the gradient: optimizers over dicts of arrays, and the means around them.

`Optimizer` holds what all have in common: the checks, the walk over the parameters, the state that
can be saved. What makes an optimizer the one it is stands in its `_update` alone. Beside them are
two weighted means: of gradients over micro-batches, before a step, and of weights, after it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _validation as check
from .clipping import clip_grad_norm, clip_grad_value

if TYPE_CHECKING:
    from ._validation import Array, Params

    Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ExponentialMovingAverage",
    "GradientAccumulator",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm",
    "clip_grad_value",
]

# Entries handled at a time. The temporaries then stay in the cache: with 5 million parameters Adam
# takes two thirds of the time. With fewer entries the calls begin to cost.
BLOCK = 1 << 17


class _Stateful(ABC):
    """State made of arrays, and a count of steps, that can be saved and loaded.

    Attributes
    ----------
    step_count : int
        How many steps were taken.
    """

    def __init__(self) -> None:
        self.step_count = 0

    @abstractmethod
    def _buffers(self) -> dict[str, Params]:
        """Return the arrays of the state, by what they are and by parameter."""

    def _arrays(self) -> Params:
        arrays = {
            f"{kind}.{name}": array
            for kind, buffer in self._buffers().items()
            for name, array in buffer.items()
        }
        return {"step": np.array(self.step_count, np.int64), **arrays}

    def state_dict(self) -> Params:
        """Return a copy of the state as a flat dict of arrays.

        Returns
        -------
        dict of ndarray
            ``step``, the number of steps taken, an int64 of shape (); and for each array kept
            beside the parameter ``name`` a copy under the array's name, a dot, and ``name``. The
            settings are not among it: they are given when the object is made.
        """
        return {key: array.copy() for key, array in self._arrays().items()}

    def load_state_dict(self, arrays: Mapping[str, Array]) -> None:
        """Take over a state that `state_dict` returned, so as to go on as if never interrupted.

        Parameters
        ----------
        arrays : dict of ndarray
            Copied. Keys, shapes and dtypes must be those of `state_dict`.

        Raises
        ------
        TypeError, ValueError
            If something does not fit. The message lists every missing, unexpected and mis-shaped
            key, and the state is left as it was.
        """
        _check_dict("arrays", arrays)
        own = self._arrays()
        faults = [f"missing {key} {array.shape}" for key, array in own.items() if key not in arrays]
        faults += [f"unexpected {key}" for key in arrays if key not in own]
        taken = {key: check.array(f"arrays[{key!r}]", arrays[key]) for key in own if key in arrays}
        for key, array in taken.items():
            if array.shape != own[key].shape:
                faults.append(f"{key} has shape {array.shape}, expected {own[key].shape}")
            elif array.dtype != own[key].dtype:
                faults.append(f"{key} has dtype {array.dtype}, expected {own[key].dtype}")
            elif key == "step" and array < 0:
                faults.append(f"step is {array}, expected at least 0")
        if faults:
            raise ValueError(f"state does not fit {self!r}: " + "; ".join(faults))
        for key, array in taken.items():
            np.copyto(own[key], array)
        self.step_count = int(taken["step"])


class Optimizer(_Stateful):
    """What the optimizers have in common.

    A subclass names its `settings`, in the order of its arguments, and implements `_update`.

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float
        Learning rate.
    weight_decay : float
        Multiple of each parameter that is added to its gradient.
    buffers : tuple of str
        Names of the arrays kept beside each parameter.
    fill : float, default 0
        What these arrays hold before the first step.

    Attributes
    ----------
    state : dict of dict of ndarray
        The arrays kept beside the parameters, by their name and that of the parameter.
    """

    settings: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float,
        weight_decay: float,
        buffers: tuple[str, ...] = (),
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        self.lr = lr
        self.weight_decay = check.real("weight_decay", weight_decay, "[0, inf)")
        self.params = params
        self._layout = _layout("params", params, writable=True)
        self.state = {
            buffer: {n: np.full(shape, fill, dtype) for n, (shape, dtype) in self._layout.items()}
            for buffer in buffers
        }

    @property
    def lr(self) -> float:
        """Learning rate, at least 0. May be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        # As a Python float: a NumPy scalar of double precision would upcast what it multiplies.
        self._lr = check.real("lr", value, "[0, inf)")
        self._rates: dict[Any, Array] = {}

    def _rate(self, dtype: np.dtype[Any]) -> Array:
        """Return the learning rate as an array: NumPy takes longer for a number of Python's."""
        if dtype not in self._rates:
            self._rates[dtype] = np.array(self._lr, dtype)
        return self._rates[dtype]

    def __repr__(self) -> str:
        """Show every setting."""
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"{type(self).__name__}({settings})"

    def _buffers(self) -> dict[str, Params]:
        return self.state

    def step(self, grads: Mapping[str, Array]) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : dict of ndarray
            The keys, shapes and dtypes of the parameters; not changed.

        Raises
        ------
        TypeError, ValueError
            If the gradients do not fit the parameters; nothing is updated then.
        """
        if _layout("params", self.params, writable=True) != self._layout:
            raise ValueError(
                "params have other keys, shapes or dtypes than when the optimizer was made: "
                "make a new one"
            )
        _check_fit("grads", grads, self._layout)
        self.step_count += 1
        kept = self.state.values()
        for name, value in self.params.items():
            for p, g, *buffers, s in _blocks(value, grads[name], *[b[name] for b in kept]):
                self._update(p, self._with_decay(p, g) if self.weight_decay else g, buffers, s)

    def _with_decay(self, p: Array, g: Array) -> Array:
        """Return g + λ p."""
        decayed = np.multiply(p, self.weight_decay, out=np.empty_like(p))
        decayed += g
        return decayed

    @abstractmethod
    def _update(self, p: Array, g: Array, buffers: list[Array], s: Array) -> None:
        """Update entries of one parameter and of its buffers in place, each from its own alone.

        All arrays have the same shape. `g` is the gradient with the weight decay, and is not to be
        changed; `s` is room for what is computed on the way.
        """


class SGD(Optimizer):
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

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> SGD(params, lr=0.5).step({"w": np.array([1.0, -1.0])})
    >>> params["w"]
    array([0.5, 2.5])
    """

    settings = ("lr", "momentum", "dampening", "nesterov", "weight_decay")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = check.real("momentum", momentum, "[0, inf)")
        self.dampening = check.real("dampening", dampening, "(-inf, inf)")
        self.nesterov = check.flag("nesterov", nesterov)
        if nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov needs momentum above 0 and dampening 0, got {momentum} and {dampening}"
            )
        buffers = ("momentum_buffer",) if self.momentum else ()
        super().__init__(params, lr, weight_decay, buffers)

    @property
    def momentum_buffers(self) -> Params:
        """The buffer b of each parameter, 0 before the first step; empty without momentum."""
        return self.state.get("momentum_buffer", {})

    def _update(self, p: Array, g: Array, buffers: list[Array], s: Array) -> None:
        direction = g
        if buffers:
            (b,) = buffers
            # b ← μ b + (1 - τ) g, where the first gradient, b being 0, is taken in full
            b *= self.momentum
            share = 1 if self.step_count == 1 else 1 - self.dampening
            b += g if share == 1 else np.multiply(g, share, out=s)
            direction = b
            if self.nesterov:
                # g + μ b
                direction = np.multiply(b, self.momentum, out=s)
                direction += g
        # p ← p - η direction
        np.multiply(direction, self._rate(p.dtype), s)
        np.subtract(p, s, p)


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients so far.

    For each parameter p with gradient g, weight decay λ, rate η, its decay δ, and t = 1 at the
    first step, entry by entry::

        g ← g + λ p
        v ← v + g²
        p ← p - η / (1 + (t - 1) δ) · g / (√v + ε)

    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization", with the arguments and defaults of `torch.optim.Adagrad`.

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float, default 0.01
        Learning rate η, at least 0. The attribute may be set between steps.
    lr_decay, weight_decay : float, default 0
        δ, λ.
    initial_accumulator_value : float, default 0
        v before the first step.
    eps : float, default 1e-10
        ε.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> optimizer = Adagrad(params, lr=0.5)
    >>> optimizer.step({"w": np.array([3.0, -0.1])})
    >>> params["w"].round(6)
    array([0.5, 2.5])
    >>> optimizer.state["sum"]["w"].round(6)
    array([9.  , 0.01])
    """

    settings = ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
    ) -> None:
        self.lr_decay = check.real("lr_decay", lr_decay, "[0, inf)")
        self.initial_accumulator_value = check.real(
            "initial_accumulator_value", initial_accumulator_value, "[0, inf)"
        )
        self.eps = check.real("eps", eps, "[0, inf)")
        super().__init__(params, lr, weight_decay, ("sum",), self.initial_accumulator_value)

    def _update(self, p: Array, g: Array, buffers: list[Array], s: Array) -> None:
        (v,) = buffers
        # v ← v + g²
        v += np.multiply(g, g, out=s)
        # p ← p - η / (1 + (t - 1) δ) · g / (√v + ε)
        np.sqrt(v, out=s)
        s += self.eps
        np.divide(g, s, out=s)
        s *= self.lr / (1 + (self.step_count - 1) * self.lr_decay)
        p -= s


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of the squared gradients.

    For each parameter p with gradient g, weight decay λ, smoothing α, momentum μ and rate η, entry
    by entry, all running values being 0 at first::

        g ← g + λ p
        v ← α v + (1 - α) g²
        a ← α a + (1 - α) g            (only if centered)
        d = g / (√v + ε)               (g / (√(v - a²) + ε) if centered)
        b ← μ b + d
        p ← p - η b

    Tieleman and Hinton (2012), lecture 6.5 of "Neural networks for machine learning"; centered
    after Graves (2013), "Generating sequences with recurrent neural networks". Arguments and
    defaults are those of `torch.optim.RMSprop`. Where rounding puts v - a², a variance, below 0, it
    is taken as 0.

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float, default 0.01
        Learning rate η, at least 0. The attribute may be set between steps.
    alpha : float, default 0.99
        α, in [0, 1).
    eps : float, default 1e-8
        ε.
    weight_decay, momentum : float, default 0
        λ, μ.
    centered : bool, default False
        Whether to divide by the standard deviation of the gradient.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> RMSprop(params, lr=0.5, alpha=0.75).step({"w": np.array([3.0, -0.1])})
    >>> params["w"].round(6)
    array([0., 3.])
    """

    settings = ("lr", "alpha", "eps", "weight_decay", "momentum", "centered")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        self.alpha = check.real("alpha", alpha, "[0, 1)")
        self.eps = check.real("eps", eps, "[0, inf)")
        self.momentum = check.real("momentum", momentum, "[0, inf)")
        self.centered = check.flag("centered", centered)
        wanted = {"square_avg": True, "grad_avg": centered, "momentum_buffer": self.momentum > 0}
        buffers = tuple(name for name, needed in wanted.items() if needed)
        super().__init__(params, lr, weight_decay, buffers)

    def _update(self, p: Array, g: Array, buffers: list[Array], s: Array) -> None:
        v, *rest = buffers
        # v ← α v + (1 - α) g²
        _move_towards_square(v, g, self.alpha, s)
        # s = √v + ε, or √(v - a²) + ε
        if self.centered:
            a = rest[0]
            _move_towards(a, g, self.alpha, s)
            np.multiply(a, a, out=s)
            np.subtract(v, s, out=s)
            np.maximum(s, 0, out=s)
            np.sqrt(s, out=s)
        else:
            np.sqrt(v, out=s)
        s += self.eps
        # b ← μ b + g / s;  p ← p - η b
        np.divide(g, s, out=s)
        if self.momentum:
            b = rest[-1]
            b *= self.momentum
            b += s
            np.multiply(b, self.lr, out=s)
        else:
            s *= self.lr
        p -= s


class Adam(Optimizer):
    """Steps along a running mean of the gradient, over the root of one of its square.

    For each parameter p with gradient g, weight decay λ, rate η, and t = 1 at the first step, entry
    by entry, with m = v = 0 at first::

        g ← g + λ p
        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        p ← p - η · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

    With `amsgrad` the largest v so far, w ← max(w, v), takes the place of v in the last line.

    Kingma and Ba (2015), "Adam: a method for stochastic optimization"; `amsgrad` after Reddi, Kale
    and Kumar (2018), "On the convergence of Adam and beyond", with the correction of the bias, as
    in PyTorch. Arguments and defaults are those of `torch.optim.Adam`.

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float, default 0.001
        Learning rate η, at least 0. The attribute may be set between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
        ε.
    weight_decay : float, default 0
        λ. It passes through m and v as a part of the gradient; see `AdamW`.
    amsgrad : bool, default False

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> optimizer = Adam(params, lr=0.5)
    >>> optimizer.step({"w": np.array([3.0, -0.1])})
    >>> params["w"].round(6)
    array([0.5, 2.5])
    >>> sorted(optimizer.state_dict())
    ['exp_avg.w', 'exp_avg_sq.w', 'step']
    """

    settings = ("lr", "betas", "eps", "weight_decay", "amsgrad")

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
        first, second = (check.real(f"betas[{i}]", betas[i], "[0, 1)") for i in (0, 1))
        self.betas = first, second
        self.eps = check.real("eps", eps, "[0, inf)")
        self.amsgrad = check.flag("amsgrad", amsgrad)
        buffers = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]
        super().__init__(params, lr, weight_decay, buffers)

    def _update(self, p: Array, g: Array, buffers: list[Array], s: Array) -> None:
        m, v, *largest = buffers
        beta_1, beta_2 = self.betas
        # m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²
        _move_towards(m, g, beta_1, s)
        _move_towards_square(v, g, beta_2, s)
        for w in largest:
            v = np.maximum(w, v, out=w)
        # p ← p - η r / (1 - β₁ᵗ) · m / (√v + ε r), where r = √(1 - β₂ᵗ): the last line of the
        # equations with r multiplied into both sides of the fraction, one pass over v less
        r = math.sqrt(1 - beta_2**self.step_count)
        np.sqrt(v, out=s)
        s += self.eps * r
        np.divide(m, s, out=s)
        s *= self.lr * r / (1 - beta_1**self.step_count)
        p -= s


class AdamW(Adam):
    """Adam with a weight decay of its own, which does not pass through the running means.

    The decay λ leaves the gradient alone, and shrinks the parameters before the step; the rest is
    as in `Adam`::

        p ← (1 - η λ) p
        m ← β₁ m + (1 - β₁) g
        v ← β₂ v + (1 - β₂) g²
        p ← p - η · m / (1 - β₁ᵗ) / (√(v / (1 - β₂ᵗ)) + ε)

    Loshchilov and Hutter (2019), "Decoupled weight decay regularization", with the arguments and
    defaults of `torch.optim.AdamW`. As there, η takes the place of the paper's schedule multiplier
    before λ.

    Parameters
    ----------
    params : dict of ndarray
        Changed in place by `step`.
    lr : float, default 0.001
        Learning rate η, at least 0. The attribute may be set between steps.
    betas : pair of float, default (0.9, 0.999)
        β₁ and β₂, in [0, 1).
    eps : float, default 1e-8
        ε.
    weight_decay : float, default 0.01
        λ.
    amsgrad : bool, default False

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> AdamW(params, lr=0.5, weight_decay=0.2).step({"w": np.zeros(2)})
    >>> params["w"]
    array([0.9, 1.8])
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def _with_decay(self, p: Array, g: Array) -> Array:
        """Shrink p, and return g as it is."""
        p *= 1 - self.lr * self.weight_decay
        return g


class GradientAccumulator:
    """The weighted mean of the gradients of micro-batches.

    A batch too large for the memory is taken in parts. The loss of the whole is a mean, so its
    gradient is the mean of the parts' gradients, each weighted with what its own loss is a mean
    over: the number of targets, or of those that a mask leaves. With these weights the result is
    that of one batch, to rounding, and not so if parts of unequal size are weighted equally. Make a
    new one for each step.

    Attributes
    ----------
    weight : float
        Sum of the weights so far.

    Examples
    --------
    >>> parts = GradientAccumulator()
    >>> parts.add({"w": np.array([1.0, 2.0])}, weight=3)
    >>> parts.add({"w": np.array([5.0, 2.0])}, weight=1)
    >>> parts.mean()
    {'w': array([2., 2.])}
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._sums: Params = {}

    def __repr__(self) -> str:
        """Show how much has been added."""
        return f"GradientAccumulator(weight={self.weight!r})"

    def add(self, grads: Mapping[str, Array], weight: float = 1.0) -> None:
        """Add the gradients of one micro-batch.

        Parameters
        ----------
        grads : dict of ndarray
            Not changed, and not kept. Keys, shapes and dtypes are those of the first ones.
        weight : float, default 1
            How many targets the loss was a mean over; above 0.
        """
        weight = check.real("weight", weight, "(0, inf)")
        if self._sums:
            _check_fit("grads", grads, _layout("grads", self._sums))
            for name, total in self._sums.items():
                total += weight * grads[name]
        else:
            _layout("grads", grads)
            # np.array, because a product of an array of shape () is none
            self._sums = {name: np.array(weight * g, g.dtype) for name, g in grads.items()}
        self.weight += weight

    def mean(self) -> Params:
        """Return the mean, in new arrays, of what was added so far."""
        if not self.weight:
            raise ValueError("no gradients were added: the mean over nothing is undefined")
        return {
            name: np.array(total / self.weight, total.dtype) for name, total in self._sums.items()
        }


class ExponentialMovingAverage(_Stateful):
    """A running mean of the weights, which often predicts better than the last ones.

    Training with a constant rate ends up wandering around a minimum, and a mean over the way is
    closer to it: Polyak and Juditsky (1992), "Acceleration of stochastic approximation by
    averaging". Here the mean forgets exponentially. After the t-th update with parameters p::

        a ← (1 - w) a + w p,    w = (1 - d) / (1 - dᵗ)

    That is the mean of all p so far, the s-th weighted with d^(t-s); it is the correction of the
    bias that Adam makes, and the first update forgets the weights drawn at random, from which a
    starts. Without `bias_correction` w = 1 - d, and they fade with dᵗ.

    Parameters
    ----------
    params : dict of ndarray
        Those an optimizer updates in place. They are read, never changed.
    decay : float
        d, in [0, 1): the mean reaches back about 1 / (1 - d) updates.
    bias_correction : bool, default True

    Attributes
    ----------
    params : dict of ndarray
        a, in arrays of its own, updated in place: ``model.with_params(average.params)`` is a model
        that predicts with the mean.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> average = ExponentialMovingAverage(params, decay=0.5, bias_correction=False)
    >>> params["w"] += 1
    >>> average.update()
    >>> average.params["w"]
    array([1.5, 2.5])
    """

    def __init__(
        self, params: Mapping[str, Array], decay: float, bias_correction: bool = True
    ) -> None:
        super().__init__()
        self.decay = check.real("decay", decay, "[0, 1)")
        self.bias_correction = check.flag("bias_correction", bias_correction)
        self._layout = _layout("params", params)
        self._source = params
        self.params: Params = {name: np.array(value) for name, value in params.items()}

    def __repr__(self) -> str:
        """Show every setting."""
        return (
            f"ExponentialMovingAverage(decay={self.decay!r}, "
            f"bias_correction={self.bias_correction!r})"
        )

    def _buffers(self) -> dict[str, Params]:
        return {"average": self.params}

    def update(self) -> None:
        """Take the present parameters into the mean; to be called after each step."""
        _check_fit("params", self._source, self._layout)
        self.step_count += 1
        share = 1 - self.decay
        if self.bias_correction:
            share /= 1 - self.decay**self.step_count
        for name, average in self.params.items():
            for a, p, s in _blocks(average, self._source[name]):
                _move_towards(a, p, 1 - share, s)


def _blocks(*arrays: Array) -> list[tuple[Array, ...]]:
    """Return views of the same entries of all arrays, few enough at a time to stay in the cache.

    Each tuple ends with an array more, of the same shape and of no content, to compute in. Where
    one of the arrays does not lie in one piece, all are taken whole: the speed is lost, no more.
    """
    first, *_ = arrays
    if first.size <= BLOCK or not all(array.flags.c_contiguous for array in arrays):
        return [(*arrays, np.empty(first.shape, first.dtype))]
    flat = [array.reshape(-1) for array in arrays]
    room = np.empty(BLOCK, first.dtype)
    return [
        (*(array[start : start + BLOCK] for array in flat), room[: first.size - start])
        for start in range(0, first.size, BLOCK)
    ]


def _move_towards(average: Array, x: Array, decay: float, s: Array) -> None:
    """average ← decay · average + (1 - decay) x, with the help of s."""  # noqa: D403
    average *= decay
    average += np.multiply(x, 1 - decay, out=s)


def _move_towards_square(average: Array, x: Array, decay: float, s: Array) -> None:
    """average ← decay · average + (1 - decay) x², with the help of s."""  # noqa: D403
    average *= decay
    np.multiply(x, x, out=s)
    s *= 1 - decay
    average += s


def _check_dict(name: str, arrays: Any) -> None:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name} must be a dict of arrays, got {type(arrays).__name__}")


def _layout(name: str, arrays: Mapping[str, Any], writable: bool = False) -> Layout:
    """Return the shape and dtype of each array, all of which must be of floats."""
    _check_dict(name, arrays)
    layout = {}
    for key, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            kind = getattr(value, "dtype", type(value).__name__)
            raise TypeError(f"{name}[{key!r}] must be an ndarray of floats, got {kind}")
        if writable and not value.flags.writeable:
            raise ValueError(f"{name}[{key!r}] is read-only, and steps are made in place")
        layout[key] = value.shape, value.dtype
    return layout


def _check_fit(name: str, arrays: Mapping[str, Any], layout: Layout) -> None:
    """Refuse arrays of other keys, dtypes or shapes than the layout's."""
    _check_dict(name, arrays)
    faults = [f"missing {key}" for key in layout if key not in arrays]
    faults += [f"unexpected {key}" for key in arrays if key not in layout]
    if faults:
        raise ValueError(f"{name} do not fit the parameters: " + "; ".join(faults))
    for key, (shape, dtype) in layout.items():
        value = arrays[key]
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            kind = getattr(value, "dtype", type(value).__name__)
            raise TypeError(f"{name}[{key!r}] must be {dtype} like its parameter: {kind}")
        if value.shape != shape:
            raise ValueError(f"{name}[{key!r}] must have shape {shape}; got {value.shape}")
