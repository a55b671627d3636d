"""Models: layers, a read-out and a loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check
from .generation import Sampler, sampler
from .linear import Linear
from .losses import softmax_cross_entropy
from .recurrent import RNN

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource


class LanguageModel:
    """Predicts the next token: one-hot input, recurrent layers, read-out, softmax.

    The state goes in and comes out of every call. Whoever passes it on to the next window carries
    the context over; no gradient crosses from one call to the other (truncated backpropagation
    through time, Williams and Peng 1990).

    Parameters
    ----------
    vocab_size : int
        Number of tokens, V.
    hidden_size : int
        Units in a layer, H.
    num_layers : int, default 1
        Layers, L.
    cell : {"rnn"}, default "rnn"
        Kind of recurrent layer.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        Of the simple recurrent cell.
    dropout : float, default 0
        Between layers; acts where a Generator is passed to `loss_and_grads`.
    dtype : {float32, float64}, default float32
    rng : Generator or int, optional
        Draws the parameters.

    Attributes
    ----------
    params : dict
        The layers' parameters as ``rnn.…``, ``readout.weight`` (V, H) and ``readout.bias`` (V,).

    Examples
    --------
    >>> model = LanguageModel(vocab_size=4, hidden_size=8, rng=0)
    >>> text = np.array([[0], [1], [2], [3], [0], [1], [2], [3], [0]])
    >>> for _ in range(100):
    ...     loss, grads, state = model.loss_and_grads(text[:-1], text[1:])
    ...     for name, gradient in grads.items():
    ...         model.params[name] -= 0.5 * gradient
    >>> ids = model.generate([0], rng=0, temperature=0)
    >>> [next(ids) for _ in range(6)]
    [1, 2, 3, 0, 1, 2]
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        cell: str = "rnn",
        nonlinearity: str = "tanh",
        dropout: float = 0.0,
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.vocab_size = check.integer("vocab_size", vocab_size)
        check.choice("cell", cell, ("rnn",))
        rng = check.generator(rng)
        self._parts: dict[str, Any] = {
            "rnn": RNN(
                self.vocab_size,
                hidden_size,
                num_layers,
                nonlinearity,
                dropout=dropout,
                dtype=dtype,
                rng=rng,
            ),
            "readout": Linear(hidden_size, self.vocab_size, dtype=dtype, rng=rng),
        }
        self.params: Params = prefixed({name: part.params for name, part in self._parts.items()})

    @property
    def rnn(self) -> RNN:
        """The recurrent layers, over the arrays in `params`."""
        part: RNN = self._part("rnn")
        return part

    @property
    def readout(self) -> Linear:
        """The map from hidden state to logits, over the arrays in `params`."""
        part: Linear = self._part("readout")
        return part

    def __repr__(self) -> str:
        rnn = self.rnn
        return f"LanguageModel({self.vocab_size}, {rnn.hidden_size}, layers={rnn!r})"

    def __call__(self, inputs: ArrayLike, state: ArrayLike | None = None) -> tuple[Array, Array]:
        """Return the logits of the token after each input, (T, B, V), and the final state."""
        hidden, state = self.rnn(self._checked("inputs", inputs), state)
        return self.readout(hidden), state

    def loss(
        self, inputs: ArrayLike, targets: ArrayLike, state: ArrayLike | None = None
    ) -> tuple[Any, Array]:
        """Return the mean loss in nats a token, and the final state.

        Parameters
        ----------
        inputs, targets : array_like of int, shape (T, B) or (T,)
        state : ndarray of shape (L, B, H) or (L, H), optional
            Zeros without it.
        """
        logits, state = self(inputs, state)
        return softmax_cross_entropy(logits, self._checked("targets", targets))[0], state

    def loss_and_grads(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        state: ArrayLike | None = None,
        *,
        rng: RandomSource = None,
    ) -> tuple[Any, Params, Array]:
        """Return the mean loss, its gradients, and the final state.

        Parameters
        ----------
        inputs, targets : array_like of int, shape (T, B) or (T,)
        state : ndarray of shape (L, B, H) or (L, H), optional
            Zeros without it.
        rng : Generator or int, optional
            Draws the dropout masks; without it nothing is dropped out.

        Returns
        -------
        loss : scalar
            Nats a token.
        grads : dict
            Keys and shapes of `params`.
        state : ndarray of shape (L, B, H)
            To pass on to the next window. No gradient flows back through it.
        """
        rnn, readout = self.rnn, self.readout
        hidden, state, rnn_cache = rnn.forward(self._checked("inputs", inputs), state, rng=rng)
        logits, readout_cache = readout.forward(hidden)
        loss, d_logits = softmax_cross_entropy(logits, self._checked("targets", targets))
        d_hidden, readout_grads = readout.backward(d_logits, readout_cache)
        _, _, rnn_grads = rnn.backward(d_hidden, None, rnn_cache)
        return loss, prefixed({"rnn": rnn_grads, "readout": readout_grads}), state

    def generate(
        self,
        prefix: ArrayLike,
        *,
        rng: RandomSource = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[int]:
        """Return an iterator over the tokens that follow a prefix, without end.

        Parameters
        ----------
        prefix : array_like of int, shape (any,)
            Read first, to warm the state up. After an empty prefix the first token is drawn from
            the read-out of the initial state.
        rng : Generator or int, optional
            The same seed gives the same tokens.
        temperature, top_k, top_p
            As in `nprnn.generation.sampler`; temperature 0 takes the likeliest token.

        Returns
        -------
        iterator of int
        """
        ids = check.index_array("prefix", prefix, self.vocab_size, "vocab_size")
        check.shape("prefix", ids, "(number of tokens,)", ids.ndim == 1)
        return self._continue(ids, sampler(temperature, top_k, top_p), check.generator(rng))

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same model over other arrays, which are used as they are, not copied."""
        model = copy.copy(self)
        shapes = {key: value.shape for key, value in self.params.items()}
        model.params = check.params("params", params, shapes)
        return model

    def _continue(self, prefix: Array, draw: Sampler, rng: np.random.Generator) -> Iterator[int]:
        rnn, readout = self.rnn, self.readout
        state, h = None, np.zeros(rnn.hidden_size, readout.params["weight"].dtype)
        if len(prefix):
            hidden, state = rnn(prefix)
            h = hidden[-1]
        while True:
            token = draw(readout(h), rng)
            yield token
            hidden, state = rnn(np.array([token]), state)
            h = hidden[-1]

    def _checked(self, name: str, tokens: ArrayLike) -> Array:
        """Refuse anything but integers: vectors are not what this model reads."""
        given = check.array(name, tokens)
        check.shape(name, given, "(T, B) or (T,)", given.ndim in (1, 2))
        return check.index_array(name, given, self.vocab_size, "vocab_size")

    def _part(self, name: str) -> Any:
        """Return a part over the arrays that `params` holds now: there are no others."""
        part = copy.copy(self._parts[name])
        part.params = {
            key.removeprefix(f"{name}."): value
            for key, value in self.params.items()
            if key.startswith(f"{name}.")
        }
        return part


def prefixed(parts: Mapping[str, Params]) -> Params:
    """Join the dicts of the parts to one, the name of the part in front of each key."""
    return {f"{part}.{key}": value for part, d in parts.items() for key, value in d.items()}
