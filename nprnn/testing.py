"""For tests with pytest and Hypothesis: what to draw, and an assertion on gradients.

``pip install 'nprnn[test]'`` brings what this needs. Whoever writes a cell tests it in one line::

    assert_gradients(Recurrent(MyCell(), 3, 4))

Biases, upstream gradients and initial states are random and never 0 or 1: such values hide terms
that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "nprnn.testing needs Hypothesis: pip install 'nprnn[test]'", name=error.name
    ) from None

from . import _validation as check
from .gradcheck import Report, check_gradients
from .recurrent import LAYERS, RecurrentCell
from .stack import Recurrent, State

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy
    from numpy.typing import ArrayLike

    from ._validation import Array, Params, RandomSource

__all__ = [
    "Case",
    "assert_gradients",
    "cases",
    "layer_options",
    "layers",
    "lengths",
    "make_case",
    "map_state",
    "seeds",
]

seeds: SearchStrategy[int] = st.integers(0, 2**32 - 1)


def map_state(function: Callable[..., Any], *states: State) -> State:
    """Apply a function to states part by part: to the arrays, or to each of the tuples' arrays."""
    if isinstance(states[0], tuple):
        return tuple(function(*parts) for parts in zip(*states, strict=True))
    return function(*states)


def named_state(name: str, state: State) -> Params:
    """Return the arrays of a state by name: ``state``, or ``state[0]`` and ``state[1]``."""
    if isinstance(state, tuple):
        return {f"{name}[{i}]": part for i, part in enumerate(state)}
    return {name: state}


@dataclass
class Case:
    """A layer, and everything that goes into its passes.

    Attributes
    ----------
    layer : Recurrent or another layer
    x : ndarray
    state : ndarray or tuple of ndarray
        Initial state.
    lengths : ndarray of int or None
    d_output : ndarray
        Upstream gradients, of the output and of the final state.
    d_state : ndarray or tuple of ndarray
    dropout_seed : int or None
        Seeds each pass, so that all of them draw the same masks.
    """

    layer: Any
    x: Array
    state: State
    lengths: Array | None
    d_output: Array
    d_state: State
    dropout_seed: int | None = None

    def forward(self, layer: Any = None, x: Any = None, state: State = None) -> tuple[Any, ...]:
        """Run the layer, or another one over other input, forward."""
        options: dict[str, Any] = {"lengths": self.lengths, "rng": self.dropout_seed}
        output, final, cache = (layer or self.layer).forward(
            self.x if x is None else x,
            self.state if state is None else state,
            **{name: value for name, value in options.items() if value is not None},
        )
        return output, final, cache

    def loss(self, params: Params) -> Any:
        """Σ output ∘ d_output + Σ state ∘ d_state: a scalar with these upstream gradients."""
        layer = self.layer.with_params({name: params[name] for name in self.layer.params})
        state = map_state(lambda part: part, self.state)
        names = iter(named_state("state", state))
        state = map_state(lambda part: params[next(names)], state)
        output, final, _ = self.forward(layer, params.get("x", self.x), state)
        parts = named_state("", map_state(lambda s, d: (s * d).sum(), final, self.d_state))
        return (output * self.d_output).sum() + sum(parts.values())

    def variables(self) -> Params:
        """Return all that has a gradient: parameters, state, and x unless it is integers."""
        x = {} if self.x.dtype.kind in "iu" else {"x": self.x}
        return {**self.layer.params, **x, **named_state("state", self.state)}

    def gradients(self) -> Params:
        """Return the gradients of the loss with respect to the variables."""
        _, _, cache = self.forward()
        d_x, d_state_0, grads = self.layer.backward(self.d_output, self.d_state, cache)
        x = {} if d_x is None else {"x": d_x}
        return {**grads, **x, **named_state("state", d_state_0)}


def assert_gradients(
    layer: Any,
    x: ArrayLike | None = None,
    state: State = None,
    lengths: ArrayLike | None = None,
    *,
    method: str = "complex",
    rtol: float | None = None,
    rng: RandomSource = 0,
) -> list[Report]:
    """Check every gradient of a layer: of the parameters, the input and the initial state.

    Parameters
    ----------
    layer : layer or cell
        With `params`, `with_params`, `forward` and `backward` as `RNN` has them. It is not changed:
        in its place a layer over random parameters in float64 is checked.
    x : array_like, optional
        Input. By default several are tried: vectors and integers, one step and more, with and
        without lengths, among them 0.
    state : optional
        Initial state; random by default.
    lengths : array_like of int, shape (B,), optional
    method : {"complex", "central", "directional"}, default "complex"
        See `check_gradients`.
    rtol : float, optional
        As there.
    rng : Generator or int, default 0
        Draws what is random.

    Returns
    -------
    list of Report
        One for each input tried.

    Raises
    ------
    GradientCheckError
        If a gradient is wrong; it is an AssertionError, and says which and where.

    Examples
    --------
    >>> from nprnn import GRU, LSTMCell
    >>> reports = assert_gradients(GRU(3, 4, num_layers=2, bidirectional=True))
    >>> reports = assert_gradients(LSTMCell(3, 4), x=np.ones((2, 3)))
    """
    rng = check.generator(rng)
    inputs: Iterable[tuple[Any, Any]] = [(x, lengths)]
    if x is None:
        inputs = _inputs(layer, rng)
    reports = []
    for given, valid in inputs:
        case = _case(layer, np.asarray(given), state, valid, rng)
        variables, gradients = case.variables(), case.gradients()
        reports.append(check_gradients(case.loss, variables, gradients, method=method, rtol=rtol))
    return reports


def _inputs(layer: Any, rng: np.random.Generator) -> list[tuple[Array, Any]]:
    """Return inputs to try, and lengths."""
    shapes: list[tuple[tuple[int, ...], Any]]
    if isinstance(layer, RecurrentCell):
        size, shapes = layer._steps.input_size, [((3,), None), ((), None)]
    else:
        size, batches = layer.input_size, [(1, 2), (4, 3)]
        if getattr(layer, "batch_first", False):
            batches = [(B, T) for T, B in batches]
        shapes = [(shape, None) for shape in batches]
        if isinstance(layer, Recurrent):
            shapes += [((5,), None), (batches[-1], np.array([2, 0, 4]))]
    vectors = [(rng.normal(size=(*shape, size)), valid) for shape, valid in shapes]
    return vectors + [(np.array(rng.integers(0, size, shape)), valid) for shape, valid in shapes]


def _case(
    layer: Any, x: Array, state: State, valid: ArrayLike | None, rng: np.random.Generator
) -> Case:
    """Return the layer over random parameters, with random upstream gradients."""
    layer = layer.with_params({k: rng.normal(0, 0.8, v.shape) for k, v in layer.params.items()})
    if x.dtype.kind not in "iu":
        x = np.array(x, np.float64)
    options = {} if valid is None else {"lengths": valid}
    output, final, _ = layer.forward(x, None, **options)
    drawn = map_state(lambda part: rng.normal(size=part.shape), final)
    if state is not None:
        drawn = map_state(lambda part: np.array(part, np.float64), state)
    d_output, d_state = (
        rng.normal(size=output.shape),
        map_state(lambda part: rng.normal(size=part.shape), final),
    )
    valid = None if valid is None else np.asarray(valid)
    return Case(layer, x, drawn, valid, d_output, d_state)


@st.composite
def layer_options(
    draw: DrawFn, /, cell: str = "rnn", max_layers: int = 3, max_size: int = 4, smooth: bool = False
) -> dict[str, Any]:
    """Draw the arguments of `RNN`, or of the layer of another cell.

    Parameters
    ----------
    cell : {"rnn", "gru", "lstm"}, default "rnn"
    max_layers, max_size : int
        Largest number of layers, and of input and hidden sizes.
    smooth : bool, default False
        Whether to leave relu out, whose kink a finite step may cross.
    """
    num_layers = draw(st.integers(1, max_layers))
    options: dict[str, Any] = {
        "input_size": draw(st.integers(1, max_size)),
        "hidden_size": draw(st.integers(1, max_size)),
        "num_layers": num_layers,
    }
    if cell == "rnn":
        options["nonlinearity"] = draw(st.sampled_from(["tanh"] if smooth else ["tanh", "relu"]))
    return options | {
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.3])) if num_layers > 1 else 0.0,
        "bidirectional": draw(st.booleans()),
    }


def make_layer(cell: str, rng: np.random.Generator, **options: Any) -> Recurrent:
    """Return a layer in float64, its parameters far from how they are drawn before training.

    So the nonlinearities bend, and relu units switch.
    """
    layer = LAYERS[cell](**options, dtype=np.float64, rng=rng)
    layer.params = {k: rng.normal(0, 0.8, v.shape) for k, v in layer.params.items()}
    return layer


@st.composite
def layers(
    draw: DrawFn,
    /,
    cells: Iterable[str] = tuple(LAYERS),
    max_layers: int = 3,
    smooth: bool = False,
    **options: Any,
) -> Recurrent:
    """Draw a layer in float64 with random parameters.

    Parameters
    ----------
    cells : iterable of {"rnn", "gru", "lstm"}
        Which to draw from; all by default.
    max_layers, smooth
        As for `layer_options`.
    **options
        Arguments of the layer that are not to be drawn.
    """
    cell = draw(st.sampled_from(list(cells)))
    drawn = draw(layer_options(cell, max_layers, smooth=smooth)) | options
    return make_layer(cell, np.random.default_rng(draw(seeds)), **drawn)


def lengths(T: int, B: int) -> SearchStrategy[Array]:
    """Draw B lengths from 0 to T, in any order."""
    every = st.lists(st.integers(0, T), min_size=B, max_size=B)
    return every.map(lambda drawn: np.array(drawn, np.intp))


@st.composite
def cases(
    draw: DrawFn,
    /,
    cells: Iterable[str] = tuple(LAYERS),
    max_layers: int = 3,
    smooth: bool = False,
    integers: bool | None = None,
    with_lengths: bool | None = None,
    **options: Any,
) -> Case:
    """Draw a layer with everything that goes into its passes.

    Parameters
    ----------
    cells, max_layers, smooth, **options
        As for `layers`.
    integers, with_lengths : bool, optional
        Whether the input is integers, and whether there are lengths; drawn by default.
    """
    cell = draw(st.sampled_from(list(cells)))
    options = draw(layer_options(cell, max_layers, smooth=smooth)) | options
    T, B = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    padded = draw(st.booleans()) if with_lengths is None else with_lengths
    return make_case(
        np.random.default_rng(draw(seeds)),
        T,
        B,
        lengths=draw(lengths(T, B)) if padded else None,
        use_integers=draw(st.booleans()) if integers is None else integers,
        dropout_seed=draw(seeds) if options["dropout"] else None,
        cell=cell,
        **options,
    )


def make_case(
    rng: np.random.Generator,
    T: int,
    B: int,
    lengths: Array | None = None,
    use_integers: bool = False,
    dropout_seed: int | None = None,
    cell: str = "rnn",
    **options: Any,
) -> Case:
    """Return a layer with these options, and random numbers for its passes."""
    layer = make_layer(cell, rng, **options)
    D, H = layer.num_directions, layer.hidden_size

    def grid(array: Array) -> Array:
        return np.ascontiguousarray(array.swapaxes(0, 1)) if layer.batch_first else array

    def state() -> State:
        shape = (layer.cell.num_states, layer.num_layers * D, B, H)
        parts = tuple(rng.normal(size=shape))
        return parts if len(parts) > 1 else parts[0]

    if use_integers:
        x = grid(rng.integers(0, layer.input_size, (T, B)))
    else:
        x = grid(rng.normal(size=(T, B, layer.input_size)))
    d_output = grid(rng.normal(size=(T, B, D * H)))
    return Case(layer, x, state(), lengths, d_output, state(), dropout_seed)
