"""Comparing gradients with what the loss itself says.

Three ways to differentiate a loss without deriving anything:

directional
    (L(p + εv) - L(p - εv)) / 2ε against g·v, for one random direction v: two evaluations.
central
    The same for one entry after the other, with two steps (Richardson). Right to about ten digits.
complex
    Im L(p + ih) / h with h = 1e-30 (Squire and Trapp 1998; Martins, Sturdza and Alonso 2003).
    Nothing is subtracted, so it is right to the last digits; the loss must be an analytic function
    of its parameters, computed without what drops or flips imaginary parts: `abs`, `conj`, `vdot`,
    `numpy.linalg.norm`, `.real`, a buffer of real type. `maximum` takes the larger real part, and
    of two equal ones the larger imaginary part, which a difference does not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from ._validation import Array, Params, RandomSource

_COMPLEX_STEP = 1e-30
_DIFFERENCE_STEP = 1e-5
_EPSILON = 2.0**-52
# What a loss that is no analytic function makes of the complex step is no small error.
_GROSS = 1e-4
_FINE_STEP = 1e-8
_PER_ENTRY = 4  # evaluations for a central difference
_DEFAULT_RTOL = {"directional": 1e-7, "central": 1e-7, "complex": 1e-10}


class GradientCheckError(AssertionError):
    """A gradient that is not the loss's own. The message says which, where and by how much."""


class Row(NamedTuple):
    """The comparison for one parameter.

    `error` is the largest absolute difference, at `where`; the two sides there are `analytic`
    and `numeric`; `scale` is the largest entry of either, and `allowed` what the difference may be.
    `wrong` of the `size` entries that were compared differ by more. `cosine` and `ratio` compare
    the two as vectors. `evaluations` of the loss were needed.
    """

    name: str
    shape: tuple[int, ...]
    where: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    scale: float
    allowed: float
    wrong: int
    size: int
    cosine: float
    ratio: float
    evaluations: int = 0

    @property
    def relative(self) -> float:
        """The error in units of the largest entry."""
        return self.error / self.scale if self.scale else 0.0


class Report(NamedTuple):
    """What was compared, and how close it was; `str` makes a table of it."""

    method: str
    rows: list[Row]
    evaluations: int

    def __str__(self) -> str:
        width = max(len("parameter"), *(len(row.name) for row in self.rows))
        head = f"{'parameter':{width}}  {'shape':>12}  {'abs. error':>10}  {'rel. error':>10}"
        lines = [f"{head}  {'method':>11}  evaluations"]
        lines += [
            f"{row.name:{width}}  {row.shape!s:>12}  {row.error:10.1e}  {row.relative:10.1e}"
            f"  {self.method:>11}  {row.evaluations:11d}"
            for row in self.rows
        ]
        return "\n".join([*lines, f"{self.evaluations} evaluations of the loss in all"])


def check_gradients(
    loss: Callable[[Params], Any],
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    *,
    method: str = "directional",
    rtol: float | None = None,
    atol: float = 0.0,
    entries: int | None = None,
    rng: RandomSource = 0,
) -> Report:
    """Check gradients against the loss that they are said to be the gradients of.

    Errors are relative to the largest entry of a parameter's gradient, not entry by entry: a small
    entry is the difference of larger ones, and has no more correct digits than these leave it.

    Parameters
    ----------
    loss : callable
        Takes a dict like `params` and returns a real scalar. For the complex method it is called
        with complex arrays and returns a complex scalar.
    params : dict of ndarray
        float64. Anything that the loss depends on can stand here: weights, inputs, states. They are
        copied before they are perturbed.
    grads : dict of ndarray
        The gradients to check, with the keys and shapes of `params`.
    method : {"directional", "central", "complex"}
        See the module. When the directional check fails, the central one is run to find the entry.
        The complex one is compared with a central difference in one direction, in case the loss is
        none for it.
    rtol : float, optional
        Allowed error relative to the largest entry: 1e-7 by default, 1e-10 for the complex method.
    atol : float, default 0
        Allowed besides.
    entries : int, optional
        Check no more than so many entries of each parameter: the one with the largest gradient, and
        others drawn at random. All of them without it.
    rng : Generator or int, default 0
        Draws the direction, and the entries.

    Returns
    -------
    Report

    Raises
    ------
    GradientCheckError
        If an error is larger than allowed. The message has a paragraph for each wrong parameter.
    TypeError, ValueError
        If the arguments cannot be compared: single precision, other keys or shapes, a loss that is
        no scalar, differs from call to call, changes its parameters, or refuses complex numbers.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> cube = lambda p: (p["x"] ** 3).sum()
    >>> report = check_gradients(cube, {"x": x}, {"x": 3 * x**2}, method="complex")
    >>> report.rows[0].error
    0.0
    >>> check_gradients(cube, {"x": x}, {"x": 2 * x**2}, method="complex")
    Traceback (most recent call last):
    ...
    nprnn.gradcheck.GradientCheckError: gradients differ from those of the loss (complex):
    x: 3 of 3 entries wrong; worst at (2,): analytic 18, numeric 27, error 9, allowed 2.7e-09;
      as vectors: cosine 1, norm ratio analytic/numeric 0.6667
    """
    check.choice("method", method, tuple(_DEFAULT_RTOL))
    values = _checked("params", params)
    analytic = check.params(
        "grads", _checked("grads", grads), {k: v.shape for k, v in values.items()}
    )
    rtol = _DEFAULT_RTOL[method] if rtol is None else check.real("rtol", rtol, "[0, inf)")
    atol = check.real("atol", atol, "[0, inf)")
    limit = None if entries is None else check.integer("entries", entries)
    rng = check.generator(rng)
    probe = Probe(loss, values)
    if method == "directional":
        slope = _directional(probe, analytic, rtol, atol, rng)
        if not slope.wrong:
            return Report(method, [slope], probe.evaluations)
    places = {name: _places(gradient, limit, rng) for name, gradient in analytic.items()}
    numeric = probe.gradients(places, is_complex=method == "complex")
    rows = _rows(analytic, numeric, rtol, atol + (0.0 if method == "complex" else probe.noise))
    each = 1 if method == "complex" else _PER_ENTRY
    rows = [row._replace(evaluations=each * len(places[row.name])) for row in rows]
    wrong = [row for row in rows if row.wrong]
    if not wrong and method == "directional":
        wrong = [slope]  # too small to see in any one entry, and yet there
    problems = [f"gradients differ from those of the loss ({method}):", *map(facts, wrong)]
    doubts = probe.doubts(numeric, rng) if method == "complex" else []
    if wrong or doubts:
        raise GradientCheckError("\n".join([*(problems if wrong else []), *doubts]))
    return Report(method, rows, probe.evaluations)


def _rows(analytic: Params, numeric: Params, rtol: float, atol: float) -> list[Row]:
    """Compare each parameter's gradient."""
    # Beside far larger gradients, only their rounding errors can be seen.
    floor = 1e-4 * max((_largest(array) for array in numeric.values()), default=0.0)
    return [compare(name, analytic[name], numeric[name], rtol, atol, floor) for name in analytic]


def truncated(
    loss: Callable[[Params, Any, Any], tuple[Any, Any]],
    params: Mapping[str, Array],
    windows: Iterable[Any],
    state: Any = None,
) -> Callable[[Params], Any]:
    """Return the loss of which truncated backpropagation through time computes the gradient.

    A sequence is cut into windows, and the state handed on from each to the next; the gradient is
    not (Williams and Peng 1990). So it is the gradient of a loss in which the state at a cut is a
    constant: the one that the parameters as they are lead to, wherever they are moved.

    Parameters
    ----------
    loss : callable
        Takes parameters, a window and the state before it, returns a scalar and the state after it.
    params : dict of ndarray
        Where the gradients are taken.
    windows : iterable
        What `loss` takes, in order.
    state : optional
        Before the first window.

    Returns
    -------
    callable
        Of a dict like `params`, for `check_gradients`: the sum of the losses of all windows.

    Examples
    --------
    >>> from nprnn import LanguageModel
    >>> model = LanguageModel(4, 3, dtype=np.float64, rng=0)
    >>> tokens = np.random.default_rng(1).integers(0, 4, (10, 2))
    >>> windows = [(tokens[t : t + 3], tokens[t + 1 : t + 4]) for t in (0, 3, 6)]
    >>> def loss(params, window, state):
    ...     return model.with_params(params).loss(*window, state)
    >>> total, state = {name: 0 for name in model.params}, None
    >>> for window in windows:
    ...     _, grads, state = model.loss_and_grads(*window, state)
    ...     total = {name: total[name] + gradient for name, gradient in grads.items()}
    >>> cut = truncated(loss, model.params, windows)
    >>> report = check_gradients(cut, model.params, total, method="complex")
    """
    pieces = []
    for window in windows:
        pieces.append((window, state))
        _, state = loss(dict(params), window, state)

    def total(moved: Params) -> Any:
        return sum(loss(moved, window, before)[0] for window, before in pieces)

    return total


def _places(gradient: Array, limit: int | None, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the indices to check: all of them, or the largest entry's and others at random."""
    if limit is None or gradient.size <= limit:
        return list(np.ndindex(gradient.shape))
    largest = int(np.argmax(np.abs(gradient)))  # what errors are relative to
    others = np.delete(np.arange(gradient.size), largest)
    flat = sorted([largest, *rng.choice(others, limit - 1, replace=False).tolist()])
    return [tuple(int(i) for i in np.unravel_index(place, gradient.shape)) for place in flat]


class Probe:
    """A loss, evaluated at points near given parameters, which it never changes."""

    def __init__(self, loss: Callable[[Params], Any], params: Params) -> None:
        self.loss = loss
        self.params = params
        self.evaluations = 0
        self.value, again = self.at({}), self.at({})
        if again != self.value:
            raise ValueError(
                f"loss is not deterministic: two calls gave {self.value} and {again}; "
                "draw random numbers before, or from a seed"
            )

    @property
    def noise(self) -> float:
        """What rounding on the way to the loss can make of a difference quotient.

        A small loss comes from numbers around 1 all the same: ln(1 + 1e-5) has the error of the 1.
        """
        return 8 * _EPSILON * (1 + float(abs(self.value))) / _DIFFERENCE_STEP

    def at(self, changed: Params) -> Any:
        """Return the loss with some parameters replaced; complex if one of them is."""
        is_complex = any(array.dtype.kind == "c" for array in changed.values())
        kind = np.complex128 if is_complex else np.float64
        given = {name: array.astype(kind) for name, array in (self.params | changed).items()}
        before = {name: array.copy() for name, array in given.items()}
        self.evaluations += 1
        try:
            with warnings.catch_warnings():
                # A buffer or a float() that drops the imaginary part would make the answer 0.
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                value = np.asarray(self.loss(given))
        except (TypeError, np.exceptions.ComplexWarning) as error:
            if not is_complex:
                raise
            raise TypeError(
                "loss does not accept complex numbers, which the complex method needs "
                f"(method='central' does without): {error}"
            ) from error
        if any(not np.array_equal(given[name], before[name], equal_nan=True) for name in given):
            raise ValueError("loss changes the parameters that it is given; let it work on copies")
        if value.size != 1 or value.dtype.kind not in ("fc" if is_complex else "f"):
            raise TypeError(
                "loss must return a real scalar (a complex one for complex parameters), "
                f"got shape {value.shape}, dtype {value.dtype}"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"loss must be finite, got {value}")
        return value.item()

    def gradients(self, places: dict[str, list[tuple[int, ...]]], *, is_complex: bool) -> Params:
        """Return the derivatives by the entries at given places, NaN at the others."""
        derivative = self._complex_step if is_complex else self._difference
        result = {name: np.full(point.shape, np.nan) for name, point in self.params.items()}
        for name, indices in places.items():
            for index in indices:
                result[name][index] = derivative(name, self.params[name], index)
        return result

    def doubts(self, numeric: Params, rng: np.random.Generator) -> list[str]:
        """Say so if complex steps are not the derivatives that a central difference finds.

        Compared along one random direction. Where they part, a finer step is tried before: the
        coarser one may have reached over a kink.
        """
        known = {name: ~np.isnan(array) for name, array in numeric.items()}
        direction = {k: rng.standard_normal(v.shape) * v for k, v in known.items()}
        slope = sum(float((np.nan_to_num(numeric[k]) * v).sum()) for k, v in direction.items())
        length = math.sqrt(sum(float(np.nansum(array**2)) for array in numeric.values()))
        for step in (_DIFFERENCE_STEP, _FINE_STEP):
            central = self.along(direction, step)
            allowed = _GROSS * max(length, abs(central)) + self.noise * _DIFFERENCE_STEP / step
            if abs(central - slope) <= allowed:
                return []
        return [
            "the complex step and the central difference disagree: along one direction "
            f"{slope:.6g} and {central:.6g}. The loss drops or flips imaginary parts (abs, conj, "
            "vdot, linalg.norm, .real), or stands at a tie (maximum): use method='central'"
        ]

    def along(
        self, direction: Params, step: float = _DIFFERENCE_STEP, *, refined: bool = False
    ) -> float:
        """Return the derivative along a direction, by one central difference, or two if refined."""

        def move(step: float) -> Params:
            return {name: self.params[name] + step * v for name, v in direction.items()}

        return self._slope(move, step, refined)

    def _slope(self, move: Callable[[float], Params], step: float, refined: bool) -> float:
        """Return (L(h) - L(-h)) / 2h; refined, a second one removes its error in h²."""

        def quotient(h: float) -> float:
            return float(self.at(move(h)) - self.at(move(-h))) / (2 * h)

        if not refined:
            return quotient(step)
        return (4 * quotient(step) - quotient(2 * step)) / 3  # Richardson (1911)

    def _complex_step(self, name: str, point: Array, index: tuple[int, ...]) -> float:
        moved = point.astype(np.complex128)
        moved[index] += 1j * _COMPLEX_STEP
        return float(np.imag(self.at({name: moved}))) / _COMPLEX_STEP

    def _difference(self, name: str, point: Array, index: tuple[int, ...]) -> float:
        def move(step: float) -> Params:
            moved = point.copy()
            moved[index] += step
            return {name: moved}

        step = 10 * _DIFFERENCE_STEP * max(1.0, abs(float(point[index])))
        return self._slope(move, step, refined=True)


def _directional(
    probe: Probe, analytic: Params, rtol: float, atol: float, rng: np.random.Generator
) -> Row:
    """Compare along one random direction; the slope is a gradient with a single entry."""
    direction = {name: rng.standard_normal(array.shape) for name, array in analytic.items()}
    slope = sum(float((analytic[name] * direction[name]).sum()) for name in analytic)
    length = float(np.sqrt(sum((array**2).sum() for array in analytic.values())))
    # A loss that bends much along the direction gets a second, finer look.
    for refined in (False, True):
        numeric = np.array(probe.along(direction, refined=refined))
        row = compare(
            "a random direction", np.array(slope), numeric, rtol, atol + probe.noise, length
        )
        if not row.wrong:
            break
    return row


def compare(
    name: str, analytic: Array, numeric: Array, rtol: float, atol: float = 0.0, floor: float = 0.0
) -> Row:
    """Return how far two gradients are apart, at the entries where `numeric` is not NaN."""
    known = ~np.isnan(numeric)
    difference = np.where(known, np.abs(analytic - numeric), 0.0)
    difference = np.where(np.isnan(difference), np.inf, difference)
    ours, theirs = analytic[known], numeric[known]
    scale = max(_largest(theirs), _largest(ours[np.isfinite(ours)]))
    allowed = atol + rtol * max(scale, floor)
    index = np.unravel_index(difference.argmax(), difference.shape) if difference.size else ()
    place = tuple(int(i) for i in index)
    lengths = [math.sqrt(float((side**2).sum())) for side in (ours, theirs)]
    return Row(
        name=name,
        shape=analytic.shape,
        where=place,
        analytic=float(analytic[place]) if difference.size else 0.0,
        numeric=float(numeric[place]) if difference.size else 0.0,
        error=_largest(difference),
        scale=scale,
        allowed=allowed,
        wrong=int((difference > allowed).sum()),
        size=ours.size,
        cosine=float((ours * theirs).sum()) / (lengths[0] * lengths[1] or 1.0),
        ratio=lengths[0] / lengths[1] if lengths[1] else math.inf,
    )


def facts(row: Row, ours: str = "analytic", theirs: str = "numeric") -> str:
    """Tell what a row holds: how many entries, where the worst is, and the two as vectors."""
    return (
        f"{row.name}: {row.wrong} of {row.size} entries wrong; worst at {row.where}: "
        f"{ours} {row.analytic:.10g}, {theirs} {row.numeric:.10g}, "
        f"error {row.error:.2g}, allowed {row.allowed:.2g};\n"
        f"  as vectors: cosine {row.cosine:.4g}, norm ratio {ours}/{theirs} {row.ratio:.4g}"
    )


def _largest(array: Array) -> float:
    """Return the largest magnitude, NaN left out."""
    return float(np.nanmax(np.abs(array), initial=0.0))


def _checked(name: str, arrays: Mapping[str, Array]) -> Params:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{name} must be a dict of arrays, got {type(arrays).__name__}")
    result = {}
    for key, value in arrays.items():
        result[key] = check.array(f"{name}[{key!r}]", value)
        if result[key].dtype != np.float64:
            raise TypeError(
                f"{name}[{key!r}] must be float64, got {result[key].dtype}: rounding hides "
                "errors in anything less; convert with "
                "{k: v.astype(numpy.float64) for k, v in params.items()}"
            )
    return result
