import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprnn import RNN, LanguageModel
from nprnn.gradcheck import GradientCheckError, check_gradients, truncated
from nprnn.testing import cases, make_case, seeds

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
    # The complex step is compared with one central difference; and the loss at the point itself is
    # computed twice, to see that it is the same.
    calls = {"directional": 2, "central": 4 * 18, "complex": 18 + 2}[method]
    assert report.evaluations == 2 + calls
    table = str(report)
    assert f"{report.evaluations} evaluations of the loss in all" in table
    assert re.search(rf"  {method} +\d+\n", table)
    if method != "directional":
        assert [row.name for row in report.rows] == ["w", "b", "c"]
        assert re.search(r"w +\(3, 4\) ", table)
        each = {"central": 4, "complex": 1}[method]
        assert [row.evaluations for row in report.rows] == [n * each for n in (12, 5, 1)]
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
@given(cases(max_layers=2, smooth=True), seeds)
def test_a_factor_of_1_0001_in_the_largest_entry_is_caught(case, seed):
    grads = {name: value.copy() for name, value in case.gradients().items()}
    names = [name for name, value in grads.items() if np.abs(value).max(initial=0) > 1e-3]
    if not names:
        return
    name = np.random.default_rng(seed).choice(names)
    grads[name].flat[np.abs(grads[name]).argmax()] *= 1.0001
    with pytest.raises(GradientCheckError, match=re.escape(name)):
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


def real_buffer(p):
    buffer = np.zeros(2)
    buffer[:] = p["w"] ** 2
    return buffer.sum()


# Losses that are none for complex numbers, and their gradients at `w`.
w = np.array([1.0, -2.0])
NOT_ANALYTIC = {
    "abs": (lambda p: np.abs(p["w"]).sum(), np.sign(w)),
    "norm": (lambda p: np.linalg.norm(p["w"]), w / np.sqrt(5)),
    "vdot": (lambda p: np.vdot(p["w"], p["w"]), 2 * w),
    "conj": (lambda p: (p["w"].conj() * np.array([3.0, 4.0])).sum(), np.array([3.0, 4.0])),
    "real": (lambda p: (p["w"].real ** 2).sum() + 0 * p["w"].sum(), 2 * w),
}


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_a_loss_that_drops_imaginary_parts_is_told_apart_from_a_wrong_gradient(name):
    loss, right = NOT_ANALYTIC[name]
    for gradient in (right, np.zeros(2), -right):  # -right is what conj makes of it
        with pytest.raises(GradientCheckError, match="drops or flips imaginary parts"):
            check_gradients(loss, {"w": w}, {"w": gradient}, method="complex")
    check_gradients(loss, {"w": w}, {"w": right}, method="central")


def test_where_the_gradient_agrees_with_a_flawed_complex_step_nothing_else_is_claimed():
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(NOT_ANALYTIC["abs"][0], {"w": w}, {"w": np.zeros(2)}, method="complex")
    assert str(caught.value).startswith("the complex step and the central difference disagree")


def test_a_tie_is_decided_otherwise_by_maximum_of_complex_numbers():
    params = {"a": np.array(1.0), "b": np.array(1.0)}

    def loss(p):
        return np.maximum(p["a"], p["b"])

    with pytest.raises(GradientCheckError, match="tie"):
        check_gradients(loss, params, {"a": np.array(1.0), "b": np.array(1.0)}, method="complex")


def test_a_kink_nearby_is_not_taken_for_a_flaw():
    def loss(p):
        return np.where(p["x"].real > 0, p["x"], 0).sum()

    for distance in (1e-6, -1e-6):
        params = {"x": np.array([distance, 2.0])}
        grads = {"x": np.array([float(distance > 0), 1.0])}
        check_gradients(loss, params, grads, method="complex")


def test_a_buffer_of_real_type_is_refused_by_name():
    with pytest.raises(TypeError, match=r"does not accept complex numbers.*discards the imaginary"):
        check_gradients(real_buffer, {"w": w}, {"w": 2 * w}, method="complex")


def test_a_wrong_gradient_of_an_analytic_loss_is_the_gradients_fault():
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(lambda p: (p["w"] ** 2).sum(), {"w": w}, {"w": w}, method="complex")
    assert "imaginary" not in str(caught.value)


@pytest.mark.parametrize("method", ["central", "complex"])
def test_a_subset_of_entries_has_the_largest_and_costs_what_it_should(method):
    params = point()
    grads = smooth_gradients(params)
    report = check_gradients(smooth, params, grads, method=method, entries=3)
    assert [row.size for row in report.rows] == [3, 3, 1]
    each = {"central": 4, "complex": 1}[method]
    assert [row.evaluations for row in report.rows] == [3 * each, 3 * each, each]
    for name, seed in [("w", 0), ("b", 1)]:
        wrong = {key: np.array(value) for key, value in grads.items()}
        wrong[name].flat[np.abs(grads[name]).argmax()] *= 1.0001
        with pytest.raises(GradientCheckError, match=f"{name}: 1 of 3 entries wrong"):
            check_gradients(smooth, params, wrong, method=method, entries=3, rng=seed)


def test_another_seed_checks_other_entries():
    params = {"w": np.ones(40)}
    grads = {"w": np.full(40, 1.0)}  # of Σ w
    grads["w"][7] = 0.5
    found = 0
    for seed in range(40):
        try:
            check_gradients(
                lambda p: p["w"].sum(), params, grads, method="complex", entries=10, rng=seed
            )
        except GradientCheckError:
            found += 1
    assert 3 < found < 20  # a quarter of them, and the same ones every time


@pytest.mark.parametrize("method", ["central", "complex"])
@settings(max_examples=60, deadline=None)
@given(cases(max_layers=2, smooth=True), seeds)
def test_a_factor_of_1_0001_in_any_entry_that_matters_is_caught(method, case, seed):
    rng = np.random.default_rng(seed)
    grads = {name: value.copy() for name, value in case.gradients().items()}
    overall = max(np.abs(value).max(initial=0) for value in grads.values())
    places = [
        (name, index)
        for name, value in grads.items()
        for index in np.ndindex(value.shape)
        if abs(value[index]) > 0.01 * np.abs(value).max() and abs(value[index]) > 0.01 * overall
    ]
    if overall < 0.01:
        return
    name, index = places[rng.integers(len(places))]
    grads[name][index] *= 1.0001
    with pytest.raises(GradientCheckError, match=f"(?m)^{re.escape(name)}: 1 of"):
        check_gradients(case.loss, case.variables(), grads, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_thousand_random_networks_raise_no_false_alarm(method):
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        T, B, I, H = rng.integers(1, 4, 4)  # noqa: E741
        case = make_case(
            rng,
            T,
            B,
            rng.integers(0, T + 1, B) if seed % 2 else None,
            seed % 5 == 0,
            None,
            cell=["rnn", "gru", "lstm"][seed % 3],
            input_size=I,
            hidden_size=H,
            num_layers=1 + seed % 7 // 6,
            bias=seed % 11 > 0,
            bidirectional=seed % 13 == 0,
        )
        check_gradients(case.loss, case.variables(), case.gradients(), method=method, rng=rng)


def test_a_saturated_network_raises_no_false_alarm():
    """Where 1 - h² has lost most of its digits, the largest entries still have theirs."""
    rng = np.random.default_rng(0)
    layer = RNN(3, 4, dtype=np.float64, rng=rng)
    layer.params = {name: 4 * rng.normal(size=v.shape) for name, v in layer.params.items()}
    x, d_output = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 2, 4))
    output, _, cache = layer.forward(x)
    assert np.abs(output).max() > 1 - 1e-9

    def loss(p):
        return (layer.with_params(p)(x)[0] * d_output).sum()

    _, _, grads = layer.backward(d_output, None, cache)
    check_gradients(loss, layer.params, grads, method="complex")


class LossError(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_as_they_were_also_when_the_loss_raises(method):
    params, calls = point(), []
    before = {name: value.copy() for name, value in params.items()}

    def loss(p):
        calls.append(1)
        if len(calls) == 4:
            raise LossError
        return smooth(p)

    with pytest.raises(LossError):
        check_gradients(loss, params, smooth_gradients(params), method=method)
    for name, value in before.items():
        np.testing.assert_array_equal(params[name], value)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), seeds)
def test_truncated_bptt_is_the_gradient_of_the_loss_with_constant_states_at_the_cuts(
    n, steps, seed
):
    rng = np.random.default_rng(seed)
    model = LanguageModel(3, 4, dtype=np.float64, rng=rng)
    tokens = rng.integers(0, 3, (n * steps + 1, 2))
    windows = [
        (tokens[a : a + steps], tokens[a + 1 : a + steps + 1]) for a in range(0, n * steps, steps)
    ]

    def loss(params, window, state):
        return model.with_params(params).loss(*window, state)

    state = start = rng.normal(size=(1, 2, 4))
    total = {name: np.zeros_like(value) for name, value in model.params.items()}
    for window in windows:
        _, grads, state = model.loss_and_grads(*window, state)
        for name, gradient in grads.items():
            total[name] += gradient
    cut = truncated(loss, model.params, windows, start)
    for method in METHODS:
        check_gradients(cut, model.params, total, method=method)

    def whole(params):
        state, sum_of_losses = start, 0
        for window in windows:
            value, state = loss(params, window, state)
            sum_of_losses += value
        return sum_of_losses

    with pytest.raises(GradientCheckError, match="weight_hh_l0"):
        check_gradients(whole, model.params, total, method="complex")


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


def test_the_table_of_a_report():
    def loss(p):
        return (p["W"] ** 2).sum() + 3 * p["a longer name"][0]

    params = {"W": np.ones((2, 3)), "a longer name": np.ones(1)}
    grads = {"W": np.full((2, 3), 2.0), "a longer name": np.full(1, 3.0)}
    assert str(check_gradients(loss, params, grads, method="complex")).split("\n") == [
        "parameter             shape  abs. error  rel. error       method  evaluations",
        "W                    (2, 3)     0.0e+00     0.0e+00      complex            6",
        "a longer name          (1,)     0.0e+00     0.0e+00      complex            1",
        "11 evaluations of the loss in all",
    ]
