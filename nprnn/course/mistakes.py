"""Which known mistakes lead to a wrong answer.

A mistake is a name, the line of mathematics that was missed, and a function of the arguments and
of the right results that returns those results which the mistake makes different. For gradients
through the simple recurrent network, `nprnn.diagnosis` knows the mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..diagnosis import diagnose
from ..recurrent import RNN
from .catalogue import Inputs
from .solutions.gru_step import gru_step_forward
from .solutions.rnn import rnn_backward, rnn_forward
from .solutions.rnn_step import rnn_step_forward

_RTOL = 1e-6
Explanation = tuple[str, str]


class Mistake(NamedTuple):
    """A way to be wrong."""

    name: str
    mathematics: str
    leads_to: Callable[[Inputs, Inputs], Inputs]


def explanations(function: str, inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """Return the mistakes that lead to `got` where `right` is right."""
    found = [
        (mistake.name, mistake.mathematics)
        for mistake in MISTAKES.get(function, ())
        if _same(got, {**right, **mistake.leads_to(inputs, right)})
    ]
    if function in _DIAGNOSED:
        found += _DIAGNOSED[function](inputs, got, right)
    return list(dict.fromkeys(found))


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


def _with(forward: Callable[..., Any], result: str, **changes: Callable[[Any], Any]) -> Any:
    """Return what leads to the states that come of changed arguments."""

    def leads_to(inputs: Inputs, right: Inputs) -> Inputs:
        changed = {**inputs, **{name: change(inputs[name]) for name, change in changes.items()}}
        names = forward.__code__.co_varnames[: forward.__code__.co_argcount]
        return {result: forward(*(changed[name] for name in names))[0]}

    return leads_to


def _zero(array: Any) -> Any:
    return np.zeros_like(array)


def _transposed(array: Any) -> Any:
    return array.T


def _negative(array: Any) -> Any:
    return -array


def _sigmoid(a: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * a))


_STEP = "a = W_ih x + W_hh h_prev + b, h' = tanh(a)"


def _step(f: Callable[[Any], Any]) -> Any:
    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        return {"h_next": f(i["x"] @ i["W_ih"].T + i["h_prev"] @ i["W_hh"].T + i["b"])}

    return leads_to


def _change_step(**changes: Callable[[Any], Any]) -> Any:
    return _with(rnn_step_forward, "h_next", **changes)


_STEP_FORWARD = (
    Mistake("tanh is missing", _STEP, _step(lambda a: a)),
    Mistake("a sigmoid stands in place of tanh", _STEP, _step(_sigmoid)),
    Mistake("the bias is missing", _STEP, _change_step(b=_zero)),
    Mistake("the bias is subtracted", _STEP, _change_step(b=_negative)),
    Mistake("the state before is left out", _STEP, _change_step(h_prev=_zero)),
    Mistake("the input is left out", _STEP, _change_step(x=_zero)),
    Mistake(
        "W_hh is transposed",
        "W_hh h for a column is h W_hhᵀ for rows",
        _change_step(W_hh=_transposed),
    ),
)


_LOOP = "a_t = W_ih x_t + W_hh h_(t-1) + b, h_t = tanh(a_t)"
_STATES = "h holds h_1 … h_T"


def _loop(f: Callable[[Any], Any]) -> Any:
    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        states = [i["h_0"]]
        for x_t in i["x"]:
            states.append(f(x_t @ i["W_ih"].T + states[-1] @ i["W_hh"].T + i["b"]))
        return {"h": np.stack(states[1:])}

    return leads_to


def _not_carried(i: Inputs, right: Inputs) -> Inputs:
    return {"h": np.tanh(i["x"] @ i["W_ih"].T + i["h_0"] @ i["W_hh"].T + i["b"])}


def _with_first(i: Inputs, right: Inputs) -> Inputs:
    return {"h": np.concatenate([i["h_0"][None], right["h"]])}


def _change_loop(**changes: Callable[[Any], Any]) -> Any:
    return _with(rnn_forward, "h", **changes)


_FORWARD = (
    Mistake("tanh is missing", _LOOP, _loop(lambda a: a)),
    Mistake("a sigmoid stands in place of tanh", _LOOP, _loop(_sigmoid)),
    Mistake("the bias is missing", _LOOP, _change_loop(b=_zero)),
    Mistake("the bias is subtracted", _LOOP, _change_loop(b=_negative)),
    Mistake("h_0 is left out: the loop starts from zeros", _LOOP, _change_loop(h_0=_zero)),
    Mistake("the state before is left out", _LOOP, _change_loop(W_hh=_zero)),
    Mistake("every step starts from h_0, not from the state before", _LOOP, _not_carried),
    Mistake("the input is left out", _LOOP, _change_loop(x=_zero)),
    Mistake(
        "W_hh is transposed",
        "W_hh h for a column is h W_hhᵀ for rows",
        _change_loop(W_hh=_transposed),
    ),
    Mistake("h_0 stands among the states", _STATES, _with_first),
    Mistake(
        "the states before each step are returned, not those after it",
        _STATES,
        lambda i, right: {"h": _with_first(i, right)["h"][:-1]},
    ),
    Mistake("only the last state is returned", _STATES, lambda i, right: {"h": right["h"][-1]}),
    Mistake("the states are in reverse order", _STATES, lambda i, right: {"h": right["h"][::-1]}),
    Mistake(
        "the batch comes before time",
        "h has the shape (T, B, H)",
        lambda i, right: {"h": right["h"].swapaxes(0, 1)},
    ),
)


_BACK = "d_h_t = d_output_t + W_hhᵀ d_a_(t+1), from t = T to t = 1"


def _backward(
    i: Inputs, *, reverse: bool = True, keep: float = 0.0, through: bool = True
) -> Inputs:
    """Compute the gradients with the loop changed; `keep` is how much stays of what was carried."""
    h, _ = rnn_forward(i["x"], i["h_0"], i["W_ih"], i["W_hh"], i["b"])
    d_a, carried = np.empty_like(h), np.zeros_like(i["h_0"])
    steps = range(len(h))
    for t in reversed(steps) if reverse else steps:
        d_a[t] = (i["d_h"][t] + carried) * (1 - h[t] ** 2)
        carried = keep * carried + (d_a[t] @ i["W_hh"] if through else d_a[t])
    before = np.concatenate([i["h_0"][None], h[:-1]])
    return {
        "d_x": d_a @ i["W_ih"],
        "d_h_0": carried,
        "d_W_ih": np.einsum("tbh,tbi->hi", d_a, i["x"]),
        "d_W_hh": np.einsum("tbh,tbk->hk", d_a, before),
        "d_b": d_a.sum(axis=(0, 1)),
    }


_BACKWARD = (
    Mistake(
        "the loop runs from the first step to the last",
        _BACK,
        lambda i, right: _backward(i, reverse=False),
    ),
    Mistake(
        "what is carried back is added up over the steps, where each replaces the last",
        _BACK,
        lambda i, right: _backward(i, keep=1.0),
    ),
    Mistake(
        "the product with W_hh is missing on the way back",
        _BACK,
        lambda i, right: _backward(i, through=False),
    ),
)


_PLACE = "vectors[t, b, k] = 1 if indices[t, b] = k, else 0"
_ONE_HOT = (
    Mistake(
        "time and batch are exchanged",
        _PLACE,
        lambda i, right: {"vectors": right["vectors"].swapaxes(0, 1)},
    ),
    Mistake(
        "the classes are counted from 1",
        _PLACE,
        lambda i, right: {"vectors": np.eye(i["num_classes"] + 1)[:, 1:][i["indices"]]},
    ),
    Mistake(
        "the index itself stands where 1 should",
        _PLACE,
        lambda i, right: {"vectors": right["vectors"] * i["indices"][..., None]},
    ),
)

_MEAN = "loss = Σ_t Σ_b -ln p_target / (T B), and d_o = (p - y) / (T B)"
_D_O = "d_o = (p - y) / (T B), y the one-hot target"
_OVERFLOW = "ln p_k = o_k - m - ln Σ_j exp(o_j - m), m = max o"


def _times(loss: Callable[[int, int], float], d_logits: Callable[[int, int], float]) -> Any:
    """Return what leads to results with other factors."""

    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        T, B = i["targets"].shape
        return {
            "loss": right["loss"] * loss(T, B),
            "d_logits": right["d_logits"] * d_logits(T, B),
        }

    return leads_to


def _one(T: int, B: int) -> float:
    return 1.0


def _no_target(i: Inputs, right: Inputs) -> Inputs:
    y = np.eye(i["logits"].shape[-1])[i["targets"]]
    return {"d_logits": right["d_logits"] + y / i["targets"].size}


def _no_target_nor_mean(i: Inputs, right: Inputs) -> Inputs:
    return {"d_logits": _no_target(i, right)["d_logits"] * i["targets"].size}


def _factors() -> Iterator[Mistake]:
    over: list[tuple[str, Callable[[int, int], float]]] = [
        ("time and batch", lambda T, B: T * B),
        ("time", lambda T, B: T),
        ("the batch", lambda T, B: B),
    ]
    for name, factor in over:
        yield Mistake(f"a sum over {name}, where there is a mean", _MEAN, _times(factor, factor))
        yield Mistake(
            f"the loss is a sum over {name}, and its gradient that of the mean",
            _MEAN,
            _times(factor, _one),
        )
        yield Mistake(
            f"the gradient is that of a sum over {name}, and the loss a mean",
            _MEAN,
            _times(_one, factor),
        )


_CROSS_ENTROPY = (
    *_factors(),
    Mistake("the target is not subtracted in the gradient", _D_O, _no_target),
    Mistake(
        "the target is not subtracted in the gradient, nor is it divided by T B",
        _D_O,
        _no_target_nor_mean,
    ),
    Mistake("the sign of the gradient is wrong", _D_O, _times(_one, lambda T, B: -1)),
    Mistake("the sign of the loss is wrong", _MEAN, _times(lambda T, B: -1, _one)),
    Mistake(
        "the loss is in bits, not in nats: log2 stands in place of ln",
        _MEAN,
        _times(lambda T, B: 1 / np.log(2), _one),
    ),
)


def _too_large(inputs: Inputs, got: Inputs, right: Inputs) -> list[Explanation]:
    """Explain what is not finite for large logits, by what of it is."""
    bad = {name for name, array in got.items() if not np.isfinite(array).all()}
    if np.abs(inputs["logits"]).max() < 700 or not bad:
        return []
    if bad == {"loss"} and _same({"d_logits": got["d_logits"]}, right):
        return [("the logarithm is taken of a probability that has become 0", _OVERFLOW)]
    return [("exp overflows: the largest logit is not subtracted before it", _OVERFLOW)]


_NORM = "norm = √(Σ g²) over all entries of all arrays"
_CLIP = "g ← g · min(1, max_norm / norm), one norm for all arrays"


def _arrays(right: Inputs, change: Callable[[Any], Any]) -> Inputs:
    """Change the arrays of a dict among the results."""
    return {name: change(array) for name, array in right.items() if "[" in name}


def _from_grads(change: Callable[[Any, float, float], Any]) -> Any:
    """Return what leads to changed gradients: of an array, the norm of all, and the limit."""

    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        norm, limit = float(right["norm"]), i["max_norm"]
        return {f'grads["{k}"]': change(g, norm, limit) for k, g in i["grads"].items()}

    return leads_to


def _by_itself(g: Any, norm: float, limit: float) -> Any:
    return g * min(1.0, limit / np.linalg.norm(g))


def _changed_norm(change: Callable[[float, float, Any], float], *, applied: bool) -> Any:
    """Return what leads to another norm, which the gradients may be clipped by as well."""

    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        norm = change(float(right["norm"]), i["max_norm"], list(i["grads"].values()))
        clipped = _from_grads(lambda g, _, limit: g * min(1.0, limit / norm))(i, right)
        return {"norm": norm, **(clipped if applied else {})}

    return leads_to


_CLIPPING = (
    Mistake("each array is clipped by its own norm", _CLIP, _from_grads(_by_itself)),
    Mistake(
        "gradients shorter than max_norm are scaled too",
        _CLIP,
        _from_grads(lambda g, norm, limit: g * limit / norm),
    ),
    Mistake("the gradients are not clipped", _CLIP, _from_grads(lambda g, norm, limit: g)),
    Mistake(
        "the gradients are divided by the norm, not multiplied by max_norm / norm",
        _CLIP,
        _from_grads(lambda g, norm, limit: g / norm if norm > limit else g),
    ),
    Mistake(
        "min and max are exchanged: short gradients are scaled, and long ones are not",
        _CLIP,
        _from_grads(lambda g, norm, limit: g * max(1.0, limit / norm)),
    ),
    Mistake(
        "the fraction stands upside down",
        _CLIP,
        _from_grads(lambda g, norm, limit: g * min(1.0, norm / limit)),
    ),
    Mistake(
        "entries are clipped one by one",
        _CLIP,
        _from_grads(lambda g, norm, limit: np.clip(g, -limit, limit)),
    ),
    Mistake(
        "the norm is that after clipping",
        "the norm returned is that before clipping",
        _changed_norm(lambda norm, limit, _: min(norm, limit), applied=False),
    ),
    *(
        Mistake(name, _NORM, _changed_norm(change, applied=applied))
        for applied in (True, False)
        for name, change in (
            ("the square root is missing", lambda norm, limit, _: norm**2),
            (
                "the norms of the arrays are added, where their squares should be",
                lambda norm, limit, arrays: sum(float(np.linalg.norm(g)) for g in arrays),
            ),
            (
                "the norm is the largest entry",
                lambda norm, limit, arrays: max(float(np.abs(g).max()) for g in arrays),
            ),
            (
                "the mean of the squares stands in place of the sum",
                lambda norm, limit, arrays: norm / np.sqrt(sum(g.size for g in arrays)),
            ),
        )
    ),
)

_DESCENT = "W ← W - lr · dL/dW"


def _stepped(change: Callable[[Any, Any, float], Any]) -> Any:
    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        return {f'params["{k}"]': change(W, i["grads"][k], i["lr"]) for k, W in i["params"].items()}

    return leads_to


_SGD = (
    Mistake("the sign is wrong: it climbs", _DESCENT, _stepped(lambda W, g, lr: W + lr * g)),
    Mistake("the learning rate is missing", _DESCENT, _stepped(lambda W, g, lr: W - g)),
    Mistake("the parameters are not changed", _DESCENT, _stepped(lambda W, g, lr: W)),
    Mistake(
        "the step is returned, and not the parameters after it",
        _DESCENT,
        _stepped(lambda W, g, lr: -lr * g),
    ),
    Mistake(
        "the step is returned, and not the parameters after it",
        _DESCENT,
        _stepped(lambda W, g, lr: lr * g),
    ),
    Mistake("divided by the learning rate", _DESCENT, _stepped(lambda W, g, lr: W - g / lr)),
)


_CUT = "within a window, the state that came in is a constant"
_ON = "h_0 of a window is the last state of the window before"
_ALL = "d_W is the sum over all windows, the last one may be shorter"


def _windows(inputs: Inputs, first: Callable[[Any], Any] | None = None) -> tuple[list[Any], Any]:
    """Return the gradients of each window, and the last state; `first` replaces the state."""
    i, state, gradients = inputs, inputs["h_0"], []
    for start in range(0, len(i["x"]), i["num_steps"]):
        window = slice(start, min(start + i["num_steps"], len(i["x"])))
        state = first(i["h_0"]) if first and start else state
        h, cache = rnn_forward(i["x"][window], state, i["W_ih"], i["W_hh"], i["b"])
        gradients.append(rnn_backward(i["d_h"][window], cache)[2:])
        state = h[-1]
    return gradients, state


def _summed(gradients: list[Any], factor: float = 1.0) -> Inputs:
    totals = (factor * sum(parts) for parts in zip(*gradients, strict=True))
    return dict(zip(("d_W_ih", "d_W_hh", "d_b"), totals, strict=True))


def _not_cut(i: Inputs, right: Inputs) -> Inputs:
    return _summed(_windows({**i, "num_steps": len(i["x"])})[0])


def _restarted(first: Callable[[Any], Any]) -> Any:
    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        gradients, state = _windows(i, first)
        return {**_summed(gradients), "h_T": state}

    return leads_to


def _shortened(length: Callable[[int, int], int]) -> Any:
    """Return what leads to the results of fewer steps: of T and the length of a window."""

    def leads_to(i: Inputs, right: Inputs) -> Inputs:
        gradients, state = _windows({**i, "x": i["x"][: length(len(i["x"]), i["num_steps"])]})
        nothing = [[np.zeros_like(right[name]) for name in ("d_W_ih", "d_W_hh", "d_b")]]
        return {**_summed(gradients or nothing), "h_T": state}

    return leads_to


_TRUNCATED = (
    Mistake("the gradient is not cut between windows", _CUT, _not_cut),
    Mistake(
        "the state is not carried on: each window starts from h_0", _ON, _restarted(lambda h: h)
    ),
    Mistake(
        "the state is not carried on: each window starts from h_0",
        _ON,
        lambda i, right: {**_restarted(lambda h: h)(i, right), "h_T": i["h_0"]},
    ),
    Mistake("the state is not carried on: each window starts from zeros", _ON, _restarted(_zero)),
    Mistake(
        "the last window, which is shorter, is left out", _ALL, _shortened(lambda T, K: T // K * K)
    ),
    Mistake("only the first window is done", _ALL, _shortened(lambda T, K: K)),
    Mistake(
        "the gradients are those of the last window, and not added up",
        _ALL,
        lambda i, right: _summed(_windows(i)[0][-1:]),
    ),
    Mistake(
        "the gradients are those of the first window, and not added up",
        _ALL,
        lambda i, right: _summed(_windows(i)[0][:1]),
    ),
    Mistake(
        "the gradients are a mean over the windows, where there is a sum",
        _ALL,
        lambda i, right: _summed(_windows(i)[0], 1 / len(_windows(i)[0])),
    ),
)


_GRU = "n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)), h' = (1 - z) ∘ n + z ∘ h"
_ORDER = "the gates stand in the order r, z, n"


def _gru(
    i: Inputs,
    *,
    reset: str = "after",
    exchanged: bool = False,
    candidate: Callable[[Any], Any] = np.tanh,
    gate: Callable[[Any], Any] = _sigmoid,
) -> Inputs:
    """Compute a step with one of its equations changed."""
    h = i["h_prev"]
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (
        np.split(side, 3, axis=1)
        for side in (i["x"] @ i["W_ih"].T + i["b_ih"], h @ i["W_hh"].T + i["b_hh"])
    )
    r, z = gate(x_r + h_r), gate(x_z + h_z)
    W_hn, b_hn = np.split(i["W_hh"], 3)[2], np.split(i["b_hh"], 3)[2]
    from_h = {
        "after": r * h_n,
        "before": (r * h) @ W_hn.T + b_hn,
        "bias outside": r * (h @ W_hn.T) + b_hn,
        "never": h_n,
    }[reset]
    n = candidate(x_n + from_h)
    return {"h_next": z * n + (1 - z) * h if exchanged else (1 - z) * n + z * h}


def _reordered(array: Any) -> Any:
    """Put z before r."""
    r, z, n = np.split(array, 3)
    return np.concatenate([z, r, n])


def _change_gru(**changes: Callable[[Any], Any]) -> Any:
    return _with(gru_step_forward, "h_next", **changes)


_GRU_FORWARD = (
    Mistake("z and 1 - z are exchanged", _GRU, lambda i, right: _gru(i, exchanged=True)),
    Mistake(
        "r is applied to h before the product",
        _GRU,
        lambda i, right: _gru(i, reset="before"),
    ),
    Mistake("b_hn stands outside of r ∘ (…)", _GRU, lambda i, right: _gru(i, reset="bias outside")),
    Mistake("r is not applied", _GRU, lambda i, right: _gru(i, reset="never")),
    Mistake("tanh is missing", _GRU, lambda i, right: _gru(i, candidate=lambda a: a)),
    Mistake(
        "a sigmoid stands in place of tanh", _GRU, lambda i, right: _gru(i, candidate=_sigmoid)
    ),
    Mistake("tanh stands in place of the gates' σ", _GRU, lambda i, right: _gru(i, gate=np.tanh)),
    Mistake(
        "r and z are exchanged",
        _ORDER,
        _change_gru(**dict.fromkeys(("W_ih", "W_hh", "b_ih", "b_hh"), _reordered)),
    ),
    Mistake("b_hh is left out", _GRU, _change_gru(b_hh=_zero)),
    Mistake("b_ih is left out", _GRU, _change_gru(b_ih=_zero)),
    Mistake("the state before is left out", _GRU, _change_gru(h_prev=_zero)),
)


def _gru_gradients(i: Inputs, wrong: str) -> Inputs:
    """Compute the gradients with one line wrong."""
    _, (x, h_prev, W_ih, W_hh, r, z, n, h_n) = gru_step_forward(
        *(i[name] for name in ("x", "h_prev", "W_ih", "W_hh", "b_ih", "b_hh"))
    )
    d_h = i["d_h_next"]
    d_n = d_h * (1 - z) * (1 if wrong == "n slope" else 1 - n**2)
    d_z = d_h * (h_prev - n) * (1 if wrong == "z slope" else z * (1 - z))
    d_r = d_n * h_n * (1 if wrong == "r slope" else r * (1 - r))
    if wrong == "z sign":
        d_z = -d_z
    d_x_side = np.concatenate([d_r, d_z, d_n], axis=1)
    d_h_side = np.concatenate([d_r, d_z, d_n if wrong == "reset" else d_n * r], axis=1)
    direct = 0 if wrong == "direct" else d_h * z
    gradients = (
        d_x_side @ W_ih,
        d_h_side @ W_hh + direct,
        d_x_side.T @ x,
        d_h_side.T @ h_prev,
        d_x_side.sum(0),
        d_h_side.sum(0),
    )
    names = ("d_x", "d_h_prev", "d_W_ih", "d_W_hh", "d_b_ih", "d_b_hh")
    sign = -1 if wrong == "sign" else 1
    return {name: sign * d for name, d in zip(names, gradients, strict=True)}


def _wrong_gru(name: str, mathematics: str, wrong: str) -> Mistake:
    return Mistake(name, mathematics, lambda i, right: _gru_gradients(i, wrong))


_GRU_BACKWARD = (
    _wrong_gru("the direct way from h to h' is missing", "d_h = … + z ∘ d_h'", "direct"),
    _wrong_gru(
        "the slope of tanh, 1 - n², is missing", "d_a_n = (1 - n²) ∘ (1 - z) ∘ d_h'", "n slope"
    ),
    _wrong_gru(
        "the slope of z, z (1 - z), is missing", "d_a_z = z (1 - z) ∘ (h - n) ∘ d_h'", "z slope"
    ),
    _wrong_gru(
        "the slope of r, r (1 - r), is missing",
        "d_a_r = r (1 - r) ∘ (W_hn h + b_hn) ∘ d_a_n",
        "r slope",
    ),
    _wrong_gru("the gradient of z has the wrong sign", "dh'/dz = h - n", "z sign"),
    _wrong_gru(
        "r is missing between the candidate and W_hn h + b_hn",
        "d(W_hn h + b_hn) = r ∘ d_a_n",
        "reset",
    ),
    _wrong_gru(
        "the sign is wrong", "d_W = dL/dW; it is the step of descent that subtracts", "sign"
    ),
)


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


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "one_hot": _ONE_HOT,
    "rnn_step_forward": _STEP_FORWARD,
    "rnn_forward": _FORWARD,
    "rnn_backward": _BACKWARD,  # what the package's diagnosis does not know
    "softmax_cross_entropy": _CROSS_ENTROPY,
    "clip_grad_norm": _CLIPPING,
    "sgd_step": _SGD,
    "truncated_bptt": _TRUNCATED,
    "gru_step_forward": _GRU_FORWARD,
    "gru_step_backward": _GRU_BACKWARD,
}

_DIAGNOSED: dict[str, Callable[[Inputs, Inputs, Inputs], list[Explanation]]] = {
    "softmax_cross_entropy": _too_large,
    "rnn_step_backward": _diagnosed_step,
    "rnn_backward": _diagnosed,
    "truncated_bptt": _diagnosed_window,
}
