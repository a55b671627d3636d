"""Where the first NaN or infinity of a training step came from.

The step itself looks at its results only. Where one of them is not finite, the functions here go
the same way once more, with the same dropout masks, and look at every number at every time: a layer
and a time, and the parameter that counts most there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .layout import turned
from .models import Window
from .packing import Dense
from .scan import scan_backward
from .stack import as_parts

if TYPE_CHECKING:
    from ._validation import Array, Params
    from .models import LanguageModel, Pass
    from .scan import Run
    from .stack import State


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of `Weights`


class Origin(NamedTuple):
    """The place of a number that is not finite."""

    time: int  # of the window, from 0
    depth: int  # which of two at the same time comes first
    layer: str
    parameter: str


def first_non_finite(
    model: LanguageModel,
    inputs: Array,
    targets: Array,
    state: State,
    results: Params,
    rng_state: Mapping[str, Any],
    rng: np.random.Generator,
) -> str | None:
    """Return a sentence that names the layer, the parameter and the first time, if there is one.

    Parameters
    ----------
    model : LanguageModel
    inputs, targets : ndarray of int, shape (T, B)
    state : ndarray of shape (L, B, H), the pair of such, or None
        What `loss_and_grads` was given.
    results : dict
        What it returned: the gradients, and the state under a name for it.
    rng_state : dict
        State that the Generator had then.
    rng : Generator
        Left as it is.
    """
    if state is not None and not all(np.isfinite(part).all() for part in as_parts(state)):
        return "the carried state is not finite to begin with, at time 0"
    masks = copy.deepcopy(rng)
    masks.bit_generator.state = rng_state
    count, (windows,), _ = model._plan(Window(inputs, targets, None, None), None, threads=1)
    passes = model._read(model.rnn, windows, state, masks)
    found = _forward(model, windows, passes)
    if found is not None:
        return (
            f"in the forward pass the first number that is not finite is in {found.layer} at time "
            f"{found.time}, where {found.parameter} counts most"
        )
    found = _backward(model, windows, passes, count)
    if found is not None:
        return (
            f"the forward pass is finite; on the way back through time the first number that is "
            f"not is in {found.layer} at time {found.time}, in the gradient of {found.parameter}"
        )
    broken = [name for name, gradient in results.items() if not np.isfinite(gradient).all()]
    return f"it appears only in the sum over all times, in {', '.join(broken)}" if broken else None


def _forward(
    model: LanguageModel, windows: Sequence[Window], passes: Sequence[Pass]
) -> Origin | None:
    """Return where the forward pass first stops being finite, if it does."""
    start = 0
    for window, read in zip(windows, passes, strict=True):
        found = min(_places(model, window, read), default=None)
        if found is not None:
            return found._replace(time=start + found.time)
        start += len(read.features)
    return None


def _places(model: LanguageModel, window: Window, read: Pass) -> Iterator[Origin]:
    """Yield, for what is computed in a window from below to above, where it stops being finite."""
    runs = [layer.runs[0] for layer in read.rnn_cache.layers]
    if model.embedding_size and (time := _first(runs[0].x)) is not None:
        yield Origin(time, 0, "the embedding", "embedding.weight")
    for k, run in enumerate(runs):
        if (time := _first(run.states[:, 1:].swapaxes(0, 1))) is not None:
            parameter = f"rnn.{_largest(_terms(run, time))}_l{k}"
            yield Origin(time, k + 1, f"recurrent layer {k}", parameter)
    readout = model.readout
    logits = readout(read.features)
    # Each position's loss is infinite where its logits are further apart than the largest number.
    at_target = np.take_along_axis(logits, np.asarray(window.targets)[..., None], axis=-1)
    distance = logits.max(axis=-1, keepdims=True) - at_target
    for depth, name, numbers in ((1, "the read-out", logits), (2, "the loss", distance)):
        if (time := _first(numbers)) is not None:
            weight = read.features[time] @ readout.params["weight"].T
            largest = _largest({"weight": weight, "bias": readout.params["bias"]})
            yield Origin(time, len(runs) + depth, name, _public(model, f"readout.{largest}"))


def _terms(run: Run, time: int) -> dict[str, Array]:
    """Return what is added up to the gates of a layer at one time, by the parameter."""
    weights, x = run.weights, run.x[time]
    from_input = weights.ih[:, x] if x.dtype.kind in "iu" else x @ weights.ih.T
    terms = {"weight_ih": from_input, "weight_hh": weights.hh @ run.states[0, time]}
    biases = {"bias_ih": weights.b_ih, "bias_hh": weights.b_hh}
    return terms | {name: bias for name, bias in biases.items() if bias is not None}


def _largest(terms: Mapping[str, Array]) -> str:
    """Return the name of the term with the largest number; NaN is larger than any."""
    return max(terms, key=lambda name: float(np.nan_to_num(np.abs(terms[name]), nan=np.inf).max()))


def _backward(
    model: LanguageModel, windows: Sequence[Window], passes: Sequence[Pass], count: int | None
) -> Origin | None:
    """Return where the backward pass first stops being finite, if it does at one time."""
    rnn, readout = model.rnn, model.readout
    start = sum(len(read.features) for read in passes)
    d_states: list[Array | None] = [None] * rnn.num_layers
    for window, read in zip(reversed(windows), reversed(passes), strict=True):
        start -= len(read.features)
        _, d_grid, grads = model._read_out(readout, window, read, count)
        for name, gradient in grads.items():
            if not np.isfinite(gradient).all():
                time = _first(d_grid)
                return Origin(start + (time or 0), 0, "the read-out", f"readout.{name}")
        for k in reversed(range(rnn.num_layers)):
            layer = read.rnn_cache.layers[k]
            walk = _BackwardWalk(layer.runs[0], d_states[k])
            for time in reversed(range(len(d_grid))):
                kind = walk.step(rnn.cell, time, d_grid[time : time + 1])
                if kind is not None:
                    return Origin(start + time, 0, f"recurrent layer {k}", f"rnn.{kind}_l{k}")
            d_states[k] = walk.d_state
            if k > 0:
                d_grid = np.concatenate(walk.d_inputs[::-1])
                d_grid = d_grid if layer.mask is None else d_grid * layer.mask
    return None


class _BackwardWalk:
    """One layer, back through time, one step after the other."""

    def __init__(self, run: Run, d_state: Array | None) -> None:
        self.run = run
        self.d_state = np.zeros_like(turned(run.states[:, 0])) if d_state is None else d_state
        self.d_inputs: list[Any] = []
        self.sums: list[Array] = []

    def step(self, cell: Any, time: int, d_output: Array) -> str | None:
        """Take a step; return the parameter whose gradient, summed so far, is not finite."""
        run, here = self.run, slice(time, time + 1)
        one = run._replace(
            packing=Dense(1, d_output.shape[1], False),
            x=run.x[here],
            gates=run.gates[here],
            kept=run.kept[here],
            states=run.states[:, time : time + 2],
        )
        d_x, self.d_state, grads = scan_backward(
            cell, one, one.packing.arrange(d_output), self.d_state
        )
        self.d_inputs.append(d_x)
        own = [gradient for gradient in grads if gradient is not None]
        self.sums = [a + b for a, b in zip(self.sums, own, strict=True)] if self.sums else own
        for name, total in zip(_NAMES, self.sums, strict=False):
            if not np.isfinite(total).all():
                return name
        return None if np.isfinite(self.d_state).all() else "weight_hh"


def _first(numbers: Array) -> int | None:
    """Return the first index at which an array (T, ...) is not finite."""
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1)
    return int(bad.argmax()) if bad.any() else None


def _public(model: LanguageModel, parameter: str) -> str:
    """Return the name of a parameter, or, if it is tied, of the one in whose place it stands."""
    return parameter if parameter in model.params else "embedding.weight"
