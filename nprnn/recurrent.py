"""The loop over time, once; around it layers, directions, lengths and dropout, each once.

The loop knows nothing of padding or direction. It meets *packed* rows: all valid steps of all
sequences, first every sequence's first step, then every second one, and so on, the longest sequence
first. At step t the first `sizes[t]` rows of a state are still running, and `sizes` never grows, so
that the previous states of a step are always the head of the block before. `Packing` lays a padded
grid (T, B) out like that and back; the reverse direction is a packing that reads each sequence from
its own end.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _validation as check
from .cells import ACTIVATIONS, VanillaCell
from .linear import uniform_params

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource

_ONE_HOT_LIMIT = 128  # up to here a product with one-hot rows beats sorting (benchmarks/)


class Packing:
    """The order in which the loop meets the valid steps of a grid (T, B).

    Parameters
    ----------
    T, B : int
        Shape of the grid.
    lengths : ndarray of int, shape (B,), optional
        Valid steps of each sequence; all T without it.
    reverse : bool
        Whether each sequence is read from its last valid step to its first.

    Attributes
    ----------
    sizes : list of int
        Sequences still running at each step, never growing.
    N : int
        Number of valid steps, Σ sizes.
    """

    def __init__(self, T: int, B: int, lengths: Array | None, reverse: bool) -> None:
        self.T, self.B = T, B
        self.rows: Array | None = None  # (N,) places in the flattened grid; None: it as it is
        self.order: Array | None = None  # (B,) sequences by falling length; None: as they are
        if lengths is None:
            self.sizes, self.N = [B] * T, T * B
            if reverse:
                self.rows = np.arange(T * B).reshape(T, B)[::-1].ravel()
            return
        self.order = np.argsort(-lengths, kind="stable")
        falling = lengths[self.order]
        running = np.arange(T)[:, None] < falling  # (T, B)
        t, b = np.nonzero(running)  # (N,) each
        self.sizes = [n for n in running.sum(axis=1).tolist() if n]
        self.N = len(t)
        self.rows = (falling[b] - 1 - t if reverse else t) * B + self.order[b]
        # Places in the states of a run, which are the B initial ones and then one a row.
        after = np.arange(self.N) + B  # the state that a row leads to
        starts = np.cumsum([0, *self.sizes])
        self.before = after - np.array([B, *self.sizes])[t]  # (N,), the state that it comes from
        self.last = np.where(falling > 0, starts[falling - 1] + B, 0) + np.arange(B)  # (B,)

    def pack(self, grid: Array) -> Array:
        """Return the valid steps of a grid (T, B, ...) as rows (N, ...), C-contiguous."""
        flat = np.ascontiguousarray(grid.reshape(self.T * self.B, *grid.shape[2:]))
        return flat if self.rows is None else flat[self.rows]

    def unpack(self, packed: Array) -> Array:
        """Return the grid (T, B, ...) of the rows (N, ...), 0 where there is no valid step."""
        flat = packed
        if self.rows is not None:
            flat = np.zeros((self.T * self.B, *packed.shape[1:]), packed.dtype)
            flat[self.rows] = packed
        return flat.reshape(self.T, self.B, *packed.shape[1:])

    def pack_state(self, state: Array) -> Array:
        """Return a copy of a state (B, H), the longest sequence first."""
        return state.copy() if self.order is None else state[self.order]

    def unpack_state(self, packed: Array) -> Array:
        """Return a copy of a state (B, H) with the sequences where they were."""
        if self.order is None:
            return packed.copy()
        state = np.empty_like(packed)
        state[self.order] = packed
        return state

    def states_before(self, states: Array) -> Array:
        """Return the state before each row, (N, H), from all states of a run, (B + N, H)."""
        return states[: self.N] if self.order is None else states[self.before]

    def final_state(self, states: Array) -> Array:
        """Return the state after each sequence's last step, (B, H), from all states of a run."""
        return states[self.N :] if self.order is None else states[self.last]

    def steps(self, packed: Array) -> list[Array]:
        """Return one view a step of the rows (N, ...)."""
        if self.order is None:
            return list(packed.reshape(self.T, self.B, *packed.shape[1:]))
        ends = np.cumsum(self.sizes).tolist()
        return [packed[end - n : end] for n, end in zip(self.sizes, ends, strict=True)]


class Weights(NamedTuple):
    """The parameters of one layer in one direction."""

    ih: Array  # (G*H, in)
    hh: Array  # (G*H, H)
    b_ih: Array | None = None  # (G*H,)
    b_hh: Array | None = None  # (G*H,)


class Run(NamedTuple):
    """What the backward pass of one layer in one direction needs."""

    weights: Weights
    packing: Packing
    x: Array  # (N, in), or (N,) integers
    states: Array  # (B + N, H): the initial ones, then the one that each row leads to


def scan(
    cell: VanillaCell, weights: Weights, packing: Packing, x: Array, h_0: Array
) -> tuple[Array, Array, Run]:
    """Run a cell over all steps: one layer, one direction.

    Parameters
    ----------
    x : ndarray of shape (N, in) or (N,)
        Packed input; integers stand for one-hot rows.
    h_0 : ndarray of shape (B, H), in packed order

    Returns
    -------
    output : ndarray of shape (N, H), packed
        A view of the states that the run holds.
    h_T : ndarray of shape (B, H), in packed order
    run : Run
        For `scan_backward`.
    """
    B, H = h_0.shape
    gates = project(x, weights)  # (N, G*H)
    dtype = np.result_type(gates, h_0)
    states = np.empty((B + len(x), H), dtype)
    states[:B] = h_0
    before, after = states[:B], packing.steps(states[B:])
    W = weights.hh.T.astype(dtype, copy=False)  # (H, G*H)
    hidden = np.empty((B, W.shape[1]), dtype)
    for gates_t, h_next in zip(packing.steps(gates), after, strict=True):
        n = len(h_next)
        hidden_t = np.dot(before[:n], W, out=hidden[:n])  # W_hh h_(t-1)
        cell.forward(gates_t, hidden_t, h_next)
        before = h_next
    return states[B:], packing.final_state(states), Run(weights, packing, x, states)


def scan_backward(
    cell: VanillaCell, run: Run, d_output: Array, d_h_T: Array
) -> tuple[Array | None, Array, Weights]:
    """Backpropagate through time: one layer, one direction.

    What reaches h_t is the gradient of its own output plus what step t+1 sends back through W_hh,

        d_h_t = d_output_t + W_hhᵀ d_a_(t+1),    d_a_t = f'(a_t) d_h_t,

    which is linear in d_h. So f' is computed for all steps before the loop, and the gradients of
    the weights, sums over all steps, are one product each after it.

    Parameters
    ----------
    run : Run
        From `scan`.
    d_output : ndarray of shape (N, H), packed
    d_h_T : ndarray of shape (B, H), in packed order
        Overwritten.

    Returns
    -------
    d_x : ndarray of shape (N, in), packed; None for integer input
    d_h_0 : ndarray of shape (B, H), in packed order
    grads : Weights
    """
    weights, packing, x, states = run
    h = states[len(d_h_T) :]
    d_gates = cell.local_derivatives(h)  # (N, G*H), f'(a) until the loop makes it d_a
    d_h = d_h_T
    W = weights.hh.astype(d_h.dtype, copy=False)  # (G*H, H)
    steps = zip(packing.steps(d_gates), packing.steps(d_output), strict=True)
    for d_gates_t, d_output_t in reversed(list(steps)):
        d_h_t = d_h[: len(d_output_t)]
        np.add(d_h_t, d_output_t, out=d_h_t)
        cell.backward(d_h_t, d_gates_t)
        np.dot(d_gates_t, W, out=d_h_t)

    d_W_ih, d_x = project_backward(x, weights, d_gates)
    d_W_hh = d_gates.T @ packing.states_before(states)  # (G*H, H)
    if weights.b_ih is None:
        return d_x, d_h, Weights(d_W_ih, d_W_hh)
    d_b = np.ones(len(d_gates), d_gates.dtype) @ d_gates  # (G*H,), the sum over all steps
    return d_x, d_h, Weights(d_W_ih, d_W_hh, d_b, d_b.copy())


def project(x: Array, weights: Weights) -> Array:
    """Return the input's half of all gates at once, W_ih x + b_ih + b_hh, (N, G*H)."""
    bias = 0 if weights.b_ih is None else weights.b_ih + weights.b_hh
    if x.ndim > 1:
        return x @ weights.ih.T + bias
    if len(x) < weights.ih.shape[1]:
        return weights.ih.T[x] + bias
    # W_ih times a one-hot vector is a column of W_ih: add the bias to each column once, and gather.
    return np.add(weights.ih.T, bias, order="C").take(x, axis=0)


def project_backward(x: Array, weights: Weights, d_gates: Array) -> tuple[Array, Array | None]:
    """Return the gradients of W_ih, (G*H, in), and of the input, (N, in); None for integers."""
    if x.ndim > 1:
        return d_gates.T @ x, d_gates @ weights.ih
    num_classes = weights.ih.shape[1]
    if num_classes <= _ONE_HOT_LIMIT:
        rows = np.zeros((len(x), num_classes), d_gates.dtype)
        rows[np.arange(len(x)), x] = 1
        return d_gates.T @ rows, None
    # Column v is the sum of the rows whose input is v: sort them by input, and add each group up.
    order = np.argsort(x, kind="stable")
    inputs = x[order]
    starts = np.flatnonzero(np.diff(inputs, prepend=-1))
    d_W = np.zeros((num_classes, d_gates.shape[1]), d_gates.dtype)
    d_W[inputs[starts]] = np.add.reduceat(d_gates[order], starts, axis=0)
    return np.ascontiguousarray(d_W.T), None


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

    def leave_state(self, state: Array) -> Array:
        """Return a state (L, D, B, H) as the caller has it, (L*D, B, H) or (L*D, H), a view."""
        num_layers, num_directions, *rest = state.shape
        flat = state.reshape(num_layers * num_directions, *rest)
        return flat[:, 0] if self.unbatched else flat


class LayerCache(NamedTuple):
    """What the backward pass of one layer of the stack needs."""

    runs: list[Run]  # one a direction
    mask: Array | None  # (T, B, in), the dropout mask on the layer's input, scaled


class Cache(NamedTuple):
    """What `backward` needs of a `forward`: a value, tied to nothing."""

    layers: list[LayerCache]
    boundary: Boundary


class Recurrent:
    """Layers and directions of one cell; the cell's own class, such as `RNN`, says which cell."""

    def __init__(
        self,
        cell: VanillaCell,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        dtype: DTypeLike,
        rng: RandomSource,
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
        self.params: Params = uniform_params(self._shapes(), self.hidden_size, dtype, rng)

    @property
    def num_directions(self) -> int:
        """D: 2 if the layers also read backwards, else 1."""
        return 2 if self.bidirectional else 1

    def __call__(
        self, x: ArrayLike, state: ArrayLike | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return the output and the final state, as `forward` does, for inference.

        Nothing is kept for a backward pass, and nothing is dropped out.
        """
        grid, h, packings, boundary = self._enter(x, state, lengths)
        for k in range(self.num_layers):
            grid, h[k], _ = self._layer(k, grid, h[k], packings)
        return np.ascontiguousarray(boundary.leave(grid)), boundary.leave_state(h)

    def forward(
        self,
        x: ArrayLike,
        state: ArrayLike | None = None,
        *,
        lengths: ArrayLike | None = None,
        rng: RandomSource = None,
    ) -> tuple[Array, Array, Cache]:
        """Run over a batch of sequences, for training.

        Parameters
        ----------
        x : array_like
            Vectors, shape (T, B, I), or integers for one-hot vectors, shape (T, B). With
            `batch_first` (B, T, I) or (B, T); without a batch (T, I) or (T,).
        state : array_like of float, shape (L*D, B, H), optional
            Initial state: layer first, then direction, never batch-first; zeros without it. Without
            a batch (L*D, H).
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
            first; the initial state for length 0. Never batch-first.
        cache : Cache
            For `backward`. It refers to `x` and the parameters: change neither in between.

        Raises
        ------
        TypeError, ValueError
            If a shape or dtype does not fit; the message says which, and what was expected.
        """
        grid, h, packings, boundary = self._enter(x, state, lengths)
        rng = None if rng is None else check.generator(rng)
        layers = []
        for k in range(self.num_layers):
            mask = None
            if k > 0 and self.dropout and rng is not None:
                mask = dropout_mask(grid, self.dropout, rng)
                grid = grid * mask
            grid, h[k], runs = self._layer(k, grid, h[k], packings)
            layers.append(LayerCache(runs, mask))
        # The cache keeps the states; the caller gets a copy that can be changed without harm.
        output = np.array(boundary.leave(grid), order="C")
        return output, boundary.leave_state(h), Cache(layers, boundary)

    def backward(
        self, d_output: ArrayLike | None, d_state: ArrayLike | None, cache: Cache
    ) -> tuple[Array | None, Array, Params]:
        """Backpropagate through time.

        Werbos (1990), "Backpropagation through time: what it does and how to do it".

        Parameters
        ----------
        d_output : array_like of float, shape of the output, or None
            Gradient of a scalar with respect to the output; None stands for zeros.
        d_state : array_like of float, shape of the state, or None
            Gradient with respect to the final state; None stands for zeros.
        cache : Cache
            From `forward`. It is not changed, and may be used again.

        Returns
        -------
        d_x : ndarray of the shape of x, or None for integer input
        d_state_0 : ndarray of the shape of the state
        grads : dict
            Keys and shapes of `params`.
        """
        d_grid, d_h = self._enter_backward(d_output, d_state, cache)
        grads: Params = {}
        for k in reversed(range(self.num_layers)):
            runs, mask = cache.layers[k]
            d_grid, d_h[k], layer_grads = self._layer_backward(k, d_grid, d_h[k], runs)
            if mask is not None:
                d_grid *= mask
            grads = layer_grads | grads
        boundary = cache.boundary
        d_x = None if d_grid is None else np.ascontiguousarray(boundary.leave(d_grid))
        return d_x, boundary.leave_state(d_h), grads

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same layer over other arrays: another dtype, complex, a student's.

        The arrays are used as they are, not copied.
        """
        layer = copy.copy(self)
        layer.params = check.params("params", params, self._shapes())
        return layer

    def _layer(
        self, k: int, grid: Array, h_0: Array, packings: list[Packing]
    ) -> tuple[Array, Array, list[Run]]:
        """Run layer k over (T, B, in) from states (D, B, H): output, final states and runs."""
        halves, finals, runs = [], [], []
        for direction, packing in enumerate(packings):
            x, initial = packing.pack(grid), packing.pack_state(h_0[direction])
            output, final, run = scan(self.cell, self._weights(k, direction), packing, x, initial)
            halves.append(packing.unpack(output))
            finals.append(packing.unpack_state(final))
            runs.append(run)
        output = halves[0] if len(halves) == 1 else np.concatenate(halves, axis=2)
        return output, np.stack(finals), runs

    def _layer_backward(
        self, k: int, d_grid: Array, d_h_T: Array, runs: list[Run]
    ) -> tuple[Any, Array, Params]:
        """Mirror `_layer`: gradients of its input (None for integers), states and parameters."""
        d_inputs, d_initials = [], []
        grads: Params = {}
        for direction, run in enumerate(runs):
            packing = run.packing
            half = slice(direction * self.hidden_size, (direction + 1) * self.hidden_size)
            d_output = packing.pack(d_grid[..., half])
            d_final = packing.pack_state(d_h_T[direction])
            d_x, d_initial, d_weights = scan_backward(self.cell, run, d_output, d_final)
            if d_x is not None:
                d_inputs.append(packing.unpack(d_x))
            d_initials.append(packing.unpack_state(d_initial))
            named = zip(self._keys(k, direction), d_weights, strict=False)
            grads |= {key: gradient for key, gradient in named if gradient is not None}
        d_input = functools.reduce(np.add, d_inputs) if d_inputs else None
        return d_input, np.stack(d_initials), grads

    def _keys(self, k: int, direction: int) -> list[str]:
        """Return the names of one layer's parameters in one direction, in the order of Weights."""
        place = f"l{k}" + ("_reverse" if direction else "")
        kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        return [f"{kind}_{place}" for kind in kinds]

    def _weights(self, k: int, direction: int) -> Weights:
        return Weights(*(self.params[key] for key in self._keys(k, direction)))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        D, H, GH = self.num_directions, self.hidden_size, self.cell.num_gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for k in range(self.num_layers):
            width = self.input_size if k == 0 else D * H
            for direction in range(D):
                sizes = [(GH, width), (GH, H), (GH,), (GH,)]
                shapes |= zip(self._keys(k, direction), sizes, strict=False)
        return shapes

    def _enter(
        self, x: ArrayLike, state: ArrayLike | None, lengths: ArrayLike | None
    ) -> tuple[Array, Array, list[Packing], Boundary]:
        """Check what the caller passes; return it as (T, B, ...), (L, D, B, H) and packings."""
        given, rank = self._check_input(x)
        boundary = Boundary(given.ndim < rank, self.batch_first)
        grid = boundary.enter(given)
        T, B = grid.shape[:2]
        if T == 0:
            raise ValueError(f"x must have at least one time step; got shape {given.shape}")
        if lengths is not None:
            lengths = self._check_lengths(lengths, T, B, boundary)
        h_0 = self._check_state("state", state, B, boundary)
        packings = [Packing(T, B, lengths, reverse=d == 1) for d in range(self.num_directions)]
        return grid, h_0, packings, boundary

    def _check_input(self, x: ArrayLike) -> tuple[Array, int]:
        """Return the input as an array, and the rank that it has with a batch."""
        given = check.array("x", x)
        batch = "B, T" if self.batch_first else "T, B"
        if given.dtype.kind in "iu":
            hint = "; integers are classes: for numbers pass x.astype(numpy.float32)"
            check.shape("x", given, f"({batch}) or (T,)", given.ndim in (1, 2), hint)
            ids = check.index_array("x", given, self.input_size, "input_size")
            return ids.astype(np.intp, copy=False), 2
        given = check.float_array("x", given)
        fits = given.ndim in (2, 3) and given.shape[-1] == self.input_size
        size = f"I={self.input_size}"
        check.shape("x", given, f"({batch}, {size}) or, without a batch, (T, {size})", fits)
        check.same_precision("x", given, self._dtype)
        return given, 3

    def _check_lengths(self, lengths: ArrayLike, T: int, B: int, boundary: Boundary) -> Array:
        given = check.array("lengths", lengths)
        if boundary.unbatched:
            raise ValueError("lengths need a batch: give x a batch axis, or cut it to its length")
        if given.dtype.kind not in "iu" and given.size:
            raise TypeError(f"lengths must be integers, got dtype {given.dtype}")
        check.shape("lengths", given, f"(B={B},)", given.shape == (B,))
        if B and (given.min() < 0 or given.max() > T):
            raise ValueError(f"lengths must be in 0 .. T={T}, got {given.min()} to {given.max()}")
        return given.astype(np.intp)

    def _check_state(self, name: str, state: ArrayLike | None, B: int, boundary: Boundary) -> Array:
        """Return a copy of a state, or zeros for None, as (L, D, B, H)."""
        L, D, H = self.num_layers, self.num_directions, self.hidden_size
        if state is None:
            return np.zeros((L, D, B, H), self._dtype)
        given = check.float_array(name, state)
        batch = () if boundary.unbatched else (B,)
        symbols = f"(L*D={L * D}, " + ("" if boundary.unbatched else f"B={B}, ") + f"H={H})"
        check.shape(name, given, symbols, given.shape == (L * D, *batch, H))
        check.same_precision(name, given, self._dtype)
        return given.reshape(L, D, B, H).astype(np.result_type(given, self._dtype))

    def _enter_backward(
        self, d_output: ArrayLike | None, d_state: ArrayLike | None, cache: Cache
    ) -> tuple[Array, Array]:
        """Check the upstream gradients; return them as (T, B, D*H) and, a copy, (L, D, B, H)."""
        if not isinstance(cache, Cache):
            raise TypeError(f"cache must be what forward returned, got {type(cache).__name__}")
        boundary, run = cache.boundary, cache.layers[-1].runs[0]
        T, B = run.packing.T, run.packing.B
        d_h = self._check_state("d_state", d_state, B, boundary)
        grid_shape = (T, B, self.num_directions * self.hidden_size)
        if d_output is None:
            d_grid = np.zeros(grid_shape, d_h.dtype)
        else:
            given = check.float_array("d_output", d_output)
            own = boundary.leave(np.broadcast_to(0.0, grid_shape)).shape
            check.shape("d_output", given, f"of the output, {own}", given.shape == own)
            check.same_precision("d_output", given, self._dtype)
            d_grid = boundary.enter(given)
        return d_grid, d_h.astype(np.result_type(d_grid, d_h, run.states), copy=False)

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
    dtype : {float32, float64}, default float32
        Type of the parameters, and of everything computed with them.
    rng : Generator or int, optional
        Draws the parameters from U(-1/√H, 1/√H).

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
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.nonlinearity = check.choice("nonlinearity", nonlinearity, tuple(ACTIVATIONS))
        cell = VanillaCell(nonlinearity)
        super().__init__(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype,
            rng,
        )

    def _arguments(self) -> dict[str, tuple[Any, Any]]:
        return {"nonlinearity": (self.nonlinearity, "tanh")} | super()._arguments()


def dropout_mask(grid: Array, probability: float, rng: np.random.Generator) -> Array:
    """Return 0 with the given probability and else 1 / (1 - probability), in the grid's shape.

    Srivastava et al. (2014), "Dropout". Drawn in single precision whatever the grid's type, so that
    float32, float64 and complex numbers meet the same mask.
    """
    kept = rng.random(grid.shape, np.float32) >= probability
    mask: Array = kept * np.asarray(1 / (1 - probability), grid.real.dtype)
    return mask
