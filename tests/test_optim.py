import itertools
import math
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_optim import PATH, STEPS
from record_torch import load
from test_torch_reference import assert_same, in_precision

import nprnn
from nprnn import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialMovingAverage,
    GradientAccumulator,
    LanguageModel,
    NonFiniteError,
    RMSprop,
    clip_grad_norm,
    clip_grad_value,
    optim,
    weights,
)
from nprnn.testing import seeds

REFERENCE = load(PATH)


def random_grads(rng, dtype=np.float64, scale=1.0):
    shapes = {"w": (3, 4), "b": (5,), "s": ()}
    return {name: np.array(rng.normal(0, scale, size), dtype) for name, size in shapes.items()}


def exact_norm(grads):
    return math.sqrt(math.fsum(float(x) ** 2 for g in grads.values() for x in np.ravel(g)))


@given(seeds, st.floats(0.01, 100), st.sampled_from([np.float32, np.float64]))
def test_clipping_by_norm(seed, max_norm, dtype):
    grads = random_grads(np.random.default_rng(seed), dtype)
    before = {name: g.copy() for name, g in grads.items()}
    norm = clip_grad_norm(grads, max_norm)
    assert norm == pytest.approx(exact_norm(before), rel=1e-6 if dtype == np.float32 else 1e-14)
    factor = min(1, max_norm / (norm + 1e-6))
    for name, g in grads.items():
        assert g.dtype == dtype
        np.testing.assert_allclose(g, before[name] * factor, rtol=1e-6)
        if factor == 1:
            np.testing.assert_array_equal(g, before[name])
    assert exact_norm(grads) <= max_norm * (1 + 1e-6)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-200, np.float64), (1e200, np.float64), (1e30, np.float32), (1e-38, np.float32)],
)
def test_the_norm_neither_overflows_nor_underflows(scale, dtype):
    entries = (np.arange(1, 7) * scale).astype(dtype)
    expected = math.sqrt(math.fsum((float(x) / scale) ** 2 for x in entries)) * scale
    assert clip_grad_norm({"w": entries}, math.inf) == pytest.approx(expected, rel=1e-6)


def test_the_norm_of_very_unequal_gradients():
    grads = {"large": np.full(3, 1e200), "small": np.full(3, 1e-200)}
    assert clip_grad_norm(grads, math.inf) == pytest.approx(math.sqrt(3) * 1e200)
    assert clip_grad_norm({}, 1.0) == 0
    assert clip_grad_norm({"w": np.zeros(3)}, 1.0) == 0
    assert clip_grad_norm({"w": np.zeros((0, 3))}, 1.0) == 0


@pytest.mark.parametrize("exponent", range(-200, 201, 25))
@pytest.mark.parametrize("spread", [0, 3, 200])
def test_the_norm_against_fifty_digits(exponent, spread):
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(abs(exponent))
    powers = np.clip(exponent + rng.uniform(-spread, spread, 30), -200, 200)
    grads = {"w": (rng.choice([-1, 1], 30) * 10.0**powers).reshape(5, 6), "b": np.zeros(3)}
    with mpmath.workdps(50):
        exact = mpmath.sqrt(mpmath.fsum(mpmath.mpf(float(g)) ** 2 for g in grads["w"].flat))
        assert abs(clip_grad_norm(grads, math.inf) / exact - 1) < 1e-14
        before = grads["w"].copy()
        max_norm = float(exact) / 8
        clip_grad_norm(grads, max_norm)
        factor = mpmath.mpf(max_norm) / (exact + mpmath.mpf("1e-6"))
        for after, entry in zip(grads["w"].flat, before.flat, strict=True):
            wanted = float(mpmath.mpf(float(entry)) * min(1, factor))
            assert after == pytest.approx(wanted, rel=1e-13, abs=1e-323)


@pytest.mark.parametrize("max_norm", [0, -0.0, -1, math.nan, -math.inf])
@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_a_limit_that_is_none_is_refused_and_nothing_changes(clip, max_norm):
    grads = {"w": np.array([3.0, 4.0])}
    with pytest.raises(ValueError, match=r"(max_norm|clip_value) must be a number in \(0, inf\]"):
        clip(grads, max_norm)
    assert grads["w"].tolist() == [3.0, 4.0]
    clip(grads, math.inf)
    assert grads["w"].tolist() == [3.0, 4.0]


def test_a_norm_above_the_largest_float_is_refused():
    grads = {"w": np.full(4, 1.7e308)}
    with pytest.raises(NonFiniteError, match="norm is above the largest float"):
        clip_grad_norm(grads, 1.0)
    assert grads["w"].tolist() == [1.7e308] * 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_not_finite_is_refused_and_nothing_changes(bad):
    grads = random_grads(np.random.default_rng(0))
    grads = {"first": np.ones(3), **grads, "last": np.ones(3)}  # a NaN in front, or behind, hides
    grads["w"][1, 2] = bad
    before = {name: g.copy() for name, g in grads.items()}
    with pytest.raises(NonFiniteError, match=r"grads\['w'\] has 1 of 12 .* first at \(1, 2\)"):
        clip_grad_norm(grads, 1.0)
    for name, g in grads.items():
        np.testing.assert_array_equal(g, before[name])


@given(seeds, st.floats(0.01, 3))
def test_clipping_by_value(seed, clip_value):
    grads = random_grads(np.random.default_rng(seed))
    before = {name: g.copy() for name, g in grads.items()}
    clip_grad_value(grads, clip_value)
    for name, g in grads.items():
        np.testing.assert_array_equal(g, np.clip(before[name], -clip_value, clip_value))


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_clipping_works_on_any_layout_and_refuses_what_it_cannot_change(clip):
    base = np.arange(12.0).reshape(3, 4)
    grads = {"f": np.asfortranarray(base), "view": np.repeat(base, 2, 1)[:, ::2]}
    clip(grads, 1.0)
    np.testing.assert_array_equal(grads["f"], grads["view"])
    assert np.abs(grads["f"]).max() <= 1
    frozen = base.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        clip({"w": frozen}, 1.0)
    with pytest.raises(TypeError, match="int64"):
        clip({"w": np.ones(3, int)}, 1.0)
    with pytest.raises(TypeError, match="list"):
        clip({"w": [1.0]}, 1.0)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), "1", None, True, 1j])
def test_limits_that_make_no_sense_are_refused(limit):
    error = ValueError if isinstance(limit, float | int) and limit is not True else TypeError
    with pytest.raises(error, match="max_norm"):
        clip_grad_norm({"w": np.ones(2)}, limit)
    with pytest.raises(error, match="clip_value"):
        clip_grad_value({"w": np.ones(2)}, limit)


SETTINGS = [
    (momentum, dampening, nesterov, decay)
    for momentum, dampening, nesterov, decay in itertools.product(
        [0.0, 0.9], [0.0, 0.3], [False, True], [0.0, 0.01]
    )
    if not (nesterov and (momentum == 0 or dampening != 0))
]


@pytest.mark.parametrize(("momentum", "dampening", "nesterov", "decay"), SETTINGS)
def test_sgd_is_its_definition_entry_by_entry(momentum, dampening, nesterov, decay):
    """20 steps, each entry updated with Python floats from the equations in PyTorch's manual."""
    rng = np.random.default_rng(0)
    params = random_grads(rng)
    expected = {name: list(np.ravel(value)) for name, value in params.items()}
    buffers = {name: [None] * len(value) for name, value in expected.items()}
    optimizer = SGD(params, 0.1, momentum, dampening, nesterov, decay)
    for step in range(20):
        grads = random_grads(rng)
        kept = {name: g.copy() for name, g in grads.items()}
        optimizer.lr = lr = 0.1 / (1 + step)
        optimizer.step(grads)
        for name, values in expected.items():
            np.testing.assert_array_equal(grads[name], kept[name])
            for i, g in enumerate(np.ravel(grads[name]).tolist()):
                d = g + decay * values[i]
                if momentum:
                    old = buffers[name][i]
                    new = d if old is None else momentum * old + (1 - dampening) * d
                    buffers[name][i] = new
                    d = d + momentum * new if nesterov else new
                values[i] -= lr * d
    for name, values in expected.items():
        np.testing.assert_allclose(np.ravel(params[name]), values, rtol=1e-13)


def follow_adagrad(p, gs, lrs, lr_decay, weight_decay, initial, eps):
    """The equations of the docstrings, for one entry, in Python floats; so are those below."""
    v = initial
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True), 1):
        g = g + weight_decay * p
        v = v + g**2
        p = p - lr / (1 + (t - 1) * lr_decay) * g / (math.sqrt(v) + eps)
    return p


def follow_rmsprop(p, gs, lrs, alpha, eps, weight_decay, momentum, centered):
    v = a = b = 0.0
    for g, lr in zip(gs, lrs, strict=True):
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        a = alpha * a + (1 - alpha) * g
        d = g / (math.sqrt(v - a**2 if centered else v) + eps)
        b = momentum * b + d
        p = p - lr * b
    return p


def follow_adam(p, gs, lrs, betas, eps, weight_decay, amsgrad, decoupled=False):
    m = v = w = 0.0
    for t, (g, lr) in enumerate(zip(gs, lrs, strict=True), 1):
        if decoupled:
            p = (1 - lr * weight_decay) * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = max(w, v) if amsgrad else v
        p = p - lr * m / (1 - betas[0] ** t) / (math.sqrt(w / (1 - betas[1] ** t)) + eps)
    return p


def follow_adamw(*args):
    return follow_adam(*args, decoupled=True)


@pytest.mark.parametrize(
    ("optimizer", "follow", "settings"),
    [
        *(
            (Adagrad, follow_adagrad, s)
            for s in itertools.product([0.0, 0.1], [0.0, 0.2], [0.0, 0.5], [1e-10, 0.1])
        ),
        *(
            (RMSprop, follow_rmsprop, s)
            for s in itertools.product(
                [0.99, 0.6], [1e-8, 0.1], [0.0, 0.2], [0.0, 0.9], [False, True]
            )
        ),
        *(
            (which, follow, s)
            for which, follow in [(Adam, follow_adam), (AdamW, follow_adamw)]
            for s in itertools.product(
                [(0.9, 0.999), (0.6, 0.8)], [1e-8, 0.1], [0.0, 0.2], [False, True]
            )
        ),
    ],
)
def test_the_equations_entry_by_entry(optimizer, follow, settings):
    rng = np.random.default_rng(1)
    params = random_grads(rng)
    start = {name: value.copy() for name, value in params.items()}
    lrs = rng.uniform(0.01, 0.1, 20).tolist()
    batches = [random_grads(rng) for _ in lrs]
    instance = optimizer(params, 1.0, *settings)
    for lr, grads in zip(lrs, batches, strict=True):
        instance.lr = lr
        instance.step(grads)
    assert instance.step_count == 20
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            gs = [float(grads[name][index]) for grads in batches]
            expected = follow(float(start[name][index]), gs, lrs, *settings)
            assert value[index] == pytest.approx(expected, rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("run", REFERENCE["runs"], ids=lambda run: run["name"])
def test_fifty_steps_of_pytorch(run):
    """Gradients that are 0 for some steps, for all, or here and there are among them."""
    params, state = follow_run(run, "float64")
    assert_same(params, in_precision(run["params"], "float64"), 1e-12)
    assert sorted(state) == sorted(run["state"])
    assert_same(state, {key: run["state"][key] for key in state}, 1e-12)


@pytest.mark.parametrize("run", REFERENCE["runs"], ids=lambda run: run["name"])
def test_single_precision_stays_single_and_follows_pytorch(run):
    params, state = follow_run(run, "float32")
    assert {value.dtype.name for value in params.values()} == {"float32"}
    assert {value.dtype.name for key, value in state.items() if key != "step"} <= {"float32"}
    # Centered, a small difference of two running means is divided by: rounding grows there.
    rtol = 1e-3 if run["options"].get("centered") else 2e-5
    assert_same(params, run["params"], rtol)


def follow_run(run, precision):
    params = {k: np.array(v, precision) for k, v in REFERENCE["start"].items()}
    optimizer = getattr(nprnn, run["name"])(params, **{"lr": 0.01, **defaults(run)})
    for step in range(STEPS):
        if run["lrs"]:
            optimizer.lr = run["lrs"][step]
        optimizer.step({k: np.array(v[step], precision) for k, v in REFERENCE["grads"].items()})
    return params, optimizer.state_dict()


def defaults(run):
    """The options of a run, with the learning rate that the class itself would choose."""
    own = {} if run["name"] == "SGD" else {"lr": getattr(nprnn, run["name"])({}).lr}
    return own | run["options"]


OPTIMIZERS = {
    "SGD": lambda params: SGD(params, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "plain": lambda params: SGD(params, 0.1),
    "Adagrad": lambda params: Adagrad(params, 0.1, weight_decay=0.1, lr_decay=0.1),
    "RMSprop": lambda params: RMSprop(params, 0.003, momentum=0.9, centered=True, weight_decay=0.1),
    "Adam": lambda params: Adam(params, 0.1, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda params: AdamW(params, 0.1),
}
EACH = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_made_in_place_and_leave_gradients_alone(make, dtype):
    rng = np.random.default_rng(0)
    params = random_grads(rng, dtype)
    start, arrays = {n: p.copy() for n, p in params.items()}, dict(params)
    optimizer = make(params)
    for step in range(3):
        grads = random_grads(rng, dtype)
        kept = {name: g.copy() for name, g in grads.items()}
        optimizer.lr = np.float64(0.1 / (1 + step))
        optimizer.step(grads)
        assert_equal(grads, kept)
    for name, value in params.items():
        assert value is arrays[name]
        assert value.dtype == dtype
        assert (value != start[name]).all()
    assert all(b.dtype == dtype for state in optimizer.state.values() for b in state.values())


def assert_equal(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@EACH
def test_neither_blocks_nor_layout_change_a_bit(make, monkeypatch):
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(5, 8)), "b": rng.normal(size=3), "none": np.zeros((0, 2))}
    batches = [{n: rng.normal(size=p.shape) for n, p in start.items()} for _ in range(4)]

    def run(convert):
        params = {name: convert(value) for name, value in start.items()}
        optimizer = make(params)
        for grads in batches:
            optimizer.step({name: convert(value) for name, value in grads.items()})
        return params | optimizer.state_dict()

    whole = run(np.array)
    assert_equal(run(lambda a: np.array(a, order="F")), whole)
    assert_equal(run(lambda a: np.repeat(a, 2, 0)[::2]), whole)
    for size in (1, 3, 7, 39):
        monkeypatch.setattr(optim, "BLOCK", size)
        assert_equal(run(np.array), whole)
        assert_equal(run(lambda a: np.array(a, order="F")), whole)


@EACH
def test_a_continued_run_is_the_uninterrupted_one(make, tmp_path):
    """Through a file: the state is arrays, and nothing else."""
    rng = np.random.default_rng(0)
    params = random_grads(rng)
    batches = [random_grads(rng) for _ in range(10)]
    optimizer = make(params)
    for grads in batches[:4]:
        optimizer.step(grads)
    saved = {f"model.{name}": value for name, value in params.items()}
    state = optimizer.state_dict()
    saved |= {f"optimizer.{key}": value for key, value in state.items()}
    weights.save(tmp_path / "run.safetensors", saved)
    for grads in batches[4:]:
        optimizer.step(grads)
    assert state["step"] == 4
    assert state["step"].dtype == np.int64
    assert state["step"].shape == ()

    loaded, _ = weights.load(tmp_path / "run.safetensors")
    again = {name: loaded[f"model.{name}"] for name in params}
    other = make(again)
    arrays = {k.removeprefix("optimizer."): v for k, v in loaded.items() if k.startswith("opt")}
    other.load_state_dict(arrays)
    assert other.step_count == 4
    for grads in batches[4:]:
        other.step(grads)
    assert_equal(again, params)
    assert_equal(other.state_dict(), optimizer.state_dict())
    assert_equal({key: arrays[key] for key in state}, state)  # loading copied them


def test_a_state_that_does_not_fit_is_refused_with_every_fault_named():
    optimizer = Adam({"w": np.ones((2, 3)), "b": np.ones(2), "c": np.ones(1)})
    optimizer.step({"w": np.ones((2, 3)), "b": np.ones(2), "c": np.ones(1)})
    before = optimizer.state_dict()
    bad = optimizer.state_dict() | {
        "exp_avg.w": np.zeros((3, 2)),
        "exp_avg.c": np.zeros(1, np.float32),
        "more": np.zeros(1),
        "step": np.array(-1),
    }
    del bad["exp_avg_sq.b"]
    with pytest.raises(ValueError, match="state does not fit Adam") as caught:
        optimizer.load_state_dict(bad)
    for words in [
        "missing exp_avg_sq.b (2,)",
        "unexpected more",
        "exp_avg.w has shape (3, 2), expected (2, 3)",
        "exp_avg.c has dtype float32, expected float64",
        "step is -1",
    ]:
        assert words in str(caught.value)
    assert_equal(optimizer.state_dict(), before)
    with pytest.raises(ValueError, match="step has dtype float64, expected int64"):
        optimizer.load_state_dict(before | {"step": np.array(2.0)})
    with pytest.raises(ValueError, match=r"step has shape \(1,\), expected \(\)"):
        optimizer.load_state_dict(before | {"step": np.array([2])})
    with pytest.raises(TypeError, match="arrays must be a dict"):
        optimizer.load_state_dict([before])
    with pytest.raises(TypeError, match=r"arrays\['exp_avg.b'\] must be an array"):
        optimizer.load_state_dict(before | {"exp_avg.b": "zeros"})
    assert_equal(optimizer.state_dict(), before)


def test_a_state_dict_is_a_copy():
    optimizer = SGD({"w": np.ones(2)}, 0.1, momentum=0.5)
    before = optimizer.state_dict()
    optimizer.step({"w": np.ones(2)})
    assert_equal(before, {"step": 0, "momentum_buffer.w": np.zeros(2)})
    assert_equal(optimizer.momentum_buffers, {"w": np.ones(2)})
    assert SGD({"w": np.ones(2)}, 0.1).momentum_buffers == {}


@EACH
def test_parameters_that_changed_beneath_the_optimizer(make):
    """Another array of the same shape is followed; anything else is refused before a step."""
    params = {"w": np.ones(3), "b": np.ones(2)}
    optimizer = make(params)
    params["w"] = np.full(3, 2.0)
    optimizer.step({"w": np.ones(3), "b": np.ones(2)})
    assert (params["w"] != 2).all()
    before = params["w"].copy()
    for change in [{"b": np.ones(4)}, {"b": np.ones(2, np.float32)}, {"c": np.ones(2)}]:
        kept = dict(params)
        params.update(change)
        with pytest.raises(ValueError, match="make a new one"):
            optimizer.step({name: np.ones_like(value) for name, value in params.items()})
        params.clear()
        params.update(kept)
    np.testing.assert_array_equal(params["w"], before)
    assert optimizer.step_count == 1


def test_a_constant_gradient_has_no_variance_below_zero():
    """v - a² comes out negative now and then, and its root would be NaN."""
    params = {"w": np.zeros(50)}
    gradient = np.random.default_rng(0).normal(size=50)
    optimizer = RMSprop(params, 1e-12, alpha=0.5, centered=True)
    smallest = 0.0
    for _ in range(200):
        optimizer.step({"w": gradient})
        v, a = (optimizer.state[kind]["w"] for kind in ("square_avg", "grad_avg"))
        smallest = min(smallest, float((v - a * a).min()))
    assert smallest < 0
    assert np.isfinite(params["w"]).all()


@EACH
def test_each_optimizer_lowers_the_loss_of_a_language_model(make):
    text = np.random.default_rng(0).integers(0, 5, 13)
    tokens = np.tile(text, 8)[:, None]
    model = LanguageModel(5, 16, rng=0)
    optimizer = make(model.params)
    losses = []
    for _ in range(20):
        loss, grads, _ = model.loss_and_grads(tokens[:-1], tokens[1:])
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    assert losses[-1] < losses[0] - 0.1


W = {"w": np.ones(3), "b": np.ones(2)}


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SGD(W, -1), ValueError, ["lr", "[0, inf)"]),
        (lambda: SGD(W, float("nan")), ValueError, ["lr", "nan"]),
        (lambda: SGD(W, "fast"), TypeError, ["lr", "'fast'"]),
        (lambda: SGD(W, 1, momentum=-0.1), ValueError, ["momentum"]),
        (lambda: SGD(W, 1, weight_decay=-1), ValueError, ["weight_decay"]),
        (lambda: SGD(W, 1, nesterov=True), ValueError, ["nesterov", "momentum"]),
        (lambda: SGD(W, 1, 0.9, 0.1, True), ValueError, ["nesterov", "dampening"]),
        (lambda: SGD([W["w"]], 1), TypeError, ["params", "dict", "list"]),
        (lambda: SGD(W, 1).step([1.0]), TypeError, ["grads", "dict", "list"]),
        (lambda: clip_grad_norm([W["w"]], 1.0), TypeError, ["grads", "dict", "list"]),
        (lambda: SGD({"w": [1.0]}, 1), TypeError, ["params['w']", "list"]),
        (lambda: SGD({"w": np.ones(2, int)}, 1), TypeError, ["params['w']", "int64"]),
        (lambda: SGD(W, 1).step({"w": W["w"]}), ValueError, ["missing b"]),
        (lambda: SGD(W, 1).step({**W, "c": W["w"]}), ValueError, ["unexpected c"]),
        (lambda: SGD(W, 1).step({**W, "b": np.ones(1)}), ValueError, ["(2,)", "(1,)"]),
        (lambda: SGD(W, 1).step({**W, "b": np.ones(2, "f")}), TypeError, ["float64", "float32"]),
        (lambda: SGD(W, 1).step({**W, "b": [1.0, 2.0]}), TypeError, ["list"]),
        (lambda: setattr(SGD(W, 1), "lr", -1), ValueError, ["lr", "[0, inf)", "-1"]),
        (lambda: setattr(Adam(W), "lr", "1"), TypeError, ["lr", "'1'"]),
        (lambda: Adam(W, betas=0.9), TypeError, ["betas", "pair", "0.9"]),
        (lambda: Adam(W, betas=(0.9, 0.99, 0.999)), TypeError, ["betas", "pair"]),
        (lambda: Adam(W, betas=(0.9, 1.0)), ValueError, ["betas[1]", "[0, 1)"]),
        (lambda: AdamW(W, betas=("a", 0.9)), TypeError, ["betas[0]", "'a'"]),
        (lambda: Adam(W, eps=-1e-8), ValueError, ["eps"]),
        (lambda: Adam(W, amsgrad=1), TypeError, ["amsgrad", "True or False"]),
        (lambda: AdamW(W, weight_decay=-1), ValueError, ["weight_decay"]),
        (lambda: AdamW([1.0]), TypeError, ["params", "dict", "list"]),
        (lambda: RMSprop(W, alpha=1.0), ValueError, ["alpha", "[0, 1)"]),
        (lambda: RMSprop(W, momentum=-1), ValueError, ["momentum"]),
        (lambda: RMSprop(W, centered="yes"), TypeError, ["centered"]),
        (lambda: Adagrad(W, lr_decay=-1), ValueError, ["lr_decay"]),
        (lambda: Adagrad(W, initial_accumulator_value=-1), ValueError, ["initial_acc"]),
        (lambda: Adagrad(W, eps=float("nan")), ValueError, ["eps", "nan"]),
        (lambda: Adam(W).step({**W, "b": np.ones(1)}), ValueError, ["grads['b']", "(2,)", "(1,)"]),
        (lambda: GradientAccumulator().add(W, 0), ValueError, ["weight", "(0, inf)"]),
        (lambda: GradientAccumulator().add([1.0]), TypeError, ["grads", "dict", "list"]),
        (lambda: GradientAccumulator().add({"w": 1}), TypeError, ["grads['w']", "int"]),
        (lambda: GradientAccumulator().mean(), ValueError, ["no gradients were added"]),
        (lambda: ExponentialMovingAverage(W, 1.0), ValueError, ["decay", "[0, 1)"]),
        (lambda: ExponentialMovingAverage(W, 0.9, 1), TypeError, ["bias_correction"]),
        (lambda: ExponentialMovingAverage(3, 0.9), TypeError, ["params", "dict", "int"]),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
    assert all((value == 1).all() for value in W.values())


def test_sgd_refuses_parameters_that_are_read_only():
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        SGD({"w": frozen}, 1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda params: SGD(params, lr=0.5, momentum=0.9),
            "SGD(lr=0.5, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0)",
        ),
        (
            Adagrad,
            "Adagrad(lr=0.01, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, "
            "eps=1e-10)",
        ),
        (
            RMSprop,
            "RMSprop(lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, "
            "centered=False)",
        ),
        (
            Adam,
            "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False)",
        ),
        (
            lambda params: AdamW(params, 0.1, [0.8, 0.9]),
            "AdamW(lr=0.1, betas=(0.8, 0.9), eps=1e-08, weight_decay=0.01, amsgrad=False)",
        ),
        (
            lambda params: ExponentialMovingAverage(params, 0.9),
            "ExponentialMovingAverage(decay=0.9, bias_correction=True)",
        ),
        (lambda params: GradientAccumulator(), "GradientAccumulator(weight=0.0)"),
    ],
)
def test_repr_shows_every_setting(make, expected):
    assert repr(make({"w": np.ones(2)})) == expected


@given(seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_micro_batches_of_unequal_size_equal_one_batch(seed, sizes):
    rng = np.random.default_rng(seed)
    model = LanguageModel(6, 5, dtype=np.float64, rng=rng)
    tokens = rng.integers(0, 6, (8, sum(sizes)))
    _, expected, _ = model.loss_and_grads(tokens[:-1], tokens[1:])
    parts = GradientAccumulator()
    for columns in np.split(tokens, np.cumsum(sizes)[:-1], axis=1):
        _, grads, _ = model.loss_and_grads(columns[:-1], columns[1:])
        kept = {name: g.copy() for name, g in grads.items()}
        parts.add(grads, weight=columns[1:].size)
        assert_equal(grads, kept)
    assert parts.weight == 7 * sum(sizes)
    assert_same(parts.mean(), expected, 1e-13)
    assert_equal(parts.mean(), parts.mean())  # asking changes nothing


def test_an_accumulator_keeps_dtype_and_shape_and_takes_the_same_keys_only():
    parts = GradientAccumulator()
    grads = random_grads(np.random.default_rng(0), np.float32)
    parts.add(grads, 3)
    parts.add(grads, 4)
    for name, mean in parts.mean().items():
        assert isinstance(mean, np.ndarray)
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, grads[name], rtol=1e-6)
    with pytest.raises(ValueError, match="missing s"):
        parts.add({"w": grads["w"], "b": grads["b"]})
    with pytest.raises(ValueError, match=r"grads\['b'\] must have shape \(5,\)"):
        parts.add(grads | {"b": np.ones(1, np.float32)})
    assert parts.weight == 7


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_a_moving_average_is_the_weighted_mean_of_what_was_seen(decay):
    rng = np.random.default_rng(0)
    params = random_grads(rng)
    start = {name: value.copy() for name, value in params.items()}
    corrected = ExponentialMovingAverage(params, decay)
    plain = ExponentialMovingAverage(params, decay, bias_correction=False)
    assert_equal(corrected.params, start)
    seen = []
    for t in range(1, 13):
        for value in params.values():
            value += rng.normal(size=value.shape)
        seen.append({name: value.copy() for name, value in params.items()})
        corrected.update()
        plain.update()
        shares = [decay ** (t - s) for s in range(1, t + 1)]
        for name in params:
            total = sum(share * p[name] for share, p in zip(shares, seen, strict=True))
            np.testing.assert_allclose(corrected.params[name], total / sum(shares), rtol=1e-12)
            expected = decay**t * start[name] + (1 - decay) * total
            np.testing.assert_allclose(plain.params[name], expected, rtol=1e-12)
        if t == 1:
            assert_equal(corrected.params, params)
    assert_equal(params, seen[-1])


def test_a_moving_average_is_a_model_and_can_be_saved_and_continued(tmp_path):
    rng = np.random.default_rng(0)
    model = LanguageModel(5, 6, rng=0)
    tokens = rng.integers(0, 5, (9, 2))
    optimizer = Adam(model.params, 0.02)
    average = ExponentialMovingAverage(model.params, 0.9)
    for step in range(8):
        if step == 4:
            weights.save(tmp_path / "average.safetensors", average.state_dict())
            again = ExponentialMovingAverage(model.params, 0.9)
            again.load_state_dict(weights.load(tmp_path / "average.safetensors")[0])
        _, grads, _ = model.loss_and_grads(tokens[:-1], tokens[1:])
        optimizer.step(grads)
        average.update()
        if step >= 4:
            again.update()
    assert_equal(again.state_dict(), average.state_dict())
    assert sorted(average.state_dict()) == sorted(
        ["step", *(f"average.{name}" for name in model.params)]
    )
    assert {value.dtype.name for value in average.params.values()} == {"float32"}
    mean, _ = model.with_params(average.params).loss(tokens[:-1], tokens[1:])
    last, _ = model.loss(tokens[:-1], tokens[1:])
    assert mean > last  # on the way down the mean lags behind
    model.params["readout.bias"] = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"params\['readout.bias'\] must have shape \(5,\)"):
        average.update()


FROM_ZERO = "[0, inf)"
INTERVALS = [
    (SGD, {"lr": FROM_ZERO, "momentum": FROM_ZERO, "dampening": "(-inf, inf)"}),
    (Adagrad, {"lr_decay": FROM_ZERO, "initial_accumulator_value": FROM_ZERO, "eps": FROM_ZERO}),
    (RMSprop, {"alpha": "[0, 1)", "eps": FROM_ZERO, "momentum": FROM_ZERO}),
    (Adam, {"lr": FROM_ZERO, "eps": FROM_ZERO, "weight_decay": FROM_ZERO}),
    (AdamW, {"lr": FROM_ZERO, "eps": FROM_ZERO, "weight_decay": FROM_ZERO}),
    (ExponentialMovingAverage, {"decay": "[0, 1)"}),
]


@pytest.mark.parametrize(
    ("kind", "name", "interval"),
    [(kind, name, interval) for kind, own in INTERVALS for name, interval in own.items()],
)
def test_the_sentence_names_the_argument_and_its_interval(kind, name, interval):
    given = {"lr": 0.1} if kind is SGD else {"decay": 0.9} if kind not in KINDS else {}
    sentence = f"{name} must be a number in {interval}, got nan"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        kind(W, **{**given, name: math.nan})


KINDS = (SGD, Adagrad, RMSprop, Adam, AdamW)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(SGD, "nesterov"), (RMSprop, "centered"), (Adam, "amsgrad"), (AdamW, "amsgrad")],
)
def test_the_sentence_names_the_flag(kind, name):
    with pytest.raises(TypeError) as caught:
        kind(W, lr=0.1, **{name: "on"})
    assert str(caught.value).startswith(f"{name} must be True or False")


def test_the_sentences_of_accumulator_and_average():
    with pytest.raises(ValueError, match=r"^weight must be a number in \(0, inf\), got 0$"):
        GradientAccumulator().add(W, 0)
    with pytest.raises(ValueError, match=r"^no gradients were added: the mean over nothing is"):
        GradientAccumulator().mean()
    with pytest.raises(TypeError, match=r"^bias_correction must be True or False"):
        ExponentialMovingAverage(W, 0.9, "on")
    parts = GradientAccumulator()
    parts.add(W)
    with pytest.raises(ValueError, match=r"^grads\['b'\] must have shape \(2,\); got \(1,\)"):
        parts.add({**W, "b": np.ones(1)})
    with pytest.raises(ValueError, match=r"^state does not fit Adam\(lr=0.001, .*\): missing"):
        Adam(W).load_state_dict({})


def test_without_a_weight_a_part_counts_once():
    parts = GradientAccumulator()
    parts.add({"w": np.array([1.0])})
    parts.add({"w": np.array([4.0])}, weight=2)
    assert parts.weight == 3
    assert parts.mean()["w"].tolist() == [3.0]


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), Adagrad, Adam])
def test_the_state_before_the_first_step_can_be_loaded(make):
    params = random_grads(np.random.default_rng(0))
    optimizer = make(params)
    start = optimizer.state_dict()
    assert (start["step"].dtype, int(start["step"])) == (np.int64, 0)
    optimizer.step(random_grads(np.random.default_rng(1)))
    optimizer.load_state_dict(start)
    assert optimizer.step_count == 0
    with pytest.raises(ValueError, match="step"):
        optimizer.load_state_dict(start | {"step": np.array(-1)})


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1),
        lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.5),
        lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True),
        Adagrad,
        lambda p: RMSprop(p, momentum=0.9, centered=True),
        lambda p: Adam(p, amsgrad=True),
        AdamW,
    ],
)
def test_a_step_needs_one_block_beside_what_is_kept(make):
    size = 4 * optim.BLOCK
    params, grads = {"w": np.ones(size, np.float32)}, {"w": np.full(size, 0.1, np.float32)}
    optimizer = make(params)
    optimizer.step(grads)
    tracemalloc.start()
    try:
        optimizer.step(grads)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * 4 * optim.BLOCK


def test_a_moving_average_needs_one_block_beside_what_is_kept():
    average = ExponentialMovingAverage({"w": np.ones(4 * optim.BLOCK, np.float32)}, 0.9)
    average.update()
    tracemalloc.start()
    try:
        average.update()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * 4 * optim.BLOCK
