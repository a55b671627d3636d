import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from nprnn import SGD, NonFiniteError, clip_grad_norm, clip_grad_value


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_norm_that_is_not_finite_is_refused_and_nothing_changes(bad):
    grads = random_grads(np.random.default_rng(0))
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


def test_sgd_works_in_place_and_in_single_precision():
    params = {"w": np.ones(3, np.float32)}
    kept = params["w"]
    optimizer = SGD(params, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        optimizer.step({"w": np.ones(3, np.float32)})
    assert params["w"] is kept
    assert kept.dtype == optimizer.momentum_buffers["w"].dtype == np.float32
    assert kept[0] < 1


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
    ],
)
def test_sgd_refuses_and_changes_nothing(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
    assert all((value == 1).all() for value in W.values())


def test_sgd_refuses_parameters_that_are_read_only():
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        SGD({"w": frozen}, 1)


def test_repr_shows_every_setting():
    optimizer = SGD({"w": np.ones(2)}, lr=0.5, momentum=0.9)
    expected = "SGD(lr=0.5, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0)"
    assert repr(optimizer) == expected
