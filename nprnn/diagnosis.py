"""What is wrong with a gradient: known mistakes, each tried against it.

`Backward` is backpropagation through time as a textbook has it, a method for each of its lines. A
mistake is a class that gets one of these lines wrong, so that the gradients it leads to can be
computed and compared with those in question.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from . import _validation as check
from .encoding import one_hot
from .gradcheck import compare, facts
from .losses import softmax_cross_entropy
from .models import LanguageModel, SequenceModel, SequenceTagger
from .recurrent import RNN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array, Params
    from .gradcheck import Row


class Explanation(NamedTuple):
    """A mistake that leads to just these gradients, and the line of mathematics that it misses."""

    name: str
    mathematics: str


class Diagnosis(NamedTuple):
    """What `diagnose` found; `str` tells it.

    `explanations` is empty if the gradients are right, and if nothing known leads to them; `wrong`
    has a row of facts for each gradient that is not right, `misshapen` the shapes of those that
    cannot be compared.
    """

    explanations: list[Explanation]
    wrong: list[Row]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_right(self) -> bool:
        """Whether there is nothing to explain."""
        return not self.wrong and not self.misshapen

    def __str__(self) -> str:
        if self.is_right:
            return "the gradients are right"
        if self.explanations:
            found = [f"- {name}\n    {line}" for name, line in self.explanations]
            head = "this explains the gradients:" if len(found) == 1 else "each of these explains:"
            return "\n".join([head, *found])
        shapes = [
            f"{name}: has shape {got}, expected {expected}"
            for name, (got, expected) in self.misshapen.items()
        ]
        head = "no known mistake leads to these gradients; compared with the right ones:"
        return "\n".join([head, *shapes, *(facts(row, "given", "right") for row in self.wrong)])


def diagnose(
    network: RNN | SequenceModel,
    grads: Mapping[str, ArrayLike],
    inputs: ArrayLike,
    *,
    state: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    d_output: ArrayLike | None = None,
    d_state: ArrayLike | None = None,
    rtol: float = 1e-8,
) -> Diagnosis:
    """Name the mistake in the gradients of a simple recurrent network.

    The gradients are compared with those to which each of some thirty known mistakes leads, then
    with those of any two mistakes together, and then, one array after the other, with each mistake
    again: for two mistakes in places that have nothing to do with each other.

    Parameters
    ----------
    network : RNN or LanguageModel or SequenceTagger
        Of one layer and one direction, in float64: its parameters, and its nonlinearity. It need
        not be where the gradients come from.
    grads : dict of ndarray
        The gradients in question, under the names of the network's parameters; of all or of some of
        them. The gradients of the input and of the initial state may stand beside them as ``"x"``
        and ``"state"``.
    inputs : array_like of shape (T, B, I), or integers (T, B)
        What the network reads; as it takes them, with `batch_first` or without a batch too.
    state : array_like of float, shape (1, B, H), optional
        Initial state; zeros without it.
    targets : array_like of int, shape (T, B)
        For a model: the right classes. The loss is the mean cross-entropy.
    d_output, d_state : array_like of float, optional
        For a layer: the upstream gradients, of the shapes of output and final state, as `backward`
        takes them.
    rtol : float, default 1e-8
        Two arrays are the same if they differ by no more than this much of the largest entry.

    Returns
    -------
    Diagnosis

    Raises
    ------
    TypeError, ValueError
        If the network is of another kind, or an array does not fit.

    Examples
    --------
    >>> from nprnn import RNN
    >>> rng = np.random.default_rng(0)
    >>> layer, x = RNN(2, 3, dtype=np.float64, rng=0), rng.normal(size=(4, 5, 2))
    >>> output, state, cache = layer.forward(x)
    >>> d_output = rng.normal(size=output.shape)
    >>> _, _, grads = layer.backward(d_output, None, cache)
    >>> print(diagnose(layer, grads, x, d_output=d_output))
    the gradients are right
    >>> grads["weight_hh_l0"] = grads["weight_hh_l0"].T
    >>> print(diagnose(layer, grads, x, d_output=d_output))
    this explains the gradients:
    - the two sides of the product for the gradient of W_hh are exchanged
        d_W_hh = Σ_t d_a_t h_(t-1)ᵀ, not h_(t-1) d_a_tᵀ
    """
    rtol = check.real("rtol", rtol, "(0, 1)")
    problem = _pose(network, inputs, state, targets, d_output, d_state)
    given = _given(grads, network, problem.x.shape[1])
    everything = Backward(problem).gradients()
    right = {name: everything[name] for name in given}
    misshapen = {
        name: (array.shape, right[name].shape)
        for name, array in given.items()
        if array.shape != right[name].shape
    }
    rows = [
        compare(name, array, right[name], rtol)
        for name, array in given.items()
        if name not in misshapen
    ]
    wrong = [row for row in rows if row.wrong]
    faulty = {name: given[name] for name in [*misshapen, *(row.name for row in wrong)]}
    explanations = _explain(problem, given, right, faulty, rtol) if faulty else []
    return Diagnosis(explanations, wrong, misshapen)


def _explain(
    problem: Problem, given: Params, right: Params, faulty: Params, rtol: float
) -> list[Explanation]:
    """Return what leads to the gradients: one mistake, else two, else one for an array alone."""
    mistakes = [kind for kind in MISTAKES if kind.applies(problem)]
    made = {kind: kind(problem).gradients() for kind in mistakes}
    found = [kind.explanation() for kind in mistakes if _same(given, made[kind], rtol)]
    if all(array.shape == right[name].shape for name, array in given.items()):
        found += [why for why, limited in _clipped(given, right) if _same(given, limited, rtol)]
    if not found:
        # Two mistakes in different lines are a class that inherits from both.
        for one, other in itertools.combinations(mistakes, 2):
            if one.line != other.line:
                both = type("Both", (one, other), {})(problem).gradients()
                if _same(given, both, rtol):
                    names = zip(one.explanation(), other.explanation(), strict=True)
                    found.append(Explanation(*(" - and: ".join(pair) for pair in names)))
    if not found:
        found = [
            Explanation(f"{kind.name} ({name})", kind.mathematics)
            for name, array in faulty.items()
            for kind in mistakes
            if _same({name: array}, made[kind], rtol)
        ]
    return list(dict.fromkeys(found))


def _same(given: Params, made: Params, rtol: float) -> bool:
    """Whether all gradients have the same shapes, and numbers to rounding."""
    for name, array in given.items():
        other = made[name]
        if array.shape != other.shape:
            return False
        if array.size and not np.abs(array - other).max() <= rtol * np.abs(other).max():
            return False
    return True


def _clipped(given: Params, right: Params) -> list[tuple[Explanation, Params]]:
    """Return the gradients as clipping would leave them, if to a limit as people choose it.

    Any gradient is the right one clipped to some limit, if all of it is too small by one factor.
    Such a factor is named only where the limit is a round number.
    """
    why = "check first, then clip: clipping changes the gradient on purpose"
    params = {name: array for name, array in right.items() if name not in ("x", "state")}
    largest = max((np.abs(given[name]).max() for name in params if given[name].size), default=0.0)
    norm, limited = (
        float(np.sqrt(sum((arrays[name] ** 2).sum() for name in params)))
        for arrays in (right, given)
    )
    made = []
    for limit in (limited, limited * (norm + 1e-6) / norm if norm else 0.0):
        if _is_round(limit) and limit < norm:
            scaled = {name: array * (limited / norm) for name, array in params.items()}
            text = f"clipped to norm {limit:.2g} before the check"
            made.append((Explanation(text, why), right | scaled))
    if _is_round(largest):
        cut = {name: np.clip(array, -largest, largest) for name, array in params.items()}
        text = f"clipped to entries of at most {largest:.2g} before the check"
        made.append((Explanation(text, why), right | cut))
    return made


def _is_round(value: float) -> bool:
    """Whether a number has no more than two digits, to rounding."""
    return value > 0 and abs(float(f"{value:.1e}") - value) <= 1e-9 * value


def _pose(
    network: RNN | SequenceModel,
    inputs: ArrayLike,
    state: ArrayLike | None,
    targets: ArrayLike | None,
    d_output: ArrayLike | None,
    d_state: ArrayLike | None,
) -> Problem:
    """Run the network forward, step by step."""
    is_model = isinstance(network, LanguageModel | SequenceTagger)
    layer = network.rnn if isinstance(network, SequenceModel) else network
    if not isinstance(layer, RNN) or (isinstance(network, SequenceModel) and not is_model):
        raise TypeError(
            f"network must be an RNN, a LanguageModel or a SequenceTagger, got {network!r}"
        )
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError(f"network must have one layer and one direction, got {layer!r}")
    if layer.params["weight_hh_l0"].dtype != np.float64:
        raise TypeError("network must be in float64: rounding hides errors in anything less")
    if is_model == (targets is None) or (is_model and d_output is not None):
        raise ValueError("a model needs targets, and no d_output; a layer d_output, and no targets")
    output, _, cache = layer.forward(inputs, state)  # says what does not fit, and so does backward
    layer.backward(d_output, d_state, cache)
    grid = cache.boundary.enter
    x = grid(np.asarray(inputs))
    if x.ndim == 2:
        x = one_hot(x, layer.input_size, np.float64)
    T, B, H = grid(output).shape
    d_h = np.zeros((T, B, H)) if d_output is None else grid(np.asarray(d_output))
    d_last = np.zeros((B, H)) if d_state is None else np.reshape(d_state, (B, H))
    a, h = np.empty((T, B, H)), np.zeros((T + 1, B, H))
    if state is not None:
        h[0] = np.reshape(state, (B, H))
    p = layer.params
    for t in range(T):
        a[t] = x[t] @ p["weight_ih_l0"].T + h[t] @ p["weight_hh_l0"].T
        if layer.bias:
            a[t] += p["bias_ih_l0"] + p["bias_hh_l0"]
        h[t + 1] = np.tanh(a[t]) if layer.nonlinearity == "tanh" else np.where(a[t] > 0, a[t], 0)
    slope = 1 - h[1:] ** 2 if layer.nonlinearity == "tanh" else (a > 0).astype(np.float64)
    problem = Problem(
        x, a, h, slope, p["weight_ih_l0"], p["weight_hh_l0"], layer.nonlinearity, d_h, d_last
    )
    if not isinstance(network, SequenceModel):
        return problem
    W_ho, labels = network.readout.params["weight"], grid(np.asarray(targets))
    logits = h[1:] @ W_ho.T + network.readout.params["bias"]
    _, d_o = softmax_cross_entropy(logits, labels)
    expected = one_hot(labels, len(W_ho), np.float64)
    probabilities = d_o * (T * B) + expected
    return problem._replace(W_ho=W_ho, probabilities=probabilities, expected=expected)


def _given(grads: Mapping[str, ArrayLike], network: RNN | SequenceModel, B: int) -> Params:
    """Return the gradients under a layer's names, the state's as (B, H), the input's as a grid."""
    layer = network.rnn if isinstance(network, SequenceModel) else network
    known = [*network.params, "x", "state"]
    given = {}
    if not isinstance(grads, Mapping) or not grads:
        raise TypeError(f"grads must be a dict of arrays, got {grads!r}")
    for name, value in grads.items():
        if name not in known:
            raise ValueError(f"grads has an unknown key {name!r}; known are {', '.join(known)}")
        array = check.float_array(f"grads[{name!r}]", value)
        if array.dtype != np.float64:
            raise TypeError(f"grads[{name!r}] must be float64, got {array.dtype}")
        if name == "state" and array.size == B * layer.hidden_size:
            array = array.reshape(B, layer.hidden_size)
        elif name == "x" and array.ndim == 3 and layer.batch_first:
            array = array.swapaxes(0, 1)
        elif name == "x" and array.ndim == 2:
            array = array[:, None]
        given[name.removeprefix("rnn.")] = array
    return given


def _outer(d: Array, before: Array) -> Array:
    """Σ_t Σ_b d_t before_tᵀ, of arrays (T, B, M) and (T, B, N): (M, N)."""
    total: Array = np.einsum("tbm,tbn->mn", d, before)
    return total


class Problem(NamedTuple):
    """One layer's forward pass in float64, and where gradients come in."""

    x: Array  # (T, B, I)
    a: Array  # (T, B, H), before the nonlinearity
    h: Array  # (T+1, B, H), the initial state first
    slope: Array  # (T, B, H), f'(a)
    W_ih: Array  # (H, I)
    W_hh: Array  # (H, H)
    nonlinearity: str
    d_output: Array  # (T, B, H), for a layer
    d_state: Array  # (B, H)
    W_ho: Array | None = None  # (V, H), for a model
    probabilities: Array | None = None  # (T, B, V)
    expected: Array | None = None  # (T, B, V), one-hot targets


class Backward:
    """Backpropagation through time, a method for each line of it."""

    name: ClassVar[str]
    mathematics: ClassVar[str]
    line: ClassVar[str]  # the method that is wrong

    def __init__(self, problem: Problem) -> None:
        self.p = problem
        self.T: int = problem.x.shape[0]
        self.B: int = problem.x.shape[1]

    @classmethod
    def applies(cls, problem: Problem) -> bool:
        """Whether the mistake can be made in this problem at all."""
        return True

    @classmethod
    def explanation(cls) -> Explanation:
        """Return what to say if this is it."""
        return Explanation(cls.name, cls.mathematics)

    def gradients(self) -> Params:
        """Return every gradient: of the parameters, of the input and of the initial state."""
        p = self.p
        d_output, grads = p.d_output, {}
        if p.W_ho is not None:
            d_o = self.logits()  # (T, B, V)
            grads = {"readout.weight": _outer(d_o, p.h[1:]), "readout.bias": d_o.sum((0, 1))}
            d_output = d_o @ p.W_ho
        d_a = np.zeros_like(p.a)  # (T, B, H)
        d_h, carried = d_output[-1], self.from_above()  # (B, H) each
        for t in self.steps():
            d_h = self.arriving(t, d_output[t], carried)
            d_a[t] = d_h * self.local()[t]
            carried = self.back(d_a[t])
        d_b = self.bias(d_a)
        grads |= {
            "weight_ih_l0": self.weight(d_a, p.x),
            "weight_hh_l0": self.recurrent(d_a),
            "bias_ih_l0": d_b,
            "bias_hh_l0": d_b,
            "x": d_a @ p.W_ih,
            "state": self.initial(d_h, carried),
        }
        return {name: self.scale(name) * gradient for name, gradient in grads.items()}

    def logits(self) -> Array:
        """d_o = (p - y) / (T B)."""
        assert self.p.probabilities is not None
        d_o: Array = (self.p.probabilities - self.p.expected) / (self.T * self.B)
        return d_o

    def from_above(self) -> Array:
        """Return what arrives at the last state from beyond the sequence."""
        return self.p.d_state

    def steps(self) -> Iterable[int]:
        """From the last step to the first."""
        return reversed(range(self.T))

    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        """d_h_t = d_output_t + what step t+1 carries back."""
        return own + carried

    def local(self) -> Array:
        """f'(a_t)."""
        return self.p.slope

    def back(self, d_a: Array) -> Array:
        """W_hhᵀ d_a_t, with sequences in rows."""
        return d_a @ self.p.W_hh

    def weight(self, d_a: Array, before: Array) -> Array:
        """Σ_t d_a_t x_tᵀ."""
        return _outer(d_a, before)

    def recurrent(self, d_a: Array) -> Array:
        """Σ_t d_a_t h_(t-1)ᵀ."""
        return self.weight(d_a, self.p.h[:-1])

    def bias(self, d_a: Array) -> Array:
        """Σ_t d_a_t."""
        total: Array = d_a.sum(axis=(0, 1))
        return total

    def initial(self, d_h: Array, carried: Array) -> Array:
        """d_h_0 is what the first step carries back."""
        return carried

    def scale(self, of: str) -> float:
        """Return the factor of one gradient: 1."""
        return 1.0


MISTAKES: list[type[Backward]] = []
_LINES = [
    *("logits", "from_above", "steps", "arriving", "local", "back"),
    *("weight", "recurrent", "bias", "initial", "scale"),
]


def _mistake(name: str, mathematics: str) -> Any:
    """Enter a class in the list, under the line of `Backward` that it gets wrong."""

    def enter(kind: type[Backward]) -> type[Backward]:
        kind.name, kind.mathematics = name, mathematics
        kind.line = next(name for name in vars(kind) if name in _LINES)
        MISTAKES.append(kind)
        return kind

    return enter


_SLOPE = "d_a_t = f'(a_t) d_h_t, for tanh (1 - h_t²) d_h_t"
_CARRIED = "d_h_t = d_output_t + W_hhᵀ d_a_(t+1)"
_ALL_STEPS = "d_W_hh = Σ_t d_a_t h_(t-1)ᵀ, t = 1 … T"
_BIAS = "d_b = Σ_t Σ_b d_a_t, of shape (H,)"


@_mistake("the transpose of W_hh is missing", "d_h_(t-1) = W_hhᵀ d_a_t + d_output_(t-1)")
class _NoTranspose(Backward):
    def back(self, d_a: Array) -> Array:
        return d_a @ self.p.W_hh.T


@_mistake("the factor f'(a), for tanh 1 - h², is missing", _SLOPE)
class _NoSlope(Backward):
    def local(self) -> Array:
        return np.ones_like(self.p.slope)


@_mistake("1 - a² stands in place of 1 - h²: of what goes into tanh, not of what comes out", _SLOPE)
class _SlopeOfInput(Backward):
    @classmethod
    def applies(cls, problem: Problem) -> bool:
        return problem.nonlinearity == "tanh"

    def local(self) -> Array:
        return 1 - self.p.a**2


@_mistake("h stands in place of 1 - h²", _SLOPE)
class _StateForSlope(Backward):
    def local(self) -> Array:
        return self.p.h[1:]


@_mistake("the gradient carried back from later steps is dropped", _CARRIED)
class _NothingCarried(Backward):
    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        return own + carried if t == self.T - 1 else own


@_mistake("the gradient carried back from later steps is dropped", _CARRIED)
class _NothingAtAll(Backward):
    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        return own


@_mistake("the carried gradient replaces the step's own, where it should be added to it", _CARRIED)
class _Overwritten(Backward):
    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        return own + carried if t == self.T - 1 else carried


@_mistake("the carried gradient replaces the step's own, where it should be added to it", _CARRIED)
class _AllOverwritten(Backward):
    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        return carried


@_mistake("the carried gradient stops one step early: it does not reach the first step", _CARRIED)
class _OneStepEarly(Backward):
    def arriving(self, t: int, own: Array, carried: Array) -> Array:
        return own if t == 0 and self.T > 1 else own + carried


@_mistake("the gradient of the final state is left out", "d_h_T = d_output_T + d_state")
class _NoFinalState(Backward):
    def from_above(self) -> Array:
        return np.zeros_like(self.p.d_state)


@_mistake("the first step is skipped", f"{_ALL_STEPS}: the loop runs over range(T)")
class _FirstSkipped(Backward):
    def steps(self) -> Iterable[int]:
        return reversed(range(1, self.T))


@_mistake("the last step is skipped", f"{_ALL_STEPS}: the loop runs over range(T)")
class _LastSkipped(Backward):
    def steps(self) -> Iterable[int]:
        return reversed(range(self.T - 1))


@_mistake("h_t stands in place of h_(t-1) in the gradient of W_hh", _ALL_STEPS)
class _StateAfter(Backward):
    def recurrent(self, d_a: Array) -> Array:
        return self.weight(d_a, self.p.h[1:])


@_mistake("the first step's part in the gradient of W_hh, that of h_0, is left out", _ALL_STEPS)
class _NoInitialState(Backward):
    def recurrent(self, d_a: Array) -> Array:
        return self.weight(d_a[1:], self.p.h[1:-1])


@_mistake(
    "the two sides of the product for the gradient of W_hh are exchanged",
    "d_W_hh = Σ_t d_a_t h_(t-1)ᵀ, not h_(t-1) d_a_tᵀ",
)
class _Exchanged(Backward):
    def recurrent(self, d_a: Array) -> Array:
        return self.weight(d_a, self.p.h[:-1]).T


@_mistake(
    "the gradients of the weights are those of one step, overwritten (=) and not added up (+=)",
    "d_W = Σ_t d_a_t x_tᵀ",
)
class _OnlyFirst(Backward):
    def weight(self, d_a: Array, before: Array) -> Array:
        return _outer(d_a[:1], before[:1])


@_mistake("the gradient of the bias is not summed over time", _BIAS)
class _BiasByStep(Backward):
    def bias(self, d_a: Array) -> Array:
        steps: Array = d_a.sum(axis=1)
        return steps


@_mistake("the gradient of the bias is not summed over time", _BIAS)
class _BiasOfFirst(Backward):
    def bias(self, d_a: Array) -> Array:
        first: Array = d_a[0].sum(axis=0)
        return first


@_mistake("the gradient of the bias is not summed over time", _BIAS)
class _BiasOfLast(Backward):
    def bias(self, d_a: Array) -> Array:
        last: Array = d_a[-1].sum(axis=0)
        return last


@_mistake("the gradient of the bias is not summed over the batch", _BIAS)
class _BiasBySequence(Backward):
    def bias(self, d_a: Array) -> Array:
        sequences: Array = d_a.sum(axis=0)
        return sequences


@_mistake("the gradient of the bias is not summed over the batch", _BIAS)
class _BiasOfOneSequence(Backward):
    def bias(self, d_a: Array) -> Array:
        one: Array = d_a[:, 0].sum(axis=0)
        return one


@_mistake("the gradient of the bias is not summed over time and batch", _BIAS)
class _BiasByEntry(Backward):
    def bias(self, d_a: Array) -> Array:
        return d_a


@_mistake(
    "the gradient of h_0 is that of h_1: the way through the first step is missing",
    "d_h_0 = W_hhᵀ d_a_1",
)
class _StateTooLate(Backward):
    def initial(self, d_h: Array, carried: Array) -> Array:
        return d_h


@_mistake("the target is not subtracted in the gradient of the softmax", "d_o = (p - y) / (T B)")
class _NoTarget(Backward):
    @classmethod
    def applies(cls, problem: Problem) -> bool:
        return problem.probabilities is not None

    def logits(self) -> Array:
        assert self.p.probabilities is not None
        d_o: Array = self.p.probabilities / (self.T * self.B)
        return d_o


_MEAN = "the loss is a mean over T and B, or a sum: its gradient has the same factor"
_FACTORS: list[tuple[str, str, Callable[[Backward], float]]] = [
    ("the sign is wrong", "d_W = dL/dW; it is the step of descent that subtracts it", lambda p: -1),
    ("the gradients of two calls are added up", "d_W starts from 0 at every call", lambda p: 2),
    ("a sum over time where there is a mean", _MEAN, lambda p: p.T),
    ("a sum over the batch where there is a mean", _MEAN, lambda p: p.B),
    ("a sum over time and batch where there is a mean", _MEAN, lambda p: p.T * p.B),
    ("a mean over time where there is a sum", _MEAN, lambda p: 1 / p.T),
    ("a mean over the batch where there is a sum", _MEAN, lambda p: 1 / p.B),
    ("a mean over time and batch where there is a sum", _MEAN, lambda p: 1 / (p.T * p.B)),
]


def _enter_factor(
    name: str, mathematics: str, factor: Callable[[Backward], float], unscaled: tuple[str, ...]
) -> None:
    class Scaled(Backward):
        def scale(self, of: str) -> float:
            return 1.0 if of in unscaled else factor(self)

    _mistake(name, mathematics)(Scaled)


for _factor in _FACTORS:
    _enter_factor(*_factor, unscaled=())
    _enter_factor(*_factor, unscaled=("x", "state"))  # in the parameters alone
