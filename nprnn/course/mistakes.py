"""Which known mistakes lead to a wrong answer.

A mistake is planted in the exercise's solution: a name, the line of mathematics that was missed,
and what to replace by what in the source. It explains an answer if the solution with the mistake
gives the same. For gradients through the simple recurrent network, `nprnn.diagnosis` knows more.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from ..diagnosis import diagnose
from ..recurrent import RNN
from .catalogue import Exercise, Function, Inputs, answer, flat, solution

_RTOL = 1e-5  # of an array's largest entry
Explanation = tuple[str, str]


def explanations(
    exercise: Exercise, function: Function, inputs: Inputs, got: Inputs, right: Inputs
) -> list[Explanation]:
    """Return the mistakes that lead to `got` where `right` is right."""
    found = [
        (name, mathematics)
        for name, mathematics, *edits in MISTAKES.get(function.name, ())
        if _same(got, flat(answer(exercise, function, _plant(exercise.name, *edits), inputs)))
    ]
    if function.name in _DIAGNOSED:
        found += _DIAGNOSED[function.name](inputs, got, right)
    return list(dict.fromkeys(found))


class _Edited(importlib.abc.InspectLoader):
    """Imports a solution of this package with edits in it."""

    def __init__(self, *edits: tuple[str, str]) -> None:
        self.edits = edits

    def get_source(self, fullname: str) -> str:
        """Return the solution's source, edited."""
        source = solution(fullname)
        for old, new in self.edits:
            source = source.replace(old, new)
        return source


@functools.cache
def _plant(name: str, *edits: tuple[str, str]) -> dict[str, Any]:
    """Return the functions of an exercise's solution with a mistake in them."""
    loader = _Edited(*edits)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader))
    loader.exec_module(module)
    return vars(module)


def _same(got: Inputs, made: Inputs) -> bool:
    """Whether all results have the same shapes, and numbers to rounding."""
    for name, array in got.items():
        other = np.asarray(made[name])
        if array.shape != other.shape:
            return False
        largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
        if not np.allclose(array, other, rtol=0, atol=1e-12 + _RTOL * largest, equal_nan=True):
            return False
    return True


_PLACE = "vectors[t, b, k] = 1 if indices[t, b] = k, else 0"
_STEP = "a = W_ih x + W_hh h_prev + b, h' = tanh(a)"
_LOOP = "a_t = W_ih x_t + W_hh h_(t-1) + b, h_t = tanh(a_t)"
_ROWS = "W_hh h for a column is h W_hhᵀ for rows"
_STATES = "h holds h_1 … h_T"
_BACK = "d_h_t = d_output_t + W_hhᵀ d_a_(t+1), from t = T to t = 1"
_MEAN = "loss = Σ_t Σ_b -ln p_target / (T B), and d_o = (p - y) / (T B)"
_D_O = "d_o = (p - y) / (T B), y the one-hot target"
_OVERFLOW = "ln p_k = o_k - m - ln Σ_j exp(o_j - m), m = max o"
_NORM = "norm = √(Σ g²) over all entries of all arrays"
_CLIP = "g ← g · min(1, max_norm / norm), one norm for all arrays"
_DESCENT = "W ← W - lr · dL/dW"
_CUT = "within a window, the state that came in is a constant"
_ON = "h_0 of a window is the last state of the window before"
_ALL = "d_W is the sum over all windows, the last one may be shorter"
_GRU = "n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)), h' = (1 - z) ∘ n + z ∘ h"
_ORDER = "the gates stand in the order r, z, n"

_SIGMOID = "(lambda a: 1 / (1 + np.exp(-a)))"
_TOTAL_NORM = "np.sqrt(sum((gradient**2).sum() for gradient in grads.values()))"
_FACTOR = "min(1.0, max_norm / (norm + 1e-6))"
_SUMMED = "totals = [sum(pair) for pair in zip(totals, gradients, strict=True)]"
_CANDIDATE = "np.tanh(x_n + r * h_n)"
_B_HN = "np.split(b_hh, 3)[2]"

# By function: a name, the line of mathematics, and the edits that plant the mistake: pairs of old
# and new text, where the old one is there once.
MISTAKES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "one_hot": (
        ("time and batch are exchanged", _PLACE, ("(indices[", "(indices.T[")),
        ("the classes are counted from 1", _PLACE, ("== np.arange", "== 1 + np.arange")),
        (
            "the index itself stands where 1 should",
            _PLACE,
            (".astype(np.float64)", " * indices[..., None]"),
        ),
    ),
    "rnn_step_forward": (
        ("tanh is missing", _STEP, ("np.tanh(", "(")),
        ("a sigmoid stands in place of tanh", _STEP, ("np.tanh(", _SIGMOID + "(")),
        ("the bias is missing", _STEP, (" + b)", ")")),
        ("the bias is subtracted", _STEP, (" + b)", " - b)")),
        ("the state before is left out", _STEP, (" + h_prev @ W_hh.T", "")),
        ("the input is left out", _STEP, ("(x @ W_ih.T + ", "(")),
        ("W_hh is transposed", _ROWS, ("h_prev @ W_hh.T", "h_prev @ W_hh")),
    ),
    "rnn_forward": (
        ("tanh is missing", _LOOP, ("np.tanh(", "(")),
        ("a sigmoid stands in place of tanh", _LOOP, ("np.tanh(", _SIGMOID + "(")),
        ("the bias is missing", _LOOP, (" + b)", ")")),
        ("the bias is subtracted", _LOOP, (" + b)", " - b)")),
        (
            "h_0 is left out: the loop starts from zeros",
            _LOOP,
            ("states = [h_0]", "states = [0 * h_0]"),
        ),
        ("the state before is left out", _LOOP, (" + states[-1] @ W_hh.T", "")),
        (
            "every step starts from h_0, not from the state before",
            _LOOP,
            ("states[-1] @", "states[0] @"),
        ),
        ("the input is left out", _LOOP, ("(x_t @ W_ih.T + ", "(")),
        ("W_hh is transposed", _ROWS, ("states[-1] @ W_hh.T", "states[-1] @ W_hh")),
        ("h_0 stands among the states", _STATES, ("states[1:]", "states")),
        (
            "the states before each step are returned, not those after it",
            _STATES,
            ("states[1:]", "states[:-1]"),
        ),
        ("only the last state is returned", _STATES, ("np.stack(states[1:])", "states[-1]")),
        ("the states are in reverse order", _STATES, ("states[1:]", "states[:0:-1]")),
        (
            "the batch comes before time",
            "h has the shape (T, B, H)",
            ("states[1:]", "states[1:], axis=1"),
        ),
    ),
    "rnn_backward": (  # what the package's diagnosis does not know
        (
            "the loop runs from the first step to the last",
            _BACK,
            ("reversed(range(len(x)))", "range(len(x))"),
        ),
        (
            "what is carried back is added up over the steps, where each replaces the last",
            _BACK,
            ("carried = d_a", "carried += d_a"),
        ),
        (
            "the product with W_hh is missing on the way back",
            _BACK,
            ("carried = d_a[t] @ W_hh", "carried = d_a[t]"),
        ),
    ),
    "softmax_cross_entropy": (
        *(
            (text.format(over), _MEAN, *((old + " / (T * B)", old + rest) for old in summed))
            for over, rest in (("time and batch", ""), ("time", " / B"), ("the batch", " / T"))
            for text, summed in (
                ("a sum over {}, where there is a mean", (".sum()", "- y)")),
                ("the loss is a sum over {}, and its gradient that of the mean", (".sum()",)),
                ("the gradient is that of a sum over {}, and the loss a mean", ("- y)",)),
            )
        ),
        (
            "the target is not subtracted in the gradient",
            _D_O,
            ("(np.exp(log_p) - y)", "np.exp(log_p)"),
        ),
        (
            "the target is not subtracted in the gradient, nor is it divided by T B",
            _D_O,
            ("(np.exp(log_p) - y) / (T * B)", "np.exp(log_p)"),
        ),
        ("the sign of the gradient is wrong", _D_O, ("(np.exp(log_p) - y)", "(y - np.exp(log_p))")),
        ("the sign of the loss is wrong", _MEAN, ("loss = -", "loss = ")),
        (
            "the loss is in bits, not in nats: log2 stands in place of ln",
            _MEAN,
            ("loss = -", "loss = -1 / np.log(2) * "),
        ),
    ),
    "clip_grad_norm": (
        (
            "each array is clipped by its own norm",
            _CLIP,
            ("* factor", "* min(1.0, max_norm / np.linalg.norm(gradient))"),
        ),
        ("gradients shorter than max_norm are scaled too", _CLIP, (_FACTOR, "max_norm / norm")),
        ("the gradients are not clipped", _CLIP, (_FACTOR, "1.0")),
        (
            "the gradients are divided by the norm, not multiplied by max_norm / norm",
            _CLIP,
            (_FACTOR, "1 / norm if norm > max_norm else 1.0"),
        ),
        (
            "min and max are exchanged: short gradients are scaled, and long ones are not",
            _CLIP,
            ("min(1.0", "max(1.0"),
        ),
        ("the fraction stands upside down", _CLIP, (_FACTOR, "min(1.0, norm / max_norm)")),
        (
            "entries are clipped one by one",
            _CLIP,
            ("gradient * factor", "np.clip(gradient, -max_norm, max_norm)"),
        ),
        (
            "the norm is that after clipping",
            "the norm returned is that before clipping",
            ("}, norm", "}, min(norm, max_norm)"),
        ),
        *(
            (name, _NORM, (old, old.replace(replaced, wrong)))
            # Of the norm that the gradients are clipped by, and of the one returned alone.
            for old, replaced in ((_TOTAL_NORM, _TOTAL_NORM), ("}, norm", "norm"))
            for name, wrong in (
                ("the square root is missing", f"{_TOTAL_NORM} ** 2"),
                (
                    "the norms of the arrays are added, where their squares should be",
                    "sum(np.linalg.norm(gradient) for gradient in grads.values())",
                ),
                (
                    "the norm is the largest entry",
                    "max(np.abs(gradient).max() for gradient in grads.values())",
                ),
                (
                    "the mean of the squares stands in place of the sum",
                    f"{_TOTAL_NORM} / np.sqrt(sum(gradient.size for gradient in grads.values()))",
                ),
            )
        ),
    ),
    "sgd_step": tuple(
        (name, _DESCENT, ("value - lr * grads[name]", wrong))
        for name, wrong in (
            ("the sign is wrong: it climbs", "value + lr * grads[name]"),
            ("the learning rate is missing", "value - grads[name]"),
            ("the parameters are not changed", "value"),
            ("the step is returned, and not the parameters after it", "-lr * grads[name]"),
            ("the step is returned, and not the parameters after it", "lr * grads[name]"),
            ("divided by the learning rate", "value - grads[name] / lr"),
        )
    ),
    "truncated_bptt": (
        (
            "the gradient is not cut between windows",
            _CUT,
            ("state = h_0", "state, num_steps = h_0, len(x)"),
        ),
        (
            "the state is not carried on: each window starts from h_0",
            _ON,
            ("x[window], state,", "x[window], h_0,"),
        ),
        (
            "the state is not carried on: each window starts from h_0",
            _ON,
            ("        state = h[-1]\n", ""),
        ),
        (
            "the state is not carried on: each window starts from zeros",
            _ON,
            ("x[window], state,", "x[window], 0 * state if start else state,"),
        ),
        (
            "the last window, which is shorter, is left out",
            _ALL,
            ("range(0, len(x), ", "range(0, len(x) - num_steps + 1, "),
        ),
        ("only the first window is done", _ALL, ("range(0, len(x), ", "range(0, 1, ")),
        (
            "the gradients are those of the last window, and not added up",
            _ALL,
            (_SUMMED, "totals = gradients"),
        ),
        (
            "the gradients are those of the first window, and not added up",
            _ALL,
            (_SUMMED, "totals = totals if start else gradients"),
        ),
        (
            "the gradients are a mean over the windows, where there is a sum",
            _ALL,
            ("*totals, state", "*(total / (1 + start // num_steps) for total in totals), state"),
        ),
    ),
    "gru_step_forward": (
        (
            "z and 1 - z are exchanged",
            _GRU,
            ("(1 - z) * n + z * h_prev", "z * n + (1 - z) * h_prev"),
        ),
        (
            "r is applied to h before the product",
            _GRU,
            ("r * h_n", f"(r * h_prev) @ np.split(W_hh, 3)[2].T + {_B_HN}"),
        ),
        ("b_hn stands outside of r ∘ (…)", _GRU, ("r * h_n", f"r * (h_n - {_B_HN}) + {_B_HN}")),
        ("r is not applied", _GRU, ("r * h_n", "h_n")),
        ("tanh is missing", _GRU, (_CANDIDATE, "x_n + r * h_n")),
        ("a sigmoid stands in place of tanh", _GRU, (_CANDIDATE, "_sigmoid(x_n + r * h_n)")),
        (
            "tanh stands in place of the gates' σ",
            _GRU,
            ("_sigmoid(x_r", "np.tanh(x_r"),
            ("_sigmoid(x_z", "np.tanh(x_z"),
        ),
        (
            "r and z are exchanged",
            _ORDER,
            ("x_r, x_z, x_n =", "x_z, x_r, x_n ="),
            ("h_r, h_z, h_n =", "h_z, h_r, h_n ="),
        ),
        ("b_hh is left out", _GRU, ("W_hh.T + b_hh", "W_hh.T")),
        ("b_ih is left out", _GRU, ("W_ih.T + b_ih", "W_ih.T")),
        (
            "the state before is left out",
            _GRU,
            ("(h_prev @", "(0 * h_prev @"),
            (" + z * h_prev", ""),
        ),
    ),
    "gru_step_backward": (
        (
            "the direct way from h to h' is missing",
            "d_h = … + z ∘ d_h'",
            (" + d_h_next * z", ""),
        ),
        (
            "the slope of tanh, 1 - n², is missing",
            "d_a_n = (1 - n²) ∘ (1 - z) ∘ d_h'",
            (" * (1 - n**2)", ""),
        ),
        (
            "the slope of z, z (1 - z), is missing",
            "d_a_z = z (1 - z) ∘ (h - n) ∘ d_h'",
            ("(h_prev - n) * z * (1 - z)", "(h_prev - n)"),
        ),
        (
            "the slope of r, r (1 - r), is missing",
            "d_a_r = r (1 - r) ∘ (W_hn h + b_hn) ∘ d_a_n",
            ("h_n * r * (1 - r)", "h_n"),
        ),
        (
            "the gradient of z has the wrong sign",
            "dh'/dz = h - n",
            ("(h_prev - n)", "(n - h_prev)"),
        ),
        (
            "r is missing between the candidate and W_hn h + b_hn",
            "d(W_hn h + b_hn) = r ∘ d_a_n",
            ("d_n * r]", "d_n]"),
        ),
        (
            "the sign is wrong",
            "d_W = dL/dW; it is the step of descent that subtracts",
            ("= cache\n", "= cache\n    d_h_next = -d_h_next\n"),
        ),
    ),
}


def _too_large(inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """Explain what is not finite for large logits, by what of it is."""
    bad = {name for name, array in got.items() if not np.isfinite(array).all()}
    if np.abs(inputs["logits"]).max() < 700 or not bad:
        return []
    if bad == {"loss"} and _same({"d_logits": got["d_logits"]}, right):
        return [("the logarithm is taken of a probability that has become 0", _OVERFLOW)]
    return [("exp overflows: the largest logit is not subtracted before it", _OVERFLOW)]


_KEYS = {
    "d_W_ih": "weight_ih_l0",
    "d_W_hh": "weight_hh_l0",
    "d_b": "bias_ih_l0",
    "d_x": "x",
    "d_h_0": "state",
    "d_h_prev": "state",
}
# With one step, mistakes over time cannot be told from others, and are not what was done.
_OVER_TIME = ("time", "step", "carried", "final state")


def _diagnosed(inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """Ask the package for the mistake in the gradients of a simple recurrent network."""
    grads = {_KEYS[name]: array for name, array in got.items() if name in _KEYS}
    if not all(np.isfinite(array).all() for array in grads.values()):
        return []
    hidden_size, input_size = inputs["W_ih"].shape
    layer = RNN(input_size, hidden_size, dtype=np.float64, rng=0).with_params(
        {
            "weight_ih_l0": inputs["W_ih"],
            "weight_hh_l0": inputs["W_hh"],
            "bias_ih_l0": inputs["b"],
            "bias_hh_l0": np.zeros(hidden_size),
        }
    )
    found = diagnose(
        layer,
        grads,
        inputs["x"],
        state=inputs["h_0"][None],
        d_output=inputs["d_h"],
        rtol=_RTOL,
    )
    pairs = []
    for name, mathematics in found.explanations:
        # What explains one array alone is a coincidence, if nothing but zeros is there.
        alone = next((ours for ours in got if name.endswith(f"({_KEYS.get(ours)})")), None)
        if alone is None:
            pairs.append((name, mathematics))
        elif got[alone].any():
            pairs.append((name.replace(f"({_KEYS[alone]})", f"({alone})"), mathematics))
    return pairs


def _diagnosed_step(inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """Take the step as a sequence of one."""
    sequence = {
        **inputs,
        "x": inputs["x"][None],
        "h_0": inputs["h_prev"],
        "d_h": inputs["d_h_next"][None],
    }
    grads = {name: array[None] if name == "d_x" else array for name, array in got.items()}
    found = _diagnosed(sequence, grads, right)
    return [pair for pair in found if not any(word in pair[0] for word in _OVER_TIME)]


def _diagnosed_window(inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """With a single window, it is backpropagation through time as it is."""
    if inputs["num_steps"] < len(inputs["x"]) or not _same({"h_T": got["h_T"]}, right):
        return []
    return _diagnosed(inputs, got, right)


_DIAGNOSED: dict[str, Callable[[Inputs, Inputs, Inputs], list[Explanation]]] = {
    "softmax_cross_entropy": _too_large,
    "rnn_step_backward": _diagnosed_step,
    "rnn_backward": _diagnosed,
    "truncated_bptt": _diagnosed_window,
}
