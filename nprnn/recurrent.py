"""The recurrent layers, one class a cell, and their single steps.

Each has the arguments, parameters and answers of the class of that name in `torch.nn`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check
from . import cells
from .stack import Cache, Recurrent, State

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource


class RNN(Recurrent):
    """The simple recurrent network, with the arguments and parameters of `torch.nn.RNN`.

    h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh) for each layer and direction (Elman 1990); the
    input of a layer above the first is the output of the one below.

    Parameters
    ----------
    input_size : int
        Size of the input vectors, I; for integer input the number of classes.
    hidden_size : int
        Number of units, H.
    num_layers : int, default 1
        Layers stacked on each other, L.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        The function f.
    bias : bool, default True
        Whether there are b_ih and b_hh. Only their sum matters to the output; both are kept so that
        weights, and steps of gradient descent, are those of PyTorch.
    batch_first : bool, default False
        Whether input and output are (B, T, ·) rather than (T, B, ·). States are never batch-first.
    dropout : float, default 0
        Probability, below 1, with which an entry of a layer's output is zeroed on its way to the
        next layer, a fresh draw for every step; the rest is scaled by 1 / (1 - dropout). Acts only
        where `forward` is given a Generator.
    bidirectional : bool, default False
        Whether each layer also reads the sequence backwards; then D = 2.
    recurrent_init : {"uniform", "orthogonal", "identity", "xavier"}, default "uniform"
        How weight_hh is drawn: as all parameters, U(-1/√H, 1/√H); a random rotation (Saxe et al.
        2014); the identity, meant for "relu" (Le et al. 2015); U(-√(3/H), √(3/H)) (Glorot and
        Bengio 2010).
    dtype : {float32, float64}, default float32
        Type of the parameters, and of everything computed with them.
    rng : Generator or int, optional
        Draws the parameters.

    Attributes
    ----------
    params : dict
        For layer k = 0 .. L-1 and, with the suffix ``_reverse``, for the reverse direction:
        ``weight_ih_l{k}`` (H, I or D*H), ``weight_hh_l{k}`` (H, H), ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (H,).

    Examples
    --------
    >>> layer = RNN(input_size=5, hidden_size=3, rng=0)
    >>> x = np.array([[0, 4], [1, 1], [2, 0], [3, 2]])  # T = 4 steps of B = 2 sequences, one-hot
    >>> output, state, cache = layer.forward(x)
    >>> output.shape, state.shape
    ((4, 2, 3), (1, 2, 3))
    >>> d_x, d_state_0, grads = layer.backward(np.ones_like(output), None, cache)
    >>> {name: gradient.shape for name, gradient in grads.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'weight_ih_l0': (3, 5), 'weight_hh_l0': (3, 3), 'bias_ih_l0': (3,), 'bias_hh_l0': (3,)}
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.nonlinearity = check.choice("nonlinearity", nonlinearity, tuple(cells.ACTIVATIONS))
        super().__init__(
            cells.VanillaCell(nonlinearity),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
        )

    def _arguments(self) -> dict[str, tuple[Any, Any]]:
        return {"nonlinearity": (self.nonlinearity, "tanh")} | super()._arguments()


class GRU(Recurrent):
    """The gated recurrent unit, with the arguments and parameters of `torch.nn.GRU`.

    For each layer and direction (Cho et al. 2014), with ∘ for the product entry by entry::

        r = σ(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)
        z = σ(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)
        n = tanh(W_in x_t + b_in + r ∘ (W_hn h_(t-1) + b_hn))
        h_t = (1 - z) ∘ n + z ∘ h_(t-1)

    The reset gate r acts after the product with W_hn, as in PyTorch, in cuDNN, and in Keras with
    its default ``reset_after=True``; the paper lets it act before. So the three products with
    h_(t-1) are one.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As for `RNN`. Of the biases of n both matter, not only their sum.
    recurrent_init, dtype, rng
        As for `RNN`; each gate's matrix is drawn by itself.

    Attributes
    ----------
    params : dict
        The keys of `RNN`, each array with the rows of r, z and n, one below the other:
        ``weight_ih_l{k}`` (3*H, I or D*H), ``weight_hh_l{k}`` (3*H, H), ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (3*H,).

    Examples
    --------
    >>> layer = GRU(input_size=5, hidden_size=3, rng=0)
    >>> output, state, cache = layer.forward(np.array([[0, 4], [1, 1], [2, 0], [3, 2]]))
    >>> output.shape, state.shape, layer.params["weight_hh_l0"].shape
    ((4, 2, 3), (1, 2, 3), (9, 3))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        super().__init__(
            cells.GRUCell(),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
        )


class LSTM(Recurrent):
    """Long short-term memory, with the arguments and parameters of `torch.nn.LSTM`.

    For each layer and direction (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
    al. 2000), with ∘ for the product entry by entry::

        i = σ(W_ii x_t + b_ii + W_hi h_(t-1) + b_hi)
        f = σ(W_if x_t + b_if + W_hf h_(t-1) + b_hf)
        g = tanh(W_ig x_t + b_ig + W_hg h_(t-1) + b_hg)
        o = σ(W_io x_t + b_io + W_ho h_(t-1) + b_ho)
        c_t = f ∘ c_(t-1) + i ∘ g
        h_t = o ∘ tanh(c_t)

    A state is the pair (h, c), wherever one is passed or returned; of a gradient with respect to it
    either may be None.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As for `RNN`.
    forget_bias : float, optional
        What the forget gate's bias b_if starts from, while b_hf starts from 0. With 1 or 2 a memory
        lasts from the first step of training on: Jozefowicz, Zaremba and Sutskever (2015), "An
        empirical exploration of recurrent network architectures". Without it both biases are
        drawn as all parameters, as in PyTorch.
    recurrent_init, dtype, rng
        As for `RNN`; each gate's matrix is drawn by itself.

    Attributes
    ----------
    params : dict
        The keys of `RNN`, each array with the rows of i, f, g and o, one below the other:
        ``weight_ih_l{k}`` (4*H, I or D*H), ``weight_hh_l{k}`` (4*H, H), ``bias_ih_l{k}`` and
        ``bias_hh_l{k}`` (4*H,).

    Examples
    --------
    >>> layer = LSTM(input_size=5, hidden_size=3, rng=0)
    >>> output, (h, c), cache = layer.forward(np.array([[0, 4], [1, 1], [2, 0], [3, 2]]))
    >>> output.shape, h.shape, c.shape
    ((4, 2, 3), (1, 2, 3), (1, 2, 3))
    >>> d_x, (d_h_0, d_c_0), grads = layer.backward(None, (np.ones_like(h), None), cache)
    >>> grads["weight_hh_l0"].shape
    (12, 3)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        forget_bias: float | None = None,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        super().__init__(
            cells.LSTMCell(),
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
        )
        self.forget_bias = forget_bias
        if forget_bias is not None:
            self.forget_bias = check.real("forget_bias", forget_bias, "(-inf, inf)")
            if not self.bias:
                raise ValueError("forget_bias needs biases: build with bias=True")
            for name, value in self.params.items():
                if name.startswith("bias"):
                    in_use = self.forget_bias if name.startswith("bias_ih") else 0.0
                    value[self.hidden_size : 2 * self.hidden_size] = in_use

    def _arguments(self) -> dict[str, tuple[Any, Any]]:
        return super()._arguments() | {"forget_bias": (self.forget_bias, None)}


# The layers by the names that models and the command line use.
LAYERS: dict[str, type[RNN | GRU | LSTM]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


class RecurrentCell:
    """One step of a layer, for loops of one's own: of which, its subclasses say.

    Parameters
    ----------
    steps : Recurrent
        A layer, one deep and of one direction.
    """

    def __init__(self, steps: Recurrent) -> None:
        self._steps = steps
        self.params: Params = {key.removesuffix("_l0"): v for key, v in steps.params.items()}

    def __repr__(self) -> str:
        """Show every argument that is not the default."""
        _, _, arguments = repr(self._steps).partition("(")
        return f"{type(self).__name__}({arguments}"

    def __call__(self, x: ArrayLike, state: State = None) -> tuple[Array, State]:
        """Return the output, which is the new h, and the new state."""
        return self.forward(x, state)[:2]

    def forward(self, x: ArrayLike, state: State = None) -> tuple[Array, State, Cache]:
        """Take a step.

        Parameters
        ----------
        x : array_like
            Vectors, shape (B, I), or integers for one-hot vectors, shape (B,). Without a batch (I,)
            or a single integer.
        state : array_like of float, shape (B, H) or (H,), optional
            Zeros without it. For `LSTMCell` the pair (h, c) of such.

        Returns
        -------
        output : ndarray of shape (B, H) or (H,)
            The new h.
        state : ndarray of shape (B, H) or (H,)
            The new state: the same numbers, for `LSTMCell` the pair (h, c).
        cache : Cache
            For `backward`.
        """
        one_step = check.array("x", x)[None]
        output, final, cache = self._layer().forward(one_step, _as_layer("state", state))
        return output[0], _as_step(final), cache

    def backward(
        self, d_output: ArrayLike | None, d_state: State, cache: Cache
    ) -> tuple[Array | None, State, Params]:
        """Return d_x (None for integers), d_state_0, and the gradients of the parameters."""
        d_x, d_state_0, grads = self._layer().backward(
            _as_layer("d_output", d_output), _as_layer("d_state", d_state), cache
        )
        named = {key.removesuffix("_l0"): gradient for key, gradient in grads.items()}
        return (None if d_x is None else d_x[0]), _as_step(d_state_0), named

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same cell over other arrays, which are used as they are, not copied."""
        cell = copy.copy(self)
        shapes = {key: value.shape for key, value in self.params.items()}
        cell.params = check.params("params", params, shapes)
        return cell

    def _layer(self) -> Recurrent:
        """Return the layer whose only step is this one, over the arrays that `params` holds now."""
        layer = copy.copy(self._steps)
        layer.params = {f"{key}_l0": value for key, value in self.params.items()}
        return layer


def _as_layer(name: str, array: State) -> State:
    """Give a step's array, or each of a tuple of them, an axis in front."""
    if isinstance(array, tuple):
        return tuple(_as_layer(f"{name}[{i}]", part) for i, part in enumerate(array))
    return None if array is None else check.float_array(name, array)[None]


def _as_step(state: State) -> State:
    """Take the axis in front away."""
    return tuple(part[0] for part in state) if isinstance(state, tuple) else state[0]


class RNNCell(RecurrentCell):
    """One step of `RNN`, with the parameters of `torch.nn.RNNCell`, for loops of one's own.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool, default True
    nonlinearity : {"tanh", "relu"}, default "tanh"
    recurrent_init, dtype, rng
        As in `RNN`.

    Attributes
    ----------
    params : dict
        ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih`` and ``bias_hh`` (H,).

    Examples
    --------
    >>> cell = RNNCell(5, 3, rng=0)
    >>> output, state, cache = cell.forward(np.ones((2, 5), np.float32))
    >>> d_x, d_state_0, grads = cell.backward(np.ones_like(output), None, cache)
    >>> output.shape, bool((output == state).all()), d_x.shape
    ((2, 3), True, (2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        super().__init__(
            RNN(
                input_size,
                hidden_size,
                nonlinearity=nonlinearity,
                bias=bias,
                recurrent_init=recurrent_init,
                dtype=dtype,
                rng=rng,
            )
        )


class GRUCell(RecurrentCell):
    """One step of `GRU`, with the parameters of `torch.nn.GRUCell`, for loops of one's own.

    Parameters
    ----------
    input_size, hidden_size, bias, recurrent_init, dtype, rng
        As in `GRU`.

    Attributes
    ----------
    params : dict
        ``weight_ih`` (3*H, I), ``weight_hh`` (3*H, H), ``bias_ih`` and ``bias_hh`` (3*H,).

    Examples
    --------
    >>> output, state = GRUCell(5, 3, rng=0)(np.ones((2, 5), np.float32))
    >>> output.shape, state.shape
    ((2, 3), (2, 3))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        super().__init__(
            GRU(
                input_size,
                hidden_size,
                bias=bias,
                recurrent_init=recurrent_init,
                dtype=dtype,
                rng=rng,
            )
        )


class LSTMCell(RecurrentCell):
    """One step of `LSTM`, with the parameters of `torch.nn.LSTMCell`, for loops of one's own.

    Parameters
    ----------
    input_size, hidden_size, bias, forget_bias, recurrent_init, dtype, rng
        As in `LSTM`.

    Attributes
    ----------
    params : dict
        ``weight_ih`` (4*H, I), ``weight_hh`` (4*H, H), ``bias_ih`` and ``bias_hh`` (4*H,).

    Examples
    --------
    >>> output, (h, c) = LSTMCell(5, 3, rng=0)(np.ones((2, 5), np.float32))
    >>> output.shape, c.shape, bool((output == h).all())
    ((2, 3), (2, 3), True)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float | None = None,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        super().__init__(
            LSTM(
                input_size,
                hidden_size,
                bias=bias,
                forget_bias=forget_bias,
                recurrent_init=recurrent_init,
                dtype=dtype,
                rng=rng,
            )
        )
