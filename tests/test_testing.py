"""The strategies and the assertion, with cells of one's own."""

import numpy as np
import pytest
from hypothesis import find, given, settings

import nprnn
from nprnn import GRU, LSTM, RNN, Recurrent, cells
from nprnn.gradcheck import GradientCheckError
from nprnn.testing import (
    Case,
    assert_gradients,
    cases,
    layer_options,
    layers,
    lengths,
    make_case,
    map_state,
)


class MinimalGatedCell(cells.Cell):
    """One gate for all (Zhou et al. 2016), without its reset: h' = h + f ∘ (n - h)."""

    num_gates = 2
    passes_on = True

    def forward(self, gates, hidden, kept, before, after):
        """f = σ(a_f), n = tanh(a_n)."""
        (h_before,), (h,) = before, after
        gates += hidden
        f, n = np.split(gates, 2)
        f[...] = 0.5 + 0.5 * np.tanh(f / 2)
        n[...] = np.tanh(n)
        h[...] = h_before + f * (n - h_before)

    def local_derivatives(self, gates, kept, before, after):
        """The gates' gradients for d_h = 1, and what passes on."""
        f, n = np.split(gates, 2, axis=-2)
        d_f, d_n = (n - before[0]) * f * (1 - f), f * (1 - n * n)
        return np.concatenate([d_f, d_n], axis=-2), 1 - f

    def backward(self, d_states, d_gates, factors):
        """Both times d_h."""
        (d_h,), (passed,) = d_states, factors
        d_gates *= np.concatenate([d_h, d_h])
        d_h *= passed


class Forgetful(MinimalGatedCell):
    """With a mistake: what passes on is forgotten in the backward pass."""

    passes_on = False


class Careless(cells.LSTMCell):
    """With a mistake in one block of one factor."""

    def local_derivatives(self, gates, kept, before, after):
        """The forget gate's derivative 0.1 % too large."""
        d_gates, *others = super().local_derivatives(gates, kept, before, after)
        H = kept.shape[-2]
        d_gates[..., H : 2 * H, :] *= 1.001
        return d_gates, *others


def test_a_cell_is_a_class_and_nothing_else():
    """Layers, directions, lengths, dropout, batch-first, integers: all is there."""
    assert_gradients(Recurrent(MinimalGatedCell(), 3, 4))
    layer = Recurrent(MinimalGatedCell(), 3, 2, 2, True, True, 0.3, True, rng=0)
    assert layer.params["weight_hh_l1_reverse"].shape == (4, 2)
    assert_gradients(layer)
    assert_gradients(layer, np.ones((2, 4, 3)), lengths=[4, 1], method="central")
    for block in np.split(
        Recurrent(MinimalGatedCell(), 3, 4, recurrent_init="identity").params["weight_hh_l0"], 2
    ):
        np.testing.assert_array_equal(block, np.eye(4))


@pytest.mark.parametrize("cell", [Forgetful(), Careless()], ids=lambda cell: type(cell).__name__)
def test_a_mistake_in_a_cell_is_found(cell):
    with pytest.raises(GradientCheckError, match="entries wrong; worst at"):
        assert_gradients(Recurrent(cell, 3, 4))


@pytest.mark.parametrize(
    "layer",
    [
        RNN(3, 4),
        RNN(3, 4, batch_first=True, bias=False),
        GRU(2, 3, num_layers=2, bidirectional=True),
        LSTM(2, 3, dtype=np.float64),
        nprnn.RNNCell(2, 3),
        nprnn.GRUCell(2, 3),
        nprnn.LSTMCell(2, 3),
    ],
    ids=repr,
)
def test_layers_and_cells_pass_and_are_left_alone(layer):
    before = {name: value.copy() for name, value in layer.params.items()}
    reports = assert_gradients(layer)
    names = [{row.name for row in report.rows} for report in reports]
    assert any("x" in each for each in names)
    assert not all("x" in each for each in names)  # integers have no gradient
    assert all(set(before) <= each for each in names)
    for name, value in before.items():
        np.testing.assert_array_equal(layer.params[name], value)


def test_a_state_and_lengths_of_ones_own():
    state = (np.ones((1, 2, 4)), np.zeros((1, 2, 4)))
    (report,) = assert_gradients(LSTM(3, 4), np.ones((5, 2, 3)), state, [5, 2])
    assert {"x", "state[0]", "state[1]"} < {row.name for row in report.rows}


class Student:
    """A layer of one's own, without lengths: h_t = W x_t + U h_(t-1)."""

    input_size = 2

    def __init__(self, mistake):
        self.mistake = mistake
        self.params = {"W": np.ones((3, 2)), "U": np.ones((3, 3))}

    def with_params(self, params):
        other = Student(self.mistake)
        other.params = params
        return other

    def forward(self, x, state=None):
        if x.dtype.kind == "i":
            x = np.eye(2)[x]
        W, U = self.params["W"], self.params["U"]
        h = [np.zeros((*x.shape[1:-1], 3)) if state is None else state]
        for x_t in x:
            h.append(x_t @ W.T + h[-1] @ U.T)
        return np.array(h[1:]), h[-1], (x, np.array(h))

    def backward(self, d_output, d_state, cache):
        x, h = cache
        W, U = self.params["W"], self.params["U"]
        d_h, d_x = d_state, np.empty(x.shape)
        grads = {"W": np.zeros((3, 2)), "U": np.zeros((3, 3))}
        for t in reversed(range(len(x))):
            d_h = d_h + d_output[t]
            grads["W"] += d_h.T @ x[t]
            grads["U"] += d_h.T @ h[t + self.mistake]
            d_x[t] = d_h @ W
            d_h = d_h @ U
        return d_x, d_h, grads


def test_a_layer_of_ones_own():
    x = np.random.default_rng(0).normal(size=(4, 2, 2))
    assert_gradients(Student(mistake=0), x)
    with pytest.raises(GradientCheckError, match="U: 9 of 9") as caught:
        assert_gradients(Student(mistake=1), x)
    assert "W:" not in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(cases(cells=["gru", "lstm"], max_layers=2, bias=False, batch_first=False))
def test_cases_have_the_shapes_of_their_layer(case):
    assert isinstance(case, Case)
    assert not any(name.startswith("bias") for name in case.layer.params)
    output, state, _ = case.forward()
    assert output.shape == case.d_output.shape
    assert isinstance(state, tuple) == isinstance(case.layer, LSTM)
    map_state(np.testing.assert_array_equal, *(map_state(np.shape, s) for s in (state, case.state)))
    assert case.variables().keys() == case.gradients().keys()


def test_the_strategies_reach_what_they_promise():
    quick = settings(max_examples=2000, database=None)
    for wanted in (RNN, GRU, LSTM):
        layer = find(
            layers(), lambda layer, wanted=wanted: isinstance(layer, wanted), settings=quick
        )
        assert layer.input_size == layer.hidden_size == layer.num_layers == 1
    find(layers(), lambda layer: layer.bidirectional and layer.dropout, settings=quick)
    find(layers(["rnn"]), lambda layer: layer.nonlinearity == "relu", settings=quick)
    find(cases(), lambda case: case.lengths is not None and 0 in case.lengths, settings=quick)
    find(cases(), lambda case: case.x.dtype.kind == "i", settings=quick)
    assert find(lengths(4, 3), lambda drawn: (drawn == 4).any(), settings=quick).tolist() == [
        0,
        0,
        4,
    ]


@settings(max_examples=30, deadline=None)
@given(layer_options(smooth=True), layer_options("lstm", max_layers=1))
def test_options_are_arguments(rnn_options, lstm_options):
    assert RNN(**rnn_options).nonlinearity == "tanh"
    assert LSTM(**lstm_options).num_layers == 1


def test_the_same_numbers_from_the_same_seed():
    one, other = (
        make_case(np.random.default_rng(3), 4, 2, cell="lstm", input_size=2, hidden_size=3)
        for _ in range(2)
    )
    for name, value in one.variables().items():
        np.testing.assert_array_equal(value, other.variables()[name])
