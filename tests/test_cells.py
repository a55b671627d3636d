"""One step at a time: `RNNCell`, other activations, and how the recurrent matrix is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from nprnn import RNN, RNNCell, cells
from nprnn.gradcheck import check_gradients


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["tanh", "relu"]),
    st.booleans(),
    seeds,
)
def test_a_cell_is_one_step(width, H, B, bias, nonlinearity, integers, seed):
    rng = np.random.default_rng(seed)
    cell = RNNCell(width, H, bias, nonlinearity, dtype=np.float64, rng=rng)
    params = {k: rng.normal(size=v.shape) for k, v in cell.params.items()}
    cell = cell.with_params(params)
    shape = (B,) if B else ()
    x = np.array(rng.integers(0, width, shape)) if integers else rng.normal(size=(*shape, width))
    h = rng.normal(size=(*shape, H))
    output, state, cache = cell.forward(x, h)
    vectors = np.eye(width)[x] if integers else x
    a = vectors @ params["weight_ih"].T + h @ params["weight_hh"].T
    a = a + params.get("bias_ih", 0) + params.get("bias_hh", 0)
    expected = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
    np.testing.assert_allclose(output, expected, atol=1e-13)
    np.testing.assert_array_equal(output, state)
    np.testing.assert_array_equal(cell(x, h)[0], output)

    d_output, d_state = rng.normal(size=(2, *output.shape))
    d_x, d_h, grads = cell.backward(d_output, d_state, cache)
    variables = {**params, "h": h} | ({} if integers else {"x": x})
    gradients = {**grads, "h": d_h} | ({} if integers else {"x": d_x})

    def loss(p):
        out, final = cell.with_params({k: p[k] for k in params})(p.get("x", x), p["h"])
        return (out * d_output).sum() + (final * d_state).sum()

    check_gradients(loss, variables, gradients, method="complex")


def test_a_loop_over_a_cell_is_the_layer():
    rng = np.random.default_rng(0)
    layer = RNN(3, 4, dtype=np.float64, rng=0)
    cell = RNNCell(3, 4, dtype=np.float64, rng=0)
    for name, value in cell.params.items():
        np.testing.assert_array_equal(value, layer.params[f"{name}_l0"])
    x, h = rng.normal(size=(5, 2, 3)), None
    for t, expected in enumerate(layer(x)[0]):
        output, h = cell(x[t], h)
        np.testing.assert_allclose(output, expected, atol=1e-14)


def test_a_cell_refuses_and_shows_itself():
    cell = RNNCell(3, 4, rng=0)
    assert repr(cell) == "RNNCell(3, 4)"
    assert repr(RNNCell(3, 4, False, "relu")) == "RNNCell(3, 4, nonlinearity='relu', bias=False)"
    assert list(cell.params) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    with pytest.raises(ValueError, match="x must have shape"):
        cell(np.zeros((2, 5), "f"))
    with pytest.raises(ValueError, match="state must have shape"):
        cell(np.zeros((2, 3), "f"), np.zeros((3, 4), "f"))
    with pytest.raises(ValueError, match="missing bias_ih"):
        cell.with_params({"weight_ih": np.ones((4, 3)), "weight_hh": np.ones((4, 4))})


def test_another_activation_is_a_row_in_the_table(monkeypatch):
    softplus = cells.Activation(lambda a: np.log1p(np.exp(a), out=a), lambda h: 1 - np.exp(-h))
    monkeypatch.setitem(cells.ACTIVATIONS, "softplus", softplus)
    rng = np.random.default_rng(0)
    layer = RNN(2, 3, 2, "softplus", bidirectional=True, dtype=np.float64, rng=rng)
    x = rng.normal(size=(4, 2, 2))
    output, _, cache = layer.forward(x, lengths=[4, 2])
    upstream = rng.normal(size=output.shape)
    d_x, _, grads = layer.backward(upstream, None, cache)
    check_gradients(
        lambda p: (
            layer.with_params({k: p[k] for k in grads})(p["x"], lengths=[4, 2])[0] * upstream
        ).sum(),
        {**layer.params, "x": x},
        {**grads, "x": d_x},
        method="complex",
    )
    assert "softplus" in repr(layer)


def singular_values(name, H=200, **options):
    layer = RNN(3, H, recurrent_init=name, dtype=np.float64, rng=0, **options)
    return np.linalg.svd(layer.params["weight_hh_l0"], compute_uv=False)


def test_initialisers_of_the_recurrent_matrix():
    np.testing.assert_allclose(singular_values("orthogonal"), 1, atol=1e-12)
    layer = RNN(3, 5, 2, "relu", bidirectional=True, recurrent_init="identity", rng=0)
    for name, value in layer.params.items():
        if name.startswith("weight_hh"):
            np.testing.assert_array_equal(value, np.eye(5, dtype=np.float32))
        else:
            assert np.abs(value).max() <= 1 / np.sqrt(5)
    for name, bound in [("uniform", 1 / np.sqrt(200)), ("xavier", np.sqrt(3 / 200))]:
        matrix = RNN(3, 200, recurrent_init=name, rng=0).params["weight_hh_l0"]
        assert 0.98 * bound < np.abs(matrix).max() <= bound
        assert matrix.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    default, named = RNN(3, 4, rng=0), RNN(3, 4, recurrent_init="uniform", rng=0)
    for name, value in default.params.items():
        np.testing.assert_array_equal(value, named.params[name])


def test_orthogonal_matrices_are_rotations_and_reflections_alike():
    """Without the sign correction of the QR decomposition the diagonal would lean to one side."""
    traces = [
        np.trace(RNN(1, 20, recurrent_init="orthogonal", rng=seed).params["weight_hh_l0"])
        for seed in range(200)
    ]
    assert abs(np.mean(traces)) < 0.3
    assert np.var(traces) == pytest.approx(1, abs=0.35)


def test_an_unknown_initialiser_is_refused():
    with pytest.raises(ValueError, match="recurrent_init must be one of 'uniform', 'orthogonal'"):
        RNN(2, 3, recurrent_init="zeros")
