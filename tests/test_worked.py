"""The worked example against the package, and against the complex step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn.gradcheck import check_gradients
from nprnn.testing import seeds

NAMES = ("W_ih", "W_hh", "b", "W_ho", "b_o")


@st.composite
def examples(draw):
    T, B, I, H = (draw(st.integers(1, 4)) for _ in range(4))  # noqa: E741
    V = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(seeds))
    shapes = [(H, I), (H, H), (H,), (V, H), (V,)]
    params = {name: rng.normal(size=shape) for name, shape in zip(NAMES, shapes, strict=True)}
    return nprnn.worked_example(
        rng.normal(size=(T, B, I)),
        rng.integers(0, V, (T, B)),
        h_0=rng.normal(size=(B, H)),
        **params,
    )


def check(example):
    """Compare every number with what the layers give."""
    H, I = example.W_ih.shape  # noqa: E741
    arrays = [example.W_ih, example.W_hh, example.b, np.zeros(H)]
    layer = nprnn.RNN(I, H)
    layer = layer.with_params(dict(zip(layer.params, arrays, strict=True)))
    readout = nprnn.Linear(H, len(example.b_o)).with_params(
        {"weight": example.W_ho, "bias": example.b_o}
    )
    h, _, cache = layer.forward(example.x, example.h_0[None])
    o, readout_cache = readout.forward(h)
    loss, d_o = nprnn.softmax_cross_entropy(o, example.targets)
    d_h_output, readout_grads = readout.backward(d_o, readout_cache)
    d_x, d_h_0, grads = layer.backward(d_h_output, None, cache)
    expected = {
        "before": np.concatenate([example.h_0[None], h[:-1]]),
        "h": h,
        "o": o,
        "loss": loss,
        "d_o": d_o,
        "d_h_output": d_h_output,
        "d_x": d_x,
        "d_h_0": d_h_0[0],
        "d_W_ih": grads["weight_ih_l0"],
        "d_W_hh": grads["weight_hh_l0"],
        "d_b": grads["bias_ih_l0"],
        "d_W_ho": readout_grads["weight"],
        "d_b_o": readout_grads["bias"],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(example, name), value, rtol=1e-13, atol=1e-14, err_msg=name
        )
    np.testing.assert_allclose(np.tanh(example.a), h, atol=1e-14)
    np.testing.assert_allclose(example.p.sum(axis=2), 1, atol=1e-14)
    np.testing.assert_allclose(
        example.p, np.exp(o) / np.exp(o).sum(axis=2, keepdims=True), atol=1e-13
    )
    np.testing.assert_allclose(example.d_h, example.d_h_output + example.d_h_later, atol=1e-15)
    np.testing.assert_allclose(example.d_a, (1 - h**2) * example.d_h, atol=1e-14)
    assert not example.d_h_later[-1].any()
    np.testing.assert_allclose(example.d_h_later[:-1], example.d_a[1:] @ example.W_hh, atol=1e-14)
    for name in NAMES:
        total = getattr(example, f"d_{name}_t").sum(axis=0)
        np.testing.assert_allclose(getattr(example, f"d_{name}"), total, atol=1e-15)


def test_the_example_without_arguments():
    example = nprnn.worked_example()
    assert example.x.shape == (2, 1, 3)
    assert example.h.shape == (2, 1, 2)
    check(example)


@settings(max_examples=60, deadline=None)
@given(examples())
def test_any_sizes(example):
    check(example)


@settings(max_examples=30, deadline=None)
@given(examples())
def test_the_gradients_by_the_complex_step(example):
    names = [*NAMES, "x", "h_0"]

    def loss(p):
        h, total = p["h_0"], 0
        for x_t, targets_t in zip(p["x"], example.targets, strict=True):
            h = np.tanh(x_t @ p["W_ih"].T + h @ p["W_hh"].T + p["b"])
            o = h @ p["W_ho"].T + p["b_o"]
            chosen = np.take_along_axis(o, targets_t[:, None], axis=1)[:, 0]
            total += (np.log(np.exp(o).sum(axis=1)) - chosen).sum()
        return total / example.targets.size

    check_gradients(
        loss,
        {name: getattr(example, name) for name in names},
        {name: getattr(example, f"d_{name}") for name in names},
        method="complex",
    )


def numbers(text):
    return [float(word) for word in text.replace("[", " ").replace("]", " ").split()]


def test_every_number_is_in_the_table():
    example = nprnn.worked_example()
    lines = str(example).split("\n")
    assert max(map(len, lines)) <= 80
    shown = [number for line in lines if len(line) > 35 for number in numbers(line[35:])]
    forward = [example.W_ih, example.W_hh, example.b, example.W_ho, example.b_o, example.h_0]
    for t in range(2):
        forward += [getattr(example, name)[t] for name in ("x", "a", "h", "o", "p", "targets")]
    backward = [np.array(example.loss)]
    order = "d_o d_h_output d_h_later d_h d_a d_W_ih_t d_W_hh_t d_b_t d_W_ho_t d_b_o_t d_x"
    for t in (1, 0):
        backward += [getattr(example, name)[t] for name in order.split()]
    backward += [getattr(example, f"d_{name}") for name in (*NAMES, "h_0")]
    every = np.concatenate([np.ravel(array) for array in forward + backward])
    np.testing.assert_allclose(shown, every, atol=0.5001e-4)


def test_a_batch_and_more_steps_are_shown_too():
    rng = np.random.default_rng(0)
    example = nprnn.worked_example(
        rng.normal(size=(3, 2, 3)), rng.integers(0, 3, (3, 2)), h_0=rng.normal(size=(2, 2))
    )
    text = str(example)
    assert "step 3" in text
    assert "d_h_0 = W_hhᵀ d_a_1" in text
    assert max(map(len, text.split("\n"))) <= 80


def test_a_long_sequence_keeps_numbers_and_labels_apart():
    rng = np.random.default_rng(0)
    example = nprnn.worked_example(rng.normal(size=(120, 1, 3)), rng.integers(0, 3, (120, 1)))
    lines = str(example).split("\n")
    assert max(map(len, lines)) <= 80
    start = lines.index("d_o_120 = (p_120 - target_120) / (T B)")
    np.testing.assert_allclose(numbers(lines[start + 1]), example.d_o[119, 0], atol=0.5001e-4)


def test_no_number_of_a_large_array_is_left_out():
    rng = np.random.default_rng(0)
    example = nprnn.worked_example(rng.normal(size=(1, 400, 3)), rng.integers(0, 3, (1, 400)))
    assert "..." not in str(example)


def test_zeros_have_no_sign_and_large_integers_stay_what_they_are():
    example = nprnn.worked_example(np.array([[[-1e-6, -0.0, 0.5]], [[1e20, -1.0, 0.0]]]))
    lines = dict(line.split(None, 1) for line in str(example).split("\n") if line[:2] == "x_")
    assert lines["x_1"] == "[ 0.   0.   0.5]"
    np.testing.assert_array_equal(numbers(lines["x_2"]), [1e20, -1, 0])


@given(seeds)
def test_a_certain_and_wrong_prediction_has_a_finite_loss(seed):
    rng = np.random.default_rng(seed)
    shapes = [(2, 3), (2, 2), (2,), (3, 2), (3,)]
    params = {name: rng.normal(size=shape) for name, shape in zip(NAMES, shapes, strict=True)}
    params["W_ho"] *= 1e4
    example = nprnn.worked_example(**params)
    expected, _ = nprnn.softmax_cross_entropy(example.o, example.targets)
    np.testing.assert_allclose(example.loss, expected, rtol=1e-13)


def test_one_argument_may_be_changed_alone():
    example = nprnn.worked_example(W_hh=np.zeros((2, 2)))
    assert not example.d_h_later.any()
    check(example)
    np.testing.assert_array_equal(example.W_ho, nprnn.worked_example().W_ho)


def test_the_result_shares_no_memory_with_the_arguments():
    given = {"x": np.ones((2, 1, 3)), "targets": np.array([[0], [1]]), "W_hh": np.eye(2)}
    example = nprnn.worked_example(**given)
    for name, array in given.items():
        assert not np.shares_memory(getattr(example, name), array)


def test_nothing_is_printed(capsys):
    str(nprnn.worked_example())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x": np.zeros((2, 3))}, ValueError, ["x", "(T, B, 3)", "(2, 3)"]),
        ({"x": np.zeros((0, 1, 3))}, ValueError, ["x", "(0, 1, 3)"]),
        ({"x": np.zeros((2, 1, 4))}, ValueError, ["x", "(T, B, 3)", "(2, 1, 4)"]),
        ({"x": np.zeros((2, 1, 3), complex)}, TypeError, ["x", "complex128"]),
        ({"x": np.full((2, 1, 3), np.nan)}, ValueError, ["x", "finite", "nan"]),
        ({"x": [[1, 2], [3]]}, TypeError, ["x", "array", "list"]),
        ({"h_0": [[0.1, -np.inf]]}, ValueError, ["h_0", "finite", "-inf"]),
        ({"targets": [[0.5], [1.0]]}, TypeError, ["targets", "integers", "float64"]),
        ({"x": "text"}, TypeError, ["x", "numbers"]),
        ({"targets": [[0], [3]]}, ValueError, ["targets", "V-1 = 2", "3"]),
        ({"targets": [0, 1]}, ValueError, ["targets", "(T=2, B=1)", "(2,)"]),
        ({"h_0": [0.0, 1.0]}, ValueError, ["h_0", "(1, 2)", "(2,)"]),
        ({"b": np.ones(3)}, ValueError, ["b must", "(2,)", "(3,)"]),
        ({"W_hh": np.ones((2, 3))}, ValueError, ["W_hh", "(2, 2)", "(2, 3)"]),
        ({"W_ho": np.ones((3, 4))}, ValueError, ["W_ho", "(V, 2)", "(3, 4)"]),
        ({"W_ih": np.ones((4, 3))}, ValueError, ["W_hh", "(4, 4)", "the default: pass W_hh"]),
        ({"W_ih": np.ones((2, 5))}, ValueError, ["x must", "(T, B, 5)", "the default: pass x"]),
        ({"x": np.ones((3, 1, 3))}, ValueError, ["targets", "(T=3, B=1)", "pass targets"]),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments, error, words):
    with pytest.raises(error) as caught:
        nprnn.worked_example(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value
