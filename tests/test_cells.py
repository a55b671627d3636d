"""One step at a time: `RNNCell`, other activations, and how the recurrent matrix is drawn."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprnn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell, cells
from nprnn.gradcheck import check_gradients
from nprnn.testing import assert_gradients, map_state, seeds

CELLS = {"tanh": RNNCell, "relu": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(CELLS)),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    seeds,
)
def test_a_cell_is_one_step(unit, width, H, B, bias, integers, seed):
    rng = np.random.default_rng(seed)
    kind = {"nonlinearity": unit} if CELLS[unit] is RNNCell else {}
    cell = CELLS[unit](width, H, bias, **kind, dtype=np.float64, rng=rng)
    params = {k: rng.normal(size=v.shape) for k, v in cell.params.items()}
    cell = cell.with_params(params)
    shape = (B,) if B else ()
    x = np.array(rng.integers(0, width, shape)) if integers else rng.normal(size=(*shape, width))
    state = tuple(rng.normal(size=(2 if unit == "lstm" else 1, *shape, H)))
    state = state if unit == "lstm" else state[0]
    output, final, cache = cell.forward(x, state)

    vectors = (np.eye(width)[x] if integers else x).reshape(1, B or 1, width)
    expected, expected_final = naive.rnn(
        {f"{name}_l0": value for name, value in params.items()},
        vectors,
        map_state(lambda part: part.reshape(1, B or 1, H), state),
        num_layers=1,
        num_directions=1,
        cell=unit,
        lengths=[1] * (B or 1),
    )
    np.testing.assert_allclose(output, expected.reshape(output.shape), atol=1e-13)
    flat = map_state(lambda part: part.reshape(output.shape), expected_final)
    np.testing.assert_allclose(final, flat, atol=1e-13)
    np.testing.assert_array_equal(final[0] if unit == "lstm" else final, output)
    np.testing.assert_array_equal(cell(x, state)[0], output)
    d_x, d_state, grads = cell.backward(output, final, cache)
    assert (d_x is None) == integers
    assert np.shape(d_state) == np.shape(state)
    assert grads.keys() == params.keys()
    if unit != "relu" or not integers:
        assert_gradients(cell, x, state)


@pytest.mark.parametrize("layer_kind", [RNN, GRU, LSTM])
def test_a_loop_over_a_cell_is_the_layer(layer_kind):
    rng = np.random.default_rng(0)
    layer = layer_kind(3, 4, dtype=np.float64, rng=0)
    cell = {RNN: RNNCell, GRU: GRUCell, LSTM: LSTMCell}[layer_kind](3, 4, dtype=np.float64, rng=0)
    for name, value in cell.params.items():
        np.testing.assert_array_equal(value, layer.params[f"{name}_l0"])
    x, h = rng.normal(size=(5, 2, 3)), None
    for t, expected in enumerate(layer(x)[0]):
        output, h = cell(x[t], h)
        np.testing.assert_allclose(output, expected, atol=1e-14)


def test_a_cell_refuses_and_shows_itself():
    cell = RNNCell(3, 4, rng=0)
    assert repr(cell) == "RNNCell(3, 4)"
    assert repr(LSTMCell(3, 4, forget_bias=1)) == "LSTMCell(3, 4, forget_bias=1.0)"
    assert repr(RNNCell(3, 4, False, "relu")) == "RNNCell(3, 4, nonlinearity='relu', bias=False)"
    assert list(cell.params) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    with pytest.raises(ValueError, match="x must have shape"):
        cell(np.zeros((2, 5), "f"))
    with pytest.raises(ValueError, match="state must have shape"):
        cell(np.zeros((2, 3), "f"), np.zeros((3, 4), "f"))
    with pytest.raises(ValueError, match="missing bias_ih"):
        cell.with_params({"weight_ih": np.ones((4, 3)), "weight_hh": np.ones((4, 4))})


def test_another_activation_is_a_row_in_the_table(monkeypatch):
    softplus = cells.Activation(
        lambda a, out: np.log1p(np.exp(a), out=out), lambda h: 1 - np.exp(-h)
    )
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
