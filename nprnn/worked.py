"""Backpropagation through time with every number kept, as one would do it on paper.

The code is the equations, a line each, and nothing is saved on the way: `docs/bptt.md` quotes it.
What the package itself does, in `scan`, gives the same numbers with fewer operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import _validation as check
from .encoding import one_hot

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array

# Three tokens one-hot, two steps, one sequence, two units; each token is to predict the next.
_DEFAULTS: dict[str, ArrayLike] = {
    "x": [[[1, 0, 0]], [[0, 1, 0]]],
    "targets": [[1], [2]],
    "W_ih": [[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]],
    "W_hh": [[0.6, -0.2], [0.3, 0.5]],
    "b": [0.1, -0.1],
    "W_ho": [[0.7, -0.4], [-0.5, 0.8], [0.2, 0.3]],
    "b_o": [0.0, 0.1, -0.1],
    "h_0": [[0.2, -0.1]],
}


class WorkedExample(NamedTuple):
    """Every number of a forward and a backward pass; `str` is all of them as a table.

    Arrays with a T in their shape hold one entry a step; ``h[t]`` is the state *after* step t,
    counted from 0, so that ``before[t]`` is the one it comes from. Names that end in ``_t`` are
    what each step contributes to a gradient, which is their sum.
    """

    x: Array  # (T, B, I)
    targets: Array  # (T, B)
    h_0: Array  # (B, H)
    W_ih: Array  # (H, I)
    W_hh: Array  # (H, H)
    b: Array  # (H,)
    W_ho: Array  # (V, H)
    b_o: Array  # (V,)
    before: Array  # (T, B, H), h_(t-1)
    a: Array  # (T, B, H)
    h: Array  # (T, B, H)
    o: Array  # (T, B, V)
    p: Array  # (T, B, V)
    loss: float
    d_o: Array  # (T, B, V)
    d_h_output: Array  # (T, B, H), by way of the step's own output
    d_h_later: Array  # (T, B, H), by way of all later steps
    d_h: Array  # (T, B, H)
    d_a: Array  # (T, B, H)
    d_W_ih_t: Array  # (T, H, I)
    d_W_hh_t: Array  # (T, H, H)
    d_b_t: Array  # (T, H)
    d_W_ho_t: Array  # (T, V, H)
    d_b_o_t: Array  # (T, V)
    d_W_ih: Array  # (H, I)
    d_W_hh: Array  # (H, H)
    d_b: Array  # (H,)
    d_W_ho: Array  # (V, H)
    d_b_o: Array  # (V,)
    d_x: Array  # (T, B, I)
    d_h_0: Array  # (B, H)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        T = len(self.x)
        yield "forward"
        for name in ("W_ih", "W_hh", "b", "W_ho", "b_o", "h_0"):
            yield _row(name, getattr(self, name))
        for t in range(T):
            yield f"\nstep {t + 1}"
            yield _row(f"x_{t + 1}", self.x[t])
            yield _row(f"a_{t + 1} = W_ih x_{t + 1} + W_hh h_{t} + b", self.a[t])
            yield _row(f"h_{t + 1} = tanh(a_{t + 1})", self.h[t])
            yield _row(f"o_{t + 1} = W_ho h_{t + 1} + b_o", self.o[t])
            yield _row(f"p_{t + 1} = softmax(o_{t + 1})", self.p[t])
            yield _row(f"target_{t + 1}", self.targets[t])
        yield "\n" + _row("loss = mean of -ln p_t[target_t]", np.array(self.loss))
        yield "\nbackward"
        for t in reversed(range(T)):
            yield f"\nstep {t + 1}"
            yield _row(f"d_o_{t + 1} = (p_{t + 1} - target_{t + 1}) / (T B)", self.d_o[t])
            yield _row(f"d_h_{t + 1}: its output, W_hoᵀ d_o_{t + 1}", self.d_h_output[t])
            later = f"later steps, W_hhᵀ d_a_{t + 2}" if t + 1 < T else "later steps, none"
            yield _row(f"     + {later}", self.d_h_later[t])
            yield _row("     =", self.d_h[t])
            yield _row(f"d_a_{t + 1} = (1 - h_{t + 1}²) d_h_{t + 1}", self.d_a[t])
            yield _row(f"to d_W_ih: d_a_{t + 1} x_{t + 1}ᵀ", self.d_W_ih_t[t])
            yield _row(f"to d_W_hh: d_a_{t + 1} h_{t}ᵀ", self.d_W_hh_t[t])
            yield _row(f"to d_b: d_a_{t + 1}", self.d_b_t[t])
            yield _row(f"to d_W_ho: d_o_{t + 1} h_{t + 1}ᵀ", self.d_W_ho_t[t])
            yield _row(f"to d_b_o: d_o_{t + 1}", self.d_b_o_t[t])
            yield _row(f"d_x_{t + 1} = W_ihᵀ d_a_{t + 1}", self.d_x[t])
        yield "\nsums over the steps"
        for name in ("d_W_ih", "d_W_hh", "d_b", "d_W_ho", "d_b_o"):
            yield _row(name, getattr(self, name))
        yield _row("d_h_0 = W_hhᵀ d_a_1", self.d_h_0)


def worked_example(
    x: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    W_ih: ArrayLike | None = None,
    W_hh: ArrayLike | None = None,
    b: ArrayLike | None = None,
    W_ho: ArrayLike | None = None,
    b_o: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
) -> WorkedExample:
    """Compute a small recurrent network and its gradients, and keep every number.

    The network is h_t = tanh(W_ih x_t + W_hh h_(t-1) + b), o_t = W_ho h_t + b_o; the loss is the
    mean cross-entropy of softmax(o_t) with the targets, over all steps and sequences.

    Parameters
    ----------
    x : array_like of float, shape (T, B, I), optional
        Input; by default the first two of three tokens, one-hot, T = 2 steps of one sequence.
    targets : array_like of int, shape (T, B), optional
        The right classes; by default the token that follows.
    W_ih : array_like of float, shape (H, I), optional
    W_hh : array_like of float, shape (H, H), optional
    b : array_like of float, shape (H,), optional
    W_ho : array_like of float, shape (V, H), optional
    b_o : array_like of float, shape (V,), optional
        Parameters; by default H = 2 and V = 3, and all of them round numbers.
    h_0 : array_like of float, shape (B, H), optional
        Initial state; by default 0.2 and -0.1 for each sequence.

    Returns
    -------
    WorkedExample
        All numbers by name, in float64. Print it.

    Raises
    ------
    TypeError
        Where an argument is not an array of real numbers, or `targets` not of integers.
    ValueError
        Where shapes do not fit each other, a target is no class, or a number is not finite. What is
        not passed keeps its default, and so its shape.

    Examples
    --------
    >>> example = worked_example()
    >>> example.d_h_later[0].round(4)  # what step 2 sends back to h_1
    array([[-0.0438,  0.0195]])
    >>> str(example).splitlines()[14]
    'a_1 = W_ih x_1 + W_hh h_0 + b      [ 0.74  0.01]'
    """
    W_ih = _checked("W_ih", W_ih, ("H", "I"))
    H, I = W_ih.shape  # noqa: E741
    W_hh = _checked("W_hh", W_hh, (H, H))
    b = _checked("b", b, (H,))
    W_ho = _checked("W_ho", W_ho, ("V", H))
    V = len(W_ho)
    b_o = _checked("b_o", b_o, (V,))
    x = _checked("x", x, ("T", "B", I))
    T, B, _ = x.shape
    h_0 = _checked("h_0", h_0, (B, H))
    targets = _checked_targets(targets, T, B, V)
    y = one_hot(targets, V, np.float64)

    before, a, h, d_h_output, d_h_later, d_h, d_a = np.zeros((7, T, B, H))
    o, p, d_o = np.zeros((3, T, B, V))
    d_x = np.zeros((T, B, I))
    d_W_ih_t, d_W_hh_t, d_b_t = np.zeros((T, H, I)), np.zeros((T, H, H)), np.zeros((T, H))
    d_W_ho_t, d_b_o_t = np.zeros((T, V, H)), np.zeros((T, V))

    for t in range(T):
        before[t] = h_0 if t == 0 else h[t - 1]
        a[t] = x[t] @ W_ih.T + before[t] @ W_hh.T + b
        h[t] = np.tanh(a[t])
        o[t] = h[t] @ W_ho.T + b_o
        e = np.exp(o[t] - o[t].max(axis=1, keepdims=True))
        p[t] = e / e.sum(axis=1, keepdims=True)
    s = o - o.max(axis=2, keepdims=True)
    loss = (np.log(np.exp(s).sum(axis=2)) - (s * y).sum(axis=2)).mean()

    carried = np.zeros((B, H))
    for t in reversed(range(T)):
        d_o[t] = (p[t] - y[t]) / (T * B)
        d_h_output[t] = d_o[t] @ W_ho
        d_h_later[t] = carried
        d_h[t] = d_h_output[t] + d_h_later[t]
        d_a[t] = (1 - h[t] ** 2) * d_h[t]
        d_W_ih_t[t] = d_a[t].T @ x[t]
        d_W_hh_t[t] = d_a[t].T @ before[t]
        d_b_t[t] = d_a[t].sum(axis=0)
        d_W_ho_t[t] = d_o[t].T @ h[t]
        d_b_o_t[t] = d_o[t].sum(axis=0)
        d_x[t] = d_a[t] @ W_ih
        carried = d_a[t] @ W_hh
    d_h_0 = carried
    d_W_ih = d_W_ih_t.sum(axis=0)
    d_W_hh = d_W_hh_t.sum(axis=0)
    d_b = d_b_t.sum(axis=0)
    d_W_ho = d_W_ho_t.sum(axis=0)
    d_b_o = d_b_o_t.sum(axis=0)

    return WorkedExample(
        x=x,
        targets=targets,
        h_0=h_0,
        W_ih=W_ih,
        W_hh=W_hh,
        b=b,
        W_ho=W_ho,
        b_o=b_o,
        before=before,
        a=a,
        h=h,
        o=o,
        p=p,
        loss=float(loss),
        d_o=d_o,
        d_h_output=d_h_output,
        d_h_later=d_h_later,
        d_h=d_h,
        d_a=d_a,
        d_W_ih_t=d_W_ih_t,
        d_W_hh_t=d_W_hh_t,
        d_b_t=d_b_t,
        d_W_ho_t=d_W_ho_t,
        d_b_o_t=d_b_o_t,
        d_W_ih=d_W_ih,
        d_W_hh=d_W_hh,
        d_b=d_b,
        d_W_ho=d_W_ho,
        d_b_o=d_b_o,
        d_x=d_x,
        d_h_0=d_h_0,
    )


def _checked(name: str, value: ArrayLike | None, shape: tuple[str | int, ...]) -> Array:
    """Return an array in float64, of a shape in which letters stand for any size but 0.

    None stands for the default, of which h_0 is repeated for each sequence.
    """
    hint = ""
    if value is None:
        value, hint = _DEFAULTS[name], f", the default: pass {name} as well"
    given = check.array(name, value)
    if hint and name == "h_0":
        given = given.repeat(int(shape[0]), axis=0)
    if given.dtype.kind == "c":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {given.dtype}")
    fits = given.ndim == len(shape) and all(
        size == wanted or (isinstance(wanted, str) and size > 0)
        for size, wanted in zip(given.shape, shape, strict=True)
    )
    expected = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
    check.shape(name, given, f"({expected})", fits, hint)
    if not np.isfinite(given).all():
        raise ValueError(f"{name} must hold finite numbers; got {given[~np.isfinite(given)][0]}")
    return given.astype(np.float64)


def _checked_targets(value: ArrayLike | None, T: int, B: int, V: int) -> Array:
    """Return classes in 0 .. V-1, one for each step and sequence; None stands for the default."""
    hint = ", the default: pass targets as well" if value is None else ""
    targets = check.index_array("targets", _DEFAULTS["targets"] if value is None else value, V, "V")
    check.shape("targets", targets, f"(T={T}, B={B})", targets.shape == (T, B), hint)
    return targets.copy()


def _row(label: str, array: Array) -> str:
    """Return a label and numbers beside it; a batch of one sequence without its axis."""
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.dtype.kind == "f":
        if (array == array.round()).all() and (np.abs(array) < 1e9).all():
            array = array.astype(int)  # 1 rather than 1.
        else:
            array = array.round(4) + 0.0  # which makes -0. and what rounds to it 0.
    width = max((len(f"{number: .0f}") for number in array.flat), default=0)
    numbers = np.array2string(
        array,
        precision=4,
        suppress_small=True,
        floatmode="maxprec",
        sign=" " if array.ndim else "-",
        # Integers of NumPy 1 have no place for the sign.
        formatter={"int": lambda number: f"{number: {width}d}"} if array.ndim else None,
        max_line_width=44,
        threshold=array.size,  # no dots in place of numbers
    )
    margin = " " * 35
    label = f"{label:<35}" if len(label) < 35 else f"{label}\n{margin}"
    return label + numbers.replace("\n", "\n" + margin)
