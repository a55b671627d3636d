import re

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import cases, seeds

from nprnn.gradcheck import GradientCheckError, check_gradients

METHODS = ["directional", "central", "complex"]


def smooth(params):
    """A function with a gradient in closed form: Σ sin(w) exp(b) over all pairs, plus c³."""
    return np.sin(params["w"]).sum() * np.exp(params["b"]).sum() + params["c"] ** 3


def smooth_gradients(params):
    return {
        "w": np.cos(params["w"]) * np.exp(params["b"]).sum(),
        "b": np.sin(params["w"]).sum() * np.exp(params["b"]),
        "c": 3 * params["c"] ** 2,
    }


def point(seed=0):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=5), "c": np.array(rng.normal())}


@pytest.mark.parametrize("method", METHODS)
def test_correct_gradients_pass_and_are_reported(method):
    params = point()
    before = {name: value.copy() for name, value in params.items()}
    report = check_gradients(smooth, params, smooth_gradients(params), method=method)
    assert report.method == method
    assert all(row.relative < 1e-8 for row in report.rows)
    calls = {"directional": 2, "central": 4 * 18, "complex": 18}[method]
    assert report.evaluations == 2 + calls  # two at the point itself, to see that they agree
    table = str(report)
    assert f"{method}, {report.evaluations} evaluations" in table
    if method != "directional":
        assert [row.name for row in report.rows] == ["w", "b", "c"]
        assert re.search(r"w +\(3, 4\) ", table)
    for name, value in before.items():
        np.testing.assert_array_equal(params[name], value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["w", "b", "c"])
def test_a_planted_error_is_found_and_named(method, name):
    params = point()
    grads = {key: np.array(value) for key, value in smooth_gradients(params).items()}
    place = np.unravel_index(np.abs(grads[name]).argmax(), grads[name].shape)
    grads[name][place] *= 1.0001
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(smooth, params, grads, method=method)
    message = str(caught.value)
    where = tuple(int(i) for i in place)
    assert f"{name}: 1 of {grads[name].size} entries wrong; worst at {where}" in message
    for other in set(params) - {name}:
        assert f"{other}:" not in message


@settings(max_examples=100, deadline=None)
@given(cases(max_layers=2, nonlinearity="tanh"), seeds)
def test_a_factor_of_1_0001_in_the_largest_entry_is_caught(case, seed):
    grads = {name: value.copy() for name, value in case.gradients().items()}
    names = [name for name, value in grads.items() if np.abs(value).max(initial=0) > 1e-3]
    if not names:
        return
    name = np.random.default_rng(seed).choice(names)
    grads[name].flat[np.abs(grads[name]).argmax()] *= 1.0001
    with pytest.raises(GradientCheckError, match=name):
        check_gradients(case.loss, case.variables(), grads, method="complex")


def test_the_facts_about_a_wrong_gradient():
    params = {"w": np.array([1.0, 2.0, 3.0])}
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(lambda p: (p["w"] ** 2).sum(), params, {"w": -4 * params["w"]})
    assert str(caught.value) == (
        "gradients differ from those of the loss (directional):\n"
        "w: 3 of 3 entries wrong; worst at (2,): analytic -12, numeric 6, error 18, "
        "allowed 1.2e-06;\n"
        "  as vectors: cosine -1, norm ratio analytic/numeric 2"
    )


def test_relative_errors_are_in_units_of_the_largest_entry():
    params = {"w": np.array([1.0, 2.0])}
    grads = {"w": np.array([1.0, 4.0])}  # of Σ w², the first should be 2
    report = check_gradients(lambda p: (p["w"] ** 2).sum(), params, grads, method="complex", atol=2)
    (row,) = report.rows
    assert (row.error, row.scale, row.relative) == (1.0, 4.0, 0.25)
    assert (row.where, row.analytic, row.numeric, row.wrong) == ((0,), 1.0, 2.0, 0)


def test_a_nan_in_a_gradient_is_an_error():
    params = {"w": np.ones(2)}
    for method in METHODS:
        with pytest.raises(GradientCheckError, match="w: 1 of 2"):
            check_gradients(
                lambda p: p["w"].sum(), params, {"w": np.array([1, np.nan])}, method=method
            )


def test_a_loss_that_drops_imaginary_parts_is_told_apart_from_a_wrong_gradient():
    params = {"w": np.array([1.0, -2.0])}
    losses = [lambda p: np.abs(p["w"]).sum(), lambda p: np.linalg.norm(p["w"], 1)]
    for loss in losses:
        with pytest.raises(GradientCheckError, match="drops or flips imaginary parts"):
            check_gradients(loss, params, {"w": np.sign(params["w"])}, method="complex")
        check_gradients(loss, params, {"w": np.sign(params["w"])}, method="central")
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(lambda p: (p["w"] ** 2).sum(), params, {"w": params["w"]}, method="complex")
    assert "imaginary" not in str(caught.value)


def test_zero_gradients_and_empty_parameters_pass():
    params = {"used": np.ones(2), "unused": np.ones(3), "empty": np.ones((0, 2))}
    grads = {"used": np.full(2, 2.0), "unused": np.zeros(3), "empty": np.ones((0, 2))}
    for method in METHODS:
        check_gradients(lambda p: (p["used"] ** 2).sum(), params, grads, method=method)


def test_rounding_on_the_way_to_a_small_loss_is_no_error():
    """ln(1 + exp(-x)) for a large x: its value and its derivative are as small as each other."""
    for x in np.linspace(8, 16, 50):
        params, grads = {"x": np.array(x)}, {"x": np.array(-1 / (1 + np.exp(x)))}
        for method in METHODS:
            check_gradients(lambda p: np.log(1 + np.exp(-p["x"])), params, grads, method=method)


def test_rounding_in_a_large_loss_is_no_error():
    params = {"w": np.full(3, 0.1)}
    for method in METHODS:
        check_gradients(
            lambda p: 1e6 + np.sin(p["w"]).sum(), params, {"w": np.cos(params["w"])}, method=method
        )


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, params):
        self.calls += 1
        return params["w"].sum() + self.calls


def mutating(params):
    params["w"] += 1
    return params["w"].sum()


W = {"w": np.ones(2)}


@pytest.mark.parametrize(
    ("loss", "params", "grads", "options", "error", "words"),
    [
        (np.sum, {"w": np.ones(2, "f")}, W, {}, TypeError, ["params['w']", "float64", "astype"]),
        (np.sum, W, {"w": np.ones(2, "f")}, {}, TypeError, ["grads['w']", "float64"]),
        (np.sum, W, {"v": np.ones(2)}, {}, ValueError, ["grads", "missing w", "unexpected v"]),
        (np.sum, W, {"w": np.ones(3)}, {}, ValueError, ["grads", "(3,)", "(2,)"]),
        (np.sum, [1], W, {}, TypeError, ["params", "dict", "list"]),
        (lambda p: p["w"], W, W, {}, TypeError, ["loss", "scalar", "(2,)"]),
        (lambda p: 1j * p["w"].sum(), W, W, {}, TypeError, ["loss", "real scalar", "complex128"]),
        (lambda p: "x", W, W, {}, TypeError, ["loss", "scalar"]),
        (lambda p: np.nan, W, W, {}, ValueError, ["loss", "finite", "nan"]),
        (Counter(), W, W, {}, ValueError, ["loss", "deterministic"]),
        (mutating, W, W, {}, ValueError, ["loss", "changes the parameters"]),
        (
            lambda p: float(p["w"].sum()),
            W,
            W,
            {"method": "complex"},
            TypeError,
            ["loss", "complex", "central"],
        ),
        (lambda p: p["w"].sum(), W, W, {"method": "forward"}, ValueError, ["method", "'central'"]),
        (lambda p: p["w"].sum(), W, W, {"rtol": -1}, ValueError, ["rtol"]),
    ],
)
def test_what_cannot_be_checked_gets_a_sentence(loss, params, grads, options, error, words):
    with pytest.raises(error) as caught:
        check_gradients(loss, params, grads, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert (W["w"] == 1).all()
