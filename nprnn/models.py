"""Models: recurrent layers, a read-out and a loss.

They differ in what is read out, and in the loss; everything else is written once, in
`SequenceModel`.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from . import _validation as check
from .embedding import Embedding
from .generation import Sampler, sampler
from .linear import Linear
from .losses import summed_cross_entropy, summed_squared_error
from .parts import columns, number_of_parts, side_by_side
from .recurrent import LAYERS
from .stack import as_parts, dropout_mask, from_parts
from .stepping import Stepper

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource
    from .stack import Cache, Recurrent, State

Answer = TypeVar("Answer")

# The most rows, steps times sequences, that are on their way at once. Enough for products over all
# of them to run at full speed, few enough for what a window needs beside the states to be little.
WINDOW_ROWS = 1536


class Window(NamedTuple):
    """Consecutive steps of a batch, and what belongs to them."""

    inputs: ArrayLike
    targets: ArrayLike
    lengths: ArrayLike | None
    mask: ArrayLike | None

    def part(self, own: slice) -> Window:
        """Return the same steps of some sequences, of arrays (T, B, ...) and lengths (B,)."""
        inputs, targets = np.asarray(self.inputs), np.asarray(self.targets)
        lengths = None if self.lengths is None else np.asarray(self.lengths)[own]
        mask = None if self.mask is None else np.asarray(self.mask)[:, own]
        return Window(inputs[:, own], targets[:, own], lengths, mask)


class Pass(NamedTuple):
    """What the backward pass of a window needs of its forward pass."""

    features: Array
    dropped: Array | None  # the dropout mask on the features
    output: Array
    final: State
    rnn_cache: Cache
    input_cache: Any


class SequenceModel:
    """What the models have in common: layers, read-out, and one dict of parameters.

    Parameters
    ----------
    input_size : int
        Size of the input vectors, I; for integer (one-hot) input the number of classes.
    hidden_size : int
        Units in a layer and direction, H.
    output_size : int
        Size of what is read out, V.
    num_layers : int, default 1
        Layers, L.
    cell : {"rnn", "gru", "lstm"}, default "rnn"
        Kind of recurrent layer: `RNN`, `GRU` or `LSTM`.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        Of ``cell="rnn"``; the others have none to choose.
    forget_bias : float, optional
        Of ``cell="lstm"``; see `LSTM`.
    dropout : float, default 0
        Probability with which an entry of what a layer passes up is zeroed, between layers and in
        front of the read-out, but not from step to step (Zaremba, Sutskever and Vinyals 2014). Acts
        where a Generator is passed to `loss_and_grads`.
    bidirectional : bool, default False
        Whether the layers also read backwards; then D = 2.
    recurrent_init : str, default "uniform"
        How the recurrent matrices are drawn; see `RNN`.
    dtype : {float32, float64}, default float32
    rng : Generator or int, optional
        Draws the parameters.

    Attributes
    ----------
    params : dict
        The layers' parameters as ``rnn.…``, ``readout.weight`` (V, D*H) and ``readout.bias`` (V,).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        num_layers: int = 1,
        cell: str = "rnn",
        nonlinearity: str = "tanh",
        forget_bias: float | None = None,
        dropout: float = 0.0,
        bidirectional: bool = False,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        rng = check.generator(rng)
        self.dropout = check.real("dropout", dropout, "[0, 1)")
        layers = LAYERS[check.choice("cell", cell, tuple(LAYERS))](
            input_size,
            hidden_size,
            num_layers,
            dropout=self.dropout if num_layers != 1 else 0.0,
            bidirectional=bidirectional,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
            **_cell_options(cell, nonlinearity, forget_bias),
        )
        width = layers.num_directions * layers.hidden_size
        readout = Linear(width, output_size, dtype=dtype, rng=rng)
        self._parts: dict[str, Any] = {}
        self._names: dict[str, dict[str, str]] = {}  # in `params`, by part and its own name
        self.params: Params = {}
        self._add_part("rnn", layers)
        self._add_part("readout", readout)

    @property
    def rnn(self) -> Recurrent:
        """The recurrent layers, over the arrays in `params`."""
        part: Recurrent = self._part("rnn")
        return part

    @property
    def readout(self) -> Linear:
        """The map from hidden state to output, over the arrays in `params`."""
        part: Linear = self._part("readout")
        return part

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rnn!r}, {self.readout!r})"

    def __call__(
        self,
        inputs: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        threads: int = 1,
    ) -> tuple[Array, State]:
        """Return what is read out, and the final state, for inference.

        Parameters
        ----------
        inputs : array_like, shape (T, B, I), or integers (T, B)
            Without a batch (T, I) or (T,).
        state : ndarray of shape (L*D, B, H) or (L*D, H), optional
            Zeros without it. For ``cell="lstm"`` the pair (h, c) of such.
        lengths : array_like of int, shape (B,), optional
            Valid steps of each sequence, in any order, 0 allowed.
        threads : int, default 1
            In how many threads to compute, at most; see `loss_and_grads`.
        """
        parts = self._number_of_parts(inputs, check.integer("threads", threads))
        if parts > 1:
            return self._read_in_parts(parts, np.asarray(inputs), state, lengths)
        x, _ = self._enter(inputs)
        output, final = self.rnn.read(x, state, lengths=lengths)
        return self.readout(self._features(output, final, lengths)), final

    def loss(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        threads: int = 1,
    ) -> tuple[Any, State]:
        """Return the mean loss, and the final state; see `loss_and_grads`."""
        prediction, final = self(inputs, state, lengths=lengths, threads=threads)
        counted = self._counted(mask, lengths, prediction)
        return self._criterion(prediction, targets, counted, None)[0], final

    def loss_and_grads(
        self,
        inputs: ArrayLike,
        targets: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        rng: RandomSource = None,
        recompute_every: int | str | None = None,
        threads: int = 1,
    ) -> tuple[Any, Params, State]:
        """Return the mean loss, its gradients, and the final state.

        A long sequence is read in windows of at most 1,536 steps of single sequences, one after the
        other, and read back from the last to the first: the same gradients, in arrays that stay
        small. In single precision, and beside inputs and parameters, about

            4 (N L D H (G + S + K)  +  M ((G + 2) H + 2V)  +  P)    bytes

        are needed, with N = T*B, M the smaller of N and 1,536, S states and K further numbers a
        unit (`nprnn.cells`; an `RNN` keeps no gates, so that for it G is 0 in the first term), and
        P parameters. With `recompute_every` the first term is that of the steps between two states
        that are kept instead.

        Parameters
        ----------
        inputs, state, lengths
            As for a call of the model.
        targets : array_like
            What the model is to predict, in the shape of its predictions: a class or a vector for
            each step, or for each sequence.
        mask : array_like of bool, shape of the predictions but for the last axis, optional
            Predictions that count. Steps beyond a sequence's length never do.
        rng : Generator or int, optional
            Draws the dropout masks; without it nothing is dropped out.
        recompute_every : int or "auto", optional
            Keep the state every so many steps only, rounded up to whole windows, and compute
            everything between them again on the way back: the same gradients bit for bit, with a
            forward pass more. "auto" takes √T steps, so that memory grows with √T (Chen et al.
            2016; Gruslys et al. 2016). For models that read in one direction and predict at every
            step.
        threads : int, default 1
            In how many threads to compute, at most, each with an equal part of the batch: as many
            as divide it and have enough to do with each step. Each has windows of its own, so that
            M is that many times as large; gradients are added up in another order; and meanwhile
            BLAS gives everything in the process one thread. For models that predict at every step.

        Returns
        -------
        loss : scalar
            Mean over the predictions that count.
        grads : dict
            Keys and shapes of `params`.
        state : ndarray of shape (L*D, B, H), or the pair of such
            To pass on to the next window. No gradient flows back through it.
        """
        rng = None if rng is None else check.generator(rng)
        whole = Window(inputs, targets, lengths, mask)
        count, spans, parts = self._plan(whole, recompute_every, check.integer("threads", threads))
        if parts == 1:
            return self._learn(count, spans, state, rng)
        return self._learn_in_parts(parts, count, spans, state, rng)

    def _in_parts(
        self, parts: int, B: int, state: State, work: Callable[[int, slice, State], Answer]
    ) -> list[Answer]:
        """Return what comes of each part: from its number, its columns, and its initial state."""
        calls = [
            functools.partial(work, part, columns(part, parts, B), own_state)
            for part, own_state in enumerate(self.rnn.shared_out(state, B, parts))
        ]
        return side_by_side(calls)

    def _read_in_parts(
        self, parts: int, inputs: Array, state: State, lengths: ArrayLike | None
    ) -> tuple[Array, State]:
        """Do as a call does, in so many threads, each with an equal part of the batch."""
        T, B = inputs.shape[:2]
        valid = None if lengths is None else check.lengths("lengths", lengths, T, B)

        def read(part: int, own: slice, own_state: State) -> tuple[Array, State]:
            return self(inputs[:, own], own_state, lengths=None if valid is None else valid[own])

        predictions, finals = zip(*self._in_parts(parts, B, state, read), strict=True)
        return np.concatenate(predictions, axis=1), _joined_states(finals)

    def _learn_in_parts(
        self,
        parts: int,
        count: int | None,
        spans: list[list[Window]],
        state: State,
        rng: np.random.Generator | None,
    ) -> tuple[Any, Params, State]:
        """Do as `_learn` does, in so many threads, each with an equal part of the batch."""
        rngs: list[Any] = [None] * parts
        if rng is not None:
            from .columns import Columns

            rngs = [Columns(copy.deepcopy(rng), part, parts) for part in range(parts)]

        def learn(part: int, own: slice, own_state: State) -> tuple[Any, Params, State]:
            own_spans = [[window.part(own) for window in span] for span in spans]
            return self._learn(count, own_spans, own_state, rngs[part])

        B = np.shape(spans[0][0].inputs)[1]
        losses, grads, finals = zip(*self._in_parts(parts, B, state, learn), strict=True)
        if rng is not None:
            rng.bit_generator.state = rngs[0].bit_generator.state
        loss, total = functools.reduce(np.add, losses), functools.reduce(_add, grads)
        return loss, total, _joined_states(finals)

    def _learn(
        self,
        count: int | None,
        spans: list[list[Window]],
        state: State,
        rng: np.random.Generator | None,
    ) -> tuple[Any, Params, State]:
        """Read all windows and back, and return loss, gradients and final state."""
        rnn, readout = self.rnn, self.readout
        starts: list[tuple[State, Any]] = []
        for span in spans:
            starts.append((state, None if rng is None else copy.deepcopy(rng)))
            passes = self._read(rnn, span, state, rng)
            state = passes[-1].final
        final, d_state, losses = state, None, []
        grads: Params = {}
        for span in reversed(spans):
            begin = starts.pop()
            passes = passes or self._read(rnn, span, *begin)
            for window in reversed(span):
                loss, part, d_state = self._read_backward(
                    rnn, readout, window, passes.pop(), d_state, count
                )
                losses.append(loss)
                grads = _add(grads, part) if grads else part
        return functools.reduce(np.add, losses), grads, final

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same model over other arrays, which are used as they are, not copied."""
        model = copy.copy(self)
        shapes = {key: value.shape for key, value in self.params.items()}
        model.params = check.params("params", params, shapes)
        return model

    def _plan(
        self, whole: Window, recompute_every: int | str | None, threads: int
    ) -> tuple[int | None, list[list[Window]], int]:
        """Cut the steps into spans to compute again, and these into windows.

        Return how many predictions count in all, or None where there is one window, which counts
        its own; the spans; and in how many parts of the batch they are to be read.
        """
        if recompute_every is not None and not self._in_windows:
            raise ValueError(
                "recompute_every needs a model that reads in one direction and predicts at every "
                f"step, which {type(self).__name__} (bidirectional={self.rnn.bidirectional}) is not"
            )
        if recompute_every != "auto" and recompute_every is not None:
            recompute_every = check.integer("recompute_every", recompute_every)
        lead = _lead(whole.inputs)
        parts = self._number_of_parts(whole.inputs, threads)
        number = -(-math.prod(lead) // (parts * WINDOW_ROWS))
        in_windows = self._in_windows and number > 1 and lead[0] > 1
        if not in_windows and parts == 1:
            return None, [[whole]], 1
        steps = -(-lead[0] // number) if in_windows else lead[0]
        count, windows = _cut(whole, lead, steps)
        if recompute_every is None:
            return count, [windows], parts
        every = math.isqrt(lead[0]) if recompute_every == "auto" else int(recompute_every)
        size = -(-every // steps)  # windows
        return count, [windows[i : i + size] for i in range(0, len(windows), size)], parts

    def _number_of_parts(self, inputs: ArrayLike, threads: int) -> int:
        """Return in how many parts a batch is computed; 1 without a batch."""
        lead = _lead(inputs) if threads > 1 else ()
        if len(lead) < 2 or not lead[0]:
            return 1
        return number_of_parts(threads, lead[1], self.rnn.weights(0).hh.size)

    @property
    def _in_windows(self) -> bool:
        """Whether what is predicted in a window depends on none that comes after it."""
        return not self._parts["rnn"].bidirectional

    def _read(
        self, rnn: Recurrent, span: list[Window], state: State, rng: np.random.Generator | None
    ) -> list[Pass]:
        """Read windows one after the other, and return what the backward pass needs of each."""
        passes = []
        for inputs, _, lengths, _ in span:
            x, input_cache = self._enter(inputs)
            output, state, rnn_cache = rnn.run(x, state, lengths=lengths, rng=rng)
            features, dropped = self._features(output, state, lengths), None
            if self.dropout and rng is not None:
                sequences = -2 if output.ndim == 3 else None  # (T, ·) is one without a batch
                dropped = dropout_mask(features, self.dropout, rng, sequences)
                features = features * dropped
            passes.append(Pass(features, dropped, output, state, rnn_cache, input_cache))
        return passes

    def _read_backward(
        self,
        rnn: Recurrent,
        readout: Linear,
        window: Window,
        read: Pass,
        d_final: State,
        count: int | None,
    ) -> tuple[Any, Params, State]:
        """Return a window's part of the loss, of the gradients, and the gradient of its start."""
        loss, d_features, readout_grads = self._read_out(readout, window, read, count)
        d_output, d_state = self._features_backward(
            d_features, read.output, read.final, window.lengths
        )
        d_state = d_final if d_state is None else d_state
        d_x, d_state, rnn_grads = rnn.run_back(d_output, d_state, read.rnn_cache)
        grads = {"rnn": rnn_grads, "readout": readout_grads}
        return loss, self._joined(grads | self._enter_backward(d_x, read.input_cache)), d_state

    def _read_out(
        self, readout: Linear, window: Window, read: Pass, count: int | None
    ) -> tuple[Any, Array, Params]:
        """Return a window's part of the loss, and the gradients of features and read-out."""
        prediction, cache = readout.forward(read.features)
        counted = self._counted(window.mask, window.lengths, prediction)
        loss, d_prediction = self._criterion(prediction, window.targets, counted, count)
        d_features, grads = readout.backward(d_prediction, cache)
        if read.dropped is not None:
            d_features *= read.dropped
        return loss, d_features, grads

    def _criterion(
        self, prediction: Array, targets: ArrayLike, mask: ArrayLike | None, count: int | None
    ) -> tuple[Any, Array]:
        """Return the loss, and its gradient with respect to the prediction."""
        return summed_cross_entropy(prediction, targets, mask, count)

    def _enter(self, inputs: ArrayLike) -> tuple[Array, Any]:
        """Return what the recurrent layers see, and what `_enter_backward` needs."""
        return self.rnn.check_input(inputs), None

    def _enter_backward(self, d_x: Array | None, cache: Any) -> dict[str, Params]:
        """Return the gradients, by part, of what stands in front of the recurrent layers."""
        return {}

    def _joined(self, grads: dict[str, Params]) -> Params:
        """Return the gradients of all parts as one dict, in the order of `params`."""
        named = prefixed(grads)
        return {name: named[name] for name in self.params}

    def _features(self, output: Array, state: State, lengths: ArrayLike | None) -> Array:
        """Return what the read-out sees: here, the output of every step."""
        return output

    def _features_backward(
        self, d_features: Array, output: Array, state: State, lengths: ArrayLike | None
    ) -> tuple[Array | None, State]:
        """Return the gradients of output and state that follow from those of the features."""
        return d_features, None

    def _counted(
        self, mask: ArrayLike | None, lengths: ArrayLike | None, prediction: Array
    ) -> ArrayLike | None:
        """Return the mask of the predictions that count, those beyond the lengths left out."""
        if lengths is None:
            return mask
        valid = np.arange(len(prediction))[:, None] < np.asarray(lengths)  # (T, B)
        if mask is None:
            return valid
        given = check.array("mask", mask)
        check.shape("mask", given, f"(T, B) = {valid.shape}", given.shape == valid.shape)
        return np.where(valid, given, False)

    def _add_part(self, name: str, part: Any) -> None:
        self._parts[name] = part
        self._names[name] = {own: f"{name}.{own}" for own in part.params}
        self.params |= prefixed({name: part.params})

    def _part(self, name: str) -> Any:
        """Return a part over the arrays that `params` holds now: there are no others."""
        part = self._parts[name]
        params = {own: self.params[key] for own, key in self._names[name].items()}
        if not all(map(operator.is_, params.values(), part.params.values())):
            part = copy.copy(part)
            part.params = params
        return part


class SequenceTagger(SequenceModel):
    """Gives a class to every step of a sequence; `SequenceModel` has the parameters.

    Predictions are logits of shape (T, B, V), targets integers of shape (T, B), the loss the mean
    cross-entropy in nats.

    Examples
    --------
    >>> model = SequenceTagger(4, 8, 2, bidirectional=True, rng=0)
    >>> x = np.random.default_rng(1).normal(size=(5, 3, 4)).astype(np.float32)
    >>> logits, state = model(x, lengths=[5, 0, 2])
    >>> loss, grads, state = model.loss_and_grads(x, np.ones((5, 3), int), lengths=[5, 0, 2])
    >>> logits.shape, grads["readout.weight"].shape
    ((5, 3, 2), (2, 16))
    """


class SequenceClassifier(SequenceModel):
    """Gives a class to a sequence as a whole.

    Predictions are logits of shape (B, V), targets integers of shape (B,), the loss the mean
    cross-entropy in nats.

    Parameters
    ----------
    input_size, hidden_size, output_size, **options
        As for `SequenceModel`.
    pool : {"last", "mean"}, default "last"
        What is read out: the last layer's state after each direction's last valid step, or the mean
        of the last layer's outputs over the valid steps. For a sequence of length 0 that is the
        initial state, and 0.

    Examples
    --------
    >>> model = SequenceClassifier(4, 8, 3, pool="mean", rng=0)
    >>> x = np.random.default_rng(1).normal(size=(5, 2, 4)).astype(np.float32)
    >>> loss, grads, state = model.loss_and_grads(x, [2, 0], lengths=[5, 3])
    >>> model(x, lengths=[5, 3])[0].shape
    (2, 3)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        pool: str = "last",
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, output_size, **options)
        self.pool = check.choice("pool", pool, ("last", "mean"))

    def _features(self, output: Array, state: State, lengths: ArrayLike | None) -> Array:
        if self.pool == "mean":
            # Output is 0 after the last valid step.
            mean: Array = output.sum(axis=0) / self._num_valid(output, lengths)
            return mean
        h = state[0] if isinstance(state, tuple) else state
        top = h[-self.rnn.num_directions :]  # (D, B, H) or (D, H)
        return np.concatenate(list(top), axis=-1)

    def _features_backward(
        self, d_features: Array, output: Array, state: State, lengths: ArrayLike | None
    ) -> tuple[Array | None, State]:
        if self.pool == "mean":
            d_step = d_features / self._num_valid(output, lengths)
            return np.broadcast_to(d_step, output.shape), None
        num_directions = self.rnn.num_directions
        h, *others = state if isinstance(state, tuple) else (state,)
        d_h = np.zeros(h.shape, d_features.dtype)
        d_h[-num_directions:] = np.split(d_features, num_directions, axis=-1)
        return None, (d_h, *(None for _ in others)) if others else d_h

    @property
    def _in_windows(self) -> bool:
        return False  # one prediction, from all steps

    def _number_of_parts(self, inputs: ArrayLike, threads: int) -> int:
        return 1  # targets and mask have no steps

    def _num_valid(self, output: Array, lengths: ArrayLike | None) -> Array:
        """Return the number of valid steps, at least 1, in the output's precision."""
        steps = len(output) if lengths is None else np.maximum(lengths, 1)[:, None]
        return np.asarray(steps, output.real.dtype)

    def _counted(
        self, mask: ArrayLike | None, lengths: ArrayLike | None, prediction: Array
    ) -> ArrayLike | None:
        return mask


class SequenceRegressor(SequenceModel):
    """Predicts real values at every step; `SequenceModel` has the parameters.

    Predictions and targets have shape (T, B, V), the loss is the mean squared error. The values may
    be those of one step ahead, or of several at once: the targets decide. A model that predicts its
    own next input can be fed with its predictions: see `forecast`.

    Examples
    --------
    >>> model = SequenceRegressor(1, 8, 1, rng=0)
    >>> series = np.sin(np.arange(30, dtype=np.float32)).reshape(-1, 1, 1)  # (T, B=1, I=1)
    >>> loss, grads, state = model.loss_and_grads(series[:-1], series[1:])
    >>> model.forecast(series, num_steps=10).shape
    (10, 1, 1)
    """

    def forecast(self, inputs: ArrayLike, num_steps: int, state: State = None) -> Array:
        """Read a sequence, and go on with it: each prediction is the next input.

        Parameters
        ----------
        inputs : array_like of float, shape (T, B, I) or (T, I)
        num_steps : int
            Steps to predict.
        state : ndarray of shape (L, B, H) or (L, H), optional

        Returns
        -------
        ndarray of shape (num_steps, B, I) or (num_steps, I)
        """
        num_steps = check.integer("num_steps", num_steps)
        rnn, readout = self.rnn, self.readout
        if rnn.bidirectional or readout.out_features != rnn.input_size:
            raise ValueError(
                "forecast needs a model of one direction whose predictions are its next inputs: "
                f"input_size is {rnn.input_size}, output_size {readout.out_features}, "
                f"bidirectional {rnn.bidirectional}"
            )
        prediction, state = self(inputs, state)
        path = [prediction[-1]]
        while len(path) < num_steps:
            prediction, state = self(path[-1][None], state)
            path.append(prediction[-1])
        return np.stack(path)

    def _criterion(
        self, prediction: Array, targets: ArrayLike, mask: ArrayLike | None, count: int | None
    ) -> tuple[Any, Array]:
        return summed_squared_error(prediction, targets, mask, count)


class LanguageModel(SequenceModel):
    """Predicts the next token: one-hot or embedded input, recurrent layers, read-out, softmax.

    The state goes in and comes out of every call. Whoever passes it on to the next window carries
    the context over; no gradient crosses from one call to the other (truncated backpropagation
    through time, Williams and Peng 1990).

    Inputs and targets are integers of shape (T, B) or (T,), predictions logits of shape (T, B, V),
    the loss the mean cross-entropy in nats a token.

    Parameters
    ----------
    vocab_size : int
        Number of tokens, V.
    hidden_size : int
        Units in a layer, H.
    num_layers, cell, nonlinearity, forget_bias, dropout, recurrent_init, dtype, rng
        As for `SequenceModel`.
    embedding_size : int, optional
        Width E of a vector for each token that the layers read in place of a one-hot vector. It
        pays where V is large: W_ih has E columns instead of V.
    tie_weights : bool, default False
        Whether the embedding is also the read-out's weight: Press and Wolf (2017), "Using the
        output embedding to improve language models". Needs ``embedding_size=hidden_size``.

    Attributes
    ----------
    params : dict
        ``embedding.weight`` (V, E), if there is one; the layers' parameters as ``rnn.…``; and
        ``readout.weight`` (V, H), unless it is tied, and ``readout.bias`` (V,).

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
        forget_bias: float | None = None,
        dropout: float = 0.0,
        embedding_size: int | None = None,
        tie_weights: bool = False,
        recurrent_init: str = "uniform",
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.vocab_size = check.integer("vocab_size", vocab_size)
        if embedding_size is not None:
            embedding_size = check.integer("embedding_size", embedding_size)
        self.embedding_size = embedding_size
        self.tie_weights = check.flag("tie_weights", tie_weights)
        if tie_weights and embedding_size != hidden_size:
            raise ValueError(
                f"tie_weights needs embedding_size=hidden_size={hidden_size}, got {embedding_size}"
            )
        rng = check.generator(rng)
        super().__init__(
            embedding_size or self.vocab_size,
            hidden_size,
            self.vocab_size,
            num_layers=num_layers,
            cell=cell,
            nonlinearity=nonlinearity,
            forget_bias=forget_bias,
            dropout=dropout,
            recurrent_init=recurrent_init,
            dtype=dtype,
            rng=rng,
        )
        if embedding_size:
            embedding = Embedding(self.vocab_size, embedding_size, dtype=dtype, rng=rng)
            if tie_weights:  # drawn as a read-out's weight: an embedding's would give wild logits
                embedding.params["weight"] = self.params.pop("readout.weight")
                self._names["readout"]["weight"] = "embedding.weight"
            others, self.params = self.params, {}
            self._add_part("embedding", embedding)
            self.params |= others

    def _enter(self, inputs: ArrayLike) -> tuple[Array, Any]:
        ids = self._tokens(inputs)
        return self._part("embedding").forward(ids) if self.embedding_size else (ids, None)

    def _enter_backward(self, d_x: Array | None, cache: Any) -> dict[str, Params]:
        if d_x is None:
            return {}
        return {"embedding": self._part("embedding").backward(d_x, cache)}

    def _joined(self, grads: dict[str, Params]) -> Params:
        if self.tie_weights:  # one array in two places: its gradient is the sum of both
            grads["embedding"]["weight"] += grads["readout"].pop("weight")
        return super()._joined(grads)

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

    def _continue(self, prefix: Array, draw: Sampler, rng: np.random.Generator) -> Iterator[int]:
        rnn, readout = self.rnn, self.readout.params
        W, b = readout["weight"], readout["bias"]
        state, h = None, np.zeros(rnn.hidden_size, W.dtype)
        if len(prefix):
            hidden, state = rnn(self._enter(prefix)[0], state)
            h = hidden[-1]
        step, logits = Stepper(rnn, state), np.empty_like(b)  # (V,)
        vectors = self.params["embedding.weight"] if self.embedding_size else None
        while True:
            W.dot(h, logits)
            np.add(logits, b, logits)
            token = draw(logits, rng)
            yield token
            h = step(token if vectors is None else vectors[token])

    def _tokens(self, inputs: ArrayLike) -> Array:
        """Refuse anything but integers: vectors are not what this model reads."""
        given = check.array("inputs", inputs)
        check.shape("inputs", given, "(T, B) or (T,)", given.ndim in (1, 2))
        ids = check.index_array("inputs", given, self.vocab_size, "vocab_size")
        return ids.astype(np.intp, copy=False)


def _cell_options(cell: str, nonlinearity: str, forget_bias: float | None) -> dict[str, Any]:
    """Return the options that only one kind of layer has, or refuse those of another."""
    if cell != "rnn" and nonlinearity != "tanh":
        raise ValueError(f"nonlinearity belongs to cell='rnn', got cell={cell!r}: leave it out")
    if cell != "lstm" and forget_bias is not None:
        raise ValueError(f"forget_bias belongs to cell='lstm', got cell={cell!r}: leave it out")
    if cell == "rnn":
        return {"nonlinearity": nonlinearity}
    return {"forget_bias": forget_bias} if cell == "lstm" else {}


def _lead(inputs: ArrayLike) -> tuple[int, ...]:
    """Return (T, B) of inputs with a batch, else (T,)."""
    given = check.array("inputs", inputs)
    batched = given.ndim == (2 if given.dtype.kind in "iu" else 3)
    return given.shape[: 1 + batched]


def _joined_states(states: Iterable[State]) -> State:
    """Return the states of all parts of a batch, (L*D, B/n, H) each, as that of the batch."""
    kinds = zip(*map(as_parts, states), strict=True)
    return from_parts([np.concatenate(kind, axis=1) for kind in kinds])


def _cut(whole: Window, lead: tuple[int, ...], steps: int) -> tuple[int, list[Window]]:
    """Cut (T, B, ...) or (T, ...) into windows; also return how many predictions count in all."""
    T, letters = lead[0], "T, B"[: 4 * len(lead) - 3]
    inputs, targets = np.asarray(whole.inputs), check.array("targets", whole.targets)
    fits = targets.shape[: len(lead)] == lead
    check.shape("targets", targets, f"({letters}, ...) = {lead}, as the inputs", fits)
    mask = None if whole.mask is None else check.array("mask", whole.mask)
    if mask is not None:
        check.shape("mask", mask, f"({letters}) = {lead}", mask.shape == lead)
    lengths = whole.lengths
    if lengths is not None and len(lead) == 2:
        lengths = check.lengths("lengths", lengths, *lead)
        valid = np.arange(T)[:, None] < lengths
        mask = valid if mask is None else np.where(valid, mask, False)
    windows = []
    for start in range(0, T, steps):
        part = slice(start, start + steps)
        left = None if lengths is None else np.clip(np.subtract(lengths, start), 0, steps)
        own_mask = None if mask is None else mask[part]
        windows.append(Window(inputs[part], targets[part], left, own_mask))
    count = math.prod(lead) if mask is None else int(np.count_nonzero(mask))
    if not count:
        raise ValueError("no prediction counts: the mean over nothing is undefined")
    return count, windows


def _add(totals: Params, parts: Params) -> Params:
    for name, part in parts.items():
        totals[name] += part
    return totals


def prefixed(parts: Mapping[str, Params]) -> Params:
    """Join the dicts of the parts to one, the name of the part in front of each key."""
    return {f"{part}.{key}": value for part, d in parts.items() for key, value in d.items()}
