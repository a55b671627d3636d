"""Layers, directions and dropout around the loop over time, each once, for any cell.

Inside, what a cell carries from step to step is one array (S, L, D, B, H): h, and what else the
cell has. The caller sees (L*D, B, H), or a tuple of such where S is more than 1.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _validation as check
from .initializers import RECURRENT, uniform_params
from .packing import packing
from .scan import Run, Weights, scan, scan_backward

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource
    from .cells import Cell
    from .packing import Packing

State = Any  # of what one passes: an array, a tuple of arrays or None; see `Recurrent.forward`


class Boundary(NamedTuple):
    """How the caller lays arrays out; inside they are time-major grids (T, B, ...)."""

    unbatched: bool
    batch_first: bool

    def swap(self, grid: Array) -> Array:
        """Return a view of the caller's array as a grid, or of a grid as the caller's array."""
        return grid.swapaxes(0, 1) if self.batch_first else grid

    def enter(self, array: Array) -> Array:
        """Return the caller's sequences as a grid (T, B, ...), a view."""
        return array[:, None] if self.unbatched else self.swap(array)

    def leave(self, grid: Array) -> Array:
        """Return a grid (T, B, ...) as the caller lays sequences out, a view."""
        return grid[:, 0] if self.unbatched else self.swap(grid)

    def leave_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which a grid (T, B, ...) leaves."""
        T, B, *rest = shape
        return (T, *rest) if self.unbatched else (B, T, *rest) if self.batch_first else shape

    def leave_state(self, state: Array) -> State:
        """Return a state (S, L, D, B, H) as the caller has it, in views."""
        S, L, D, B, H = state.shape
        parts = state.reshape(S, L * D, *([] if self.unbatched else [B]), H)
        return parts[0] if S == 1 else tuple(parts)


class LayerCache(NamedTuple):
    """What the backward pass of one layer of the stack needs."""

    runs: list[Run]  # one a direction
    mask: Array | None  # (T, B, in), the dropout mask on the layer's input, scaled


class Cache(NamedTuple):
    """What `backward` needs of a `forward`: a value, tied to nothing."""

    layers: list[LayerCache]
    boundary: Boundary


class Recurrent:
    """Layers and directions of one cell: what `RNN`, `GRU` and `LSTM` have in common.

    Parameters
    ----------
    cell : Cell
        The mathematics of one step; an own one works like those of `nprnn.cells`.
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        As for `RNN`.
    recurrent_init, dtype, rng
        As for `RNN`.
    """

    def __init__(
        self,
        cell: Cell,
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
        self.cell = cell
        self.input_size = check.integer("input_size", input_size)
        self.hidden_size = check.integer("hidden_size", hidden_size)
        self.num_layers = check.integer("num_layers", num_layers)
        self.bias = check.flag("bias", bias)
        self.batch_first = check.flag("batch_first", batch_first)
        self.dropout = check.real("dropout", dropout, "[0, 1)")
        self.bidirectional = check.flag("bidirectional", bidirectional)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout={self.dropout:g} has no effect: it acts between layers, and there is one",
                UserWarning,
                stacklevel=3,
            )
        self.recurrent_init = check.choice("recurrent_init", recurrent_init, tuple(RECURRENT))
        self.params: Params = self._draw(dtype, check.generator(rng))

    def _draw(self, dtype: DTypeLike, rng: np.random.Generator) -> Params:
        params = uniform_params(self._shapes(), self.hidden_size, dtype, rng)
        if self.recurrent_init != "uniform":  # which is what all parameters have
            for name, value in params.items():
                if name.startswith("weight_hh"):
                    for block in np.split(value, self.cell.num_gates):
                        block[...] = RECURRENT[self.recurrent_init](self.hidden_size, rng)
        return params

    @property
    def num_directions(self) -> int:
        """D: 2 if the layers also read backwards, else 1."""
        return 2 if self.bidirectional else 1

    def __call__(
        self, x: ArrayLike, state: State = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Return the output and the final state, as `forward` does, for inference.

        Nothing is kept for a backward pass, and nothing is dropped out.
        """
        output, final = self.read(self.check_input(x), state, lengths=lengths)
        return np.ascontiguousarray(output), final

    def read(
        self, x: Array, state: State = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Do as a call does, without a copy, for input that has been through `check_input`."""
        grid, states, packings, boundary = self._enter(x, state, lengths)
        for k in range(self.num_layers):
            grid, states[:, k], _ = self._layer(k, grid, states[:, k], packings)
        return boundary.leave(grid), boundary.leave_state(states)

    def layer_outputs(
        self, x: ArrayLike, state: State = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, State]:
        """Return the outputs of all layers, (L, T, B, D*H), and the final state, for inference."""
        grid, states, packings, boundary = self._enter(self.check_input(x), state, lengths)
        outputs = []
        for k in range(self.num_layers):
            grid, states[:, k], _ = self._layer(k, grid, states[:, k], packings)
            outputs.append(boundary.leave(grid))
        return np.stack(outputs), boundary.leave_state(states)

    def forward(
        self,
        x: ArrayLike,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        rng: RandomSource = None,
    ) -> tuple[Array, State, Cache]:
        """Run over a batch of sequences, for training.

        Parameters
        ----------
        x : array_like
            Vectors of the parameters' dtype, shape (T, B, I), or integers for one-hot vectors,
            shape (T, B). With `batch_first` (B, T, I) or (B, T); without a batch (T, I) or (T,).
        state : array_like of float, shape (L*D, B, H), optional
            Initial state: layer first, then direction, never batch-first; zeros without it. Without
            a batch (L*D, H). For `LSTM` the pair (h, c) of such.
        lengths : array_like of int, shape (B,), optional
            Valid steps of each sequence, 0 to T, in any order. What stands in `x` after them does
            not matter, NaN included.
        rng : Generator or int, optional
            Draws the dropout masks. Without it nothing is dropped out.

        Returns
        -------
        output : ndarray of shape (T, B, D*H)
            The last layer's states, forward then reverse along the last axis, both aligned with the
            input; 0 after a sequence's last valid step. Laid out like the input; yours to change.
        state : ndarray of shape (L*D, B, H)
            The state after each sequence's last valid step, for the reverse direction after its
            first; the initial state for length 0. Never batch-first. For `LSTM` the pair (h, c).
        cache : Cache
            For `backward`. It refers to `x` and the parameters: change neither in between.

        Raises
        ------
        TypeError, ValueError
            If a shape or dtype does not fit; the message says which, and what was expected.
        """
        output, final, cache = self.run(self.check_input(x), state, lengths=lengths, rng=rng)
        # The cache keeps the states; the caller gets a copy that can be changed without harm.
        return np.array(output, order="C"), final, cache

    def run(
        self,
        x: Array,
        state: State = None,
        *,
        lengths: ArrayLike | None = None,
        rng: RandomSource = None,
    ) -> tuple[Array, State, Cache]:
        """Do as `forward` does, without a copy: the output may be a view of what the cache holds.

        For whoever reads the output, and does not change it or give it away; and whose input has
        been through `check_input`.
        """
        grid, states, packings, boundary = self._enter(x, state, lengths)
        rng = None if rng is None else check.generator(rng)
        layers = []
        for k in range(self.num_layers):
            mask = None
            if k > 0 and self.dropout and rng is not None:
                mask = dropout_mask(grid, self.dropout, rng)
                grid = grid * mask
            grid, states[:, k], runs = self._layer(k, grid, states[:, k], packings)
            layers.append(LayerCache(runs, mask))
        return boundary.leave(grid), boundary.leave_state(states), Cache(layers, boundary)

    def backward(
        self, d_output: ArrayLike | None, d_state: State, cache: Cache
    ) -> tuple[Array | None, State, Params]:
        """Backpropagate through time.

        Werbos (1990), "Backpropagation through time: what it does and how to do it".

        Parameters
        ----------
        d_output : array_like of float, shape of the output, or None
            Gradient of a scalar with respect to the output; None stands for zeros.
        d_state : array_like of float, shape of the state, or None
            Gradient with respect to the final state; None stands for zeros, for `LSTM` also in
            place of one of the two.
        cache : Cache
            From `forward`. It is not changed, and may be used again.

        Returns
        -------
        d_x : ndarray of the shape of x, or None for integer input
        d_state_0 : ndarray of the shape of the state
        grads : dict
            Keys and shapes of `params`.
        """
        return self.run_back(d_output, d_state, cache, again=True)

    def run_back(
        self, d_output: ArrayLike | None, d_state: State, cache: Cache, *, again: bool = False
    ) -> tuple[Array | None, State, Params]:
        """Do as `backward` does, in the memory of the cache, which serves once; or `again`."""
        d_grid, d_states = self._enter_backward(d_output, d_state, cache)
        grads: Params = {}
        for k in reversed(range(self.num_layers)):
            runs, mask = cache.layers[k]
            if again and not self.cell.in_place:
                runs = [run.copied() for run in runs]
            d_grid, d_states[:, k], layer_grads = self._layer_backward(
                k, d_grid, d_states[:, k], runs
            )
            if mask is not None:
                d_grid *= mask
            grads = layer_grads | grads
        boundary = cache.boundary
        d_x = None if d_grid is None else np.ascontiguousarray(boundary.leave(d_grid))
        return d_x, boundary.leave_state(d_states), grads

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same layer over other arrays: another dtype, complex, a student's.

        The arrays are used as they are, not copied.
        """
        layer = copy.copy(self)
        layer.params = check.params("params", params, self._shapes())
        return layer

    def shared_out(self, state: State, B: int, parts: int) -> list[State]:
        """Return an initial state of each of so many equal parts of a batch of B sequences."""
        boundary = Boundary(unbatched=False, batch_first=False)
        states = self._check_state("state", state, B, boundary)
        return [boundary.leave_state(part) for part in np.split(states, parts, axis=3)]

    def _layer(
        self, k: int, grid: Array, states: Array, packings: list[Packing]
    ) -> tuple[Array, Array, list[Run]]:
        """Run layer k over (T, B, in) from states (S, D, B, H): output, final states and runs."""
        halves, finals, runs = [], [], []
        for direction, packed in enumerate(packings):
            x, initial = packed.enter(grid), packed.enter_state(states[:, direction])
            output, final, run = scan(self.cell, self.weights(k, direction), packed, x, initial)
            halves.append(packed.leave(output))
            finals.append(packed.leave_state(final))
            runs.append(run)
        output = halves[0] if len(halves) == 1 else np.concatenate(halves, axis=2)
        return output, _side_by_side(finals), runs

    def _layer_backward(
        self, k: int, d_grid: Array, d_states: Array, runs: list[Run]
    ) -> tuple[Any, Array, Params]:
        """Mirror `_layer`: gradients of its input (None for integers), states and parameters."""
        d_inputs, d_initials = [], []
        grads: Params = {}
        for direction, run in enumerate(runs):
            packed = run.packing
            half = slice(direction * self.hidden_size, (direction + 1) * self.hidden_size)
            d_output = packed.arrange(d_grid[..., half])
            d_final = packed.enter_state(d_states[:, direction])
            d_x, d_initial, d_weights = scan_backward(self.cell, run, d_output, d_final)
            if d_x is not None:
                d_inputs.append(packed.leave(d_x))
            d_initials.append(packed.leave_state(d_initial))
            named = zip(_keys(k, direction, self.bias), d_weights, strict=False)
            grads |= {key: gradient for key, gradient in named if gradient is not None}
        d_input = functools.reduce(np.add, d_inputs) if d_inputs else None
        return d_input, _side_by_side(d_initials), grads

    def weights(self, k: int, direction: int = 0) -> Weights:
        """Return the parameters of one layer in one direction."""
        return Weights(*map(self.params.__getitem__, _keys(k, direction, self.bias)))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        D, H, GH = self.num_directions, self.hidden_size, self.cell.num_gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(self.num_layers):
            width = self.input_size if k == 0 else D * H
            for direction in range(D):
                sizes = [(GH, width), (GH, H), (GH,), (GH,)]
                shapes |= zip(_keys(k, direction, self.bias), sizes, strict=False)
        return shapes

    def _enter(
        self, x: Array, state: State, lengths: ArrayLike | None
    ) -> tuple[Array, Array, list[Packing], Boundary]:
        """Check what the caller passes; return it as (T, B, ...), (S, L, D, B, H) and packings."""
        boundary = Boundary(x.ndim < (2 if x.dtype.kind in "iu" else 3), self.batch_first)
        grid = boundary.enter(x)
        T, B = grid.shape[:2]
        if T == 0:
            raise ValueError(f"x must have at least one time step; got shape {x.shape}")
        if lengths is not None:
            if boundary.unbatched:
                raise ValueError(
                    "lengths need a batch: give x a batch axis, or cut it to its length"
                )
            lengths = check.lengths("lengths", lengths, T, B)
        initial = self._check_state("state", state, B, boundary)
        if x.dtype.kind == "c":
            initial = initial.astype(np.result_type(initial, x), copy=False)
        packings = [packing(T, B, lengths, reverse=d == 1) for d in range(self.num_directions)]
        return grid, initial, packings, boundary

    def check_input(self, x: ArrayLike) -> Array:
        """Return the input as an array that `run` takes, or say what is wrong with it."""
        given = check.array("x", x)
        batch = "B, T" if self.batch_first else "T, B"
        if given.dtype.kind in "iu":
            hint = "; integers are classes: for numbers pass x.astype(numpy.float32)"
            check.shape("x", given, f"({batch}) or (T,)", given.ndim in (1, 2), hint)
            ids = check.index_array("x", given, self.input_size, "input_size")
            return ids.astype(np.intp, copy=False)
        given = check.float_array("x", given)
        fits = given.ndim in (2, 3) and given.shape[-1] == self.input_size
        size = f"I={self.input_size}"
        check.shape("x", given, f"({batch}, {size}) or, without a batch, (T, {size})", fits)
        check.same_precision("x", given, self._dtype)
        return given

    def _check_state(self, name: str, state: State, B: int, boundary: Boundary) -> Array:
        """Return a copy of a state, with zeros for what is None, as (S, L, D, B, H)."""
        L, D, H = self.num_layers, self.num_directions, self.hidden_size
        if state is None:
            return np.zeros((self.cell.num_states, L, D, B, H), self._dtype)
        batch = () if boundary.unbatched else (B,)
        symbols = f"(L*D={L * D}, " + ("" if boundary.unbatched else f"B={B}, ") + f"H={H})"
        parts: list[Array | None] = []
        for part_name, part in self._parts(name, state).items():
            given = None if part is None else check.float_array(part_name, part)
            if given is not None:
                check.shape(part_name, given, symbols, given.shape == (L * D, *batch, H))
                check.same_precision(part_name, given, self._dtype)
            parts.append(given)
        dtype = np.result_type(self._dtype, *(given for given in parts if given is not None))
        states = np.zeros((len(parts), L, D, B, H), dtype)
        for own, given in zip(states, parts, strict=True):
            if given is not None:
                own[...] = given.reshape(own.shape)
        return states

    def _parts(self, name: str, state: State) -> dict[str, Any]:
        """Return what a state is made of, by the name to call it: one array, or a tuple's."""
        S = self.cell.num_states
        if S == 1:
            return {name: state}
        if not isinstance(state, tuple | list) or len(state) != S:
            came = f"shape {np.shape(state)}" if isinstance(state, np.ndarray) else repr(state)
            raise TypeError(f"{name} must be a tuple of {S} arrays, such as (h, c); got {came}")
        return {f"{name}[{i}]": part for i, part in enumerate(state)}

    def _enter_backward(
        self, d_output: ArrayLike | None, d_state: State, cache: Cache
    ) -> tuple[Array, Array]:
        """Check the upstream gradients; return them as (T, B, D*H) and, a copy, (S, L, D, B, H)."""
        if not isinstance(cache, Cache):
            raise TypeError(f"cache must be what forward returned, got {type(cache).__name__}")
        boundary, run = cache.boundary, cache.layers[-1].runs[0]
        H = run.weights.hh.shape[1]
        made = (len(cache.layers), len(cache.layers[-1].runs), H, len(run.weights.hh) // H)
        own = (self.num_layers, self.num_directions, self.hidden_size, self.cell.num_gates)
        if made != own:
            raise ValueError(f"cache must come from this layer, (L, D, H, G) = {own}; got {made}")
        T, B = run.packing.T, run.packing.B
        d_states = self._check_state("d_state", d_state, B, boundary)
        grid_shape = (T, B, self.num_directions * self.hidden_size)
        if d_output is None:
            d_grid = np.zeros(grid_shape, d_states.dtype)
        else:
            given = check.float_array("d_output", d_output)
            expected = boundary.leave_shape(grid_shape)
            check.shape("d_output", given, f"of the output, {expected}", given.shape == expected)
            check.same_precision("d_output", given, self._dtype)
            d_grid = boundary.enter(given)
        dtype = np.result_type(d_grid, d_states, run.states)
        return d_grid, d_states.astype(dtype, copy=False)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return self.params["weight_hh_l0"].dtype

    def _arguments(self) -> dict[str, tuple[Any, Any]]:
        """Return each optional argument's value and default, for `repr`."""
        return {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "recurrent_init": (self.recurrent_init, "uniform"),
            "dtype": (self._dtype.name, "float32"),
        }

    def __repr__(self) -> str:
        """Show every argument that is not the default."""
        sizes = f"{self.input_size}, {self.hidden_size}"
        others = [
            f"{name}={value!r}"
            for name, (value, default) in self._arguments().items()
            if value != default
        ]
        return f"{type(self).__name__}({', '.join([sizes, *others])})"


@functools.cache
def _keys(k: int, direction: int, bias: bool) -> tuple[str, ...]:
    """Return the names of one layer's parameters in one direction, in the order of Weights."""
    place = f"l{k}" + ("_reverse" if direction else "")
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else [])]
    return tuple(f"{kind}_{place}" for kind in kinds)


def _side_by_side(states: list[Array]) -> Array:
    """Return the states (S, B, H) of each direction as (S, D, B, H)."""
    return states[0][:, None] if len(states) == 1 else np.stack(states, axis=1)


def as_parts(state: State) -> list[Array]:
    """Return what a state is made of: itself, or the arrays of a tuple."""
    return list(state) if isinstance(state, tuple) else [state]


def from_parts(parts: list[Array]) -> State:
    """Return a state of its arrays: the one, or a tuple of them."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def dropout_mask(
    grid: Array, probability: float, rng: np.random.Generator, sequences: int | None = -2
) -> Array:
    """Return 0 with the given probability and else 1 / (1 - probability), in the grid's shape.

    Srivastava et al. (2014), "Dropout". Drawn in single precision whatever the grid's type, so that
    float32, float64 and complex numbers meet the same mask; and with the axis of the sequences
    last, whatever the layout, so that it does not depend on their lengths, and can be shared out.

    Parameters
    ----------
    grid : ndarray of shape (T, B, ·), or any other
    probability : float
    rng : Generator
    sequences : int or None
        The axis of the sequences; None if there is none.
    """
    mask = np.empty_like(grid.real)
    drawn = mask if sequences is None else np.moveaxis(mask, sequences, -1)
    drawn[...] = rng.random(drawn.shape, np.float32) >= probability
    mask *= 1 / (1 - probability)
    return mask
