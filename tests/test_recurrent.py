"""The recurrent layer against its definition, against numeric derivatives, and in its contract."""

import itertools
import warnings

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import GRU, LSTM, RNN, one_hot
from nprnn.gradcheck import check_gradients
from nprnn.testing import Case, cases, make_case, map_state

LAYERS = [RNN, GRU, LSTM]


def time_major(layer, array):
    return array.swapaxes(0, 1) if layer.batch_first else array


def assert_same(actual, expected, rtol=1e-12):
    """Equal to rounding, in units of the largest entry; tuples part by part."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        for part, other in zip(actual, expected, strict=True):
            assert_same(part, other, rtol)
        return
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=rtol * max(1.0, float(np.abs(expected).max(initial=0)))
    )


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def of_sequence(state, b):
    """Return one sequence's states from those of a batch."""
    return map_state(lambda part: part[:, b], state)


def unit_of(layer):
    """Return the name by which tests/naive.py knows the layer's cell."""
    return getattr(layer, "nonlinearity", type(layer).__name__.lower())


def naive_arguments(case: Case):
    layer = case.layer
    x = one_hot(case.x, layer.input_size, np.float64) if case.x.dtype.kind == "i" else case.x
    x = time_major(layer, x)
    lengths = [x.shape[0]] * x.shape[1] if case.lengths is None else case.lengths
    options = {
        "num_layers": layer.num_layers,
        "num_directions": layer.num_directions,
        "cell": unit_of(layer),
        "lengths": lengths,
    }
    return x, options


@settings(max_examples=150, deadline=None)
@given(cases())
def test_forward_is_the_definition(case):
    case.dropout_seed = None
    x, options = naive_arguments(case)
    expected, expected_state = naive.rnn(case.layer.params, x, case.state, **options)
    output, state, _ = case.forward()
    assert_same(time_major(case.layer, output), expected)
    assert_same(state, expected_state)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_backward_is_the_chain_rule_step_by_step(case):
    case.dropout_seed = None
    x, options = naive_arguments(case)
    d_output = time_major(case.layer, case.d_output)
    d_x, d_state, grads = naive.rnn_backward(
        case.layer.params, x, case.state, d_output, case.d_state, **options
    )
    _, _, cache = case.forward()
    actual_d_x, actual_d_state, actual = case.layer.backward(case.d_output, case.d_state, cache)
    assert_same(actual_d_state, d_state)
    if actual_d_x is not None:
        assert_same(time_major(case.layer, actual_d_x), d_x)
    assert actual.keys() == grads.keys()
    for name, gradient in grads.items():
        assert_same(actual[name], gradient)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_gradients_agree_with_central_differences(case):
    if unit_of(case.layer) == "relu":
        step_away_from_kinks(case)
    check_gradients(case.loss, case.variables(), case.gradients(), method="central", rtol=1e-7)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_gradients_agree_with_the_complex_step(case):
    check_gradients(case.loss, case.variables(), case.gradients(), method="complex", rtol=1e-10)


@pytest.mark.parametrize("name", ["x", "state", "weight_ih_l0", "bias_hh_l0"])
def test_the_complex_step_on_one_argument_alone(name):
    rng = np.random.default_rng(0)
    case = make_case(
        rng, 4, 3, np.array([4, 0, 2]), False, None, input_size=2, hidden_size=3, bidirectional=True
    )
    gradient = case.gradients()[name]
    variables = case.variables()
    direction = rng.normal(size=gradient.shape)
    moved = {**variables, name: variables[name] + 1e-30j * direction}
    slope = case.loss(moved).imag / 1e-30
    assert slope == pytest.approx((gradient * direction).sum(), rel=1e-12)


def step_away_from_kinks(case):
    """Make every pre-activation so large that a step of 1e-5 does not cross 0.

    Positive weights, inputs and states leave only positive ones; every third unit's incoming
    weights are negative, so that both branches are taken.
    """
    rng = np.random.default_rng(0)
    for name, value in case.layer.params.items():
        value[...] = rng.uniform(0.2, 0.6, value.shape)
        if "weight_hh" in name or "bias" in name:
            value[2::3] *= -1
        if "weight_ih" in name:
            value[2::3] *= -1
    case.state = rng.uniform(0.2, 1, case.state.shape)
    if case.x.dtype.kind == "f":
        case.x = rng.uniform(0.2, 1, case.x.shape)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("unit", ["tanh", "relu", "gru", "lstm"])
def test_gradients_over_the_full_product_of_options(num_layers, bidirectional, unit):
    rng = np.random.default_rng(7)
    kind = {"cell": unit} if unit in ("gru", "lstm") else {"nonlinearity": unit}
    for bias, batch_first, padded, dropout, integers in itertools.product([False, True], repeat=5):
        if dropout and num_layers == 1:
            continue
        case = make_case(
            rng,
            T=4,
            B=3,
            lengths=np.array([2, 0, 4]) if padded else None,
            use_integers=integers,
            dropout_seed=11 if dropout else None,
            input_size=2,
            hidden_size=2,
            **kind,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=0.4 if dropout else 0.0,
            bidirectional=bidirectional,
        )
        variables, gradients = case.variables(), case.gradients()
        check_gradients(case.loss, variables, gradients, method="complex", rtol=1e-10)
        if unit != "relu":
            check_gradients(case.loss, variables, gradients, method="directional", rtol=1e-7)


@settings(max_examples=50, deadline=None)
@given(cases(integers=True))
def test_integers_equal_one_hot_vectors(case):
    x = one_hot(case.x, case.layer.input_size, np.float64)
    output, state, cache = case.forward()
    other, other_state, other_cache = case.forward(x=x)
    assert_same(other, output)
    assert_same(other_state, state)
    d_x, d_state, grads = case.layer.backward(case.d_output, case.d_state, cache)
    other_d_x, other_d_state, other_grads = case.layer.backward(
        case.d_output, case.d_state, other_cache
    )
    assert d_x is None
    assert other_d_x.shape == x.shape
    assert_same(other_d_state, d_state)
    for name, gradient in grads.items():
        assert_same(other_grads[name], gradient)


@pytest.mark.parametrize("V", [5, 40, 90])  # multiplied, gathered, and more than are met
@pytest.mark.parametrize("B", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_class_is_its_column_however_many_there_are(V, B, bias):
    rng = np.random.default_rng(V)
    layer = GRU(V, 3, bias=bias, dtype=np.float64, rng=rng)
    ids = rng.integers(0, V, (15, B))
    ids[0, 0] = ids[-1, -1] = V - 1
    output, state, cache = layer.forward(ids)
    expected, _, other_cache = layer.forward(one_hot(ids, V, np.float64))
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-14)
    _, _, grads = layer.backward(output, state, cache)
    _, _, expected_grads = layer.backward(output, state, other_cache)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, expected_grads[name], rtol=0, atol=1e-13)


def test_a_weight_that_is_nan_reaches_only_those_who_read_it():
    layer = RNN(5, 3, rng=0)
    layer.params["weight_ih_l0"][:, 2] = np.nan
    output, _ = layer([[0, 1], [1, 3], [4, 2], [0, 0]])
    assert np.isnan(output).all(axis=2).tolist() == [[False] * 2, [False] * 2, *[[False, True]] * 2]


def test_integers_equal_one_hot_vectors_for_a_large_vocabulary():
    """Above a limit the gradient is summed by sorting; also where a class never occurs."""
    rng = np.random.default_rng(3)
    layer = RNN(300, 5, dtype=np.float64, rng=rng)
    ids = rng.integers(0, 290, (40, 6))
    ids[0, :2] = 0, 289
    output, _, cache = layer.forward(ids)
    _, _, other_cache = layer.forward(one_hot(ids, 300, np.float64))
    upstream = rng.normal(size=output.shape)
    _, _, grads = layer.backward(upstream, None, cache)
    _, _, expected = layer.backward(upstream, None, other_cache)
    for name, gradient in expected.items():
        assert_same(grads[name], gradient)
    assert grads["weight_ih_l0"].flags.c_contiguous


@settings(max_examples=50, deadline=None)
@given(cases(max_layers=2, with_lengths=False), st.data())
def test_a_sequence_in_chunks_equals_the_whole(case, data):
    layer = case.layer
    if layer.bidirectional:
        return
    T = time_major(layer, case.x).shape[0]
    cut = data.draw(st.integers(0, T))
    whole, final = layer(case.x, case.state)
    state, chunks = case.state, []
    for chunk in np.split(time_major(layer, case.x), [cut]):
        if len(chunk):
            output, state = layer(time_major(layer, chunk), state)
            chunks.append(time_major(layer, output))
    assert_same(np.concatenate(chunks), time_major(layer, whole))
    assert_same(state, final)


@settings(max_examples=60, deadline=None)
@given(cases(with_lengths=True))
def test_a_batch_equals_its_sequences_one_by_one(case):
    layer = case.layer
    case.dropout_seed = None
    output, state, cache = case.forward()
    d_x, d_state_0, grads = layer.backward(case.d_output, case.d_state, cache)
    output, d_output = time_major(layer, output), time_major(layer, case.d_output)
    total = {name: np.zeros_like(value) for name, value in grads.items()}
    for b, n in enumerate(case.lengths):
        if n == 0:
            assert_same(of_sequence(state, b), of_sequence(case.state, b), rtol=0)
            assert_same(of_sequence(d_state_0, b), of_sequence(case.d_state, b), rtol=0)
            continue
        alone = time_major(layer, case.x)[:n, b]
        expected, expected_state, own_cache = layer.forward(alone, of_sequence(case.state, b))
        own_d_x, own_d_state, own_grads = layer.backward(
            d_output[:n, b], of_sequence(case.d_state, b), own_cache
        )
        assert_same(output[:n, b], expected)
        assert_same(of_sequence(state, b), expected_state)
        assert_same(of_sequence(d_state_0, b), own_d_state)
        if d_x is not None:
            assert_same(time_major(layer, d_x)[:n, b], own_d_x)
        for name in total:
            total[name] += own_grads[name]
    for name, gradient in grads.items():
        assert_same(gradient, total[name])


@settings(max_examples=50, deadline=None)
@given(cases(with_lengths=True, integers=False))
def test_nothing_at_padding_matters(case):
    layer = case.layer
    expected, clean = case.forward()[0], case.gradients()
    padding = np.arange(time_major(layer, case.x).shape[0])[:, None] >= case.lengths
    time_major(layer, case.x)[padding] = np.nan
    time_major(layer, case.d_output)[padding] = np.inf
    output = case.forward()[0]
    np.testing.assert_array_equal(output, expected)
    assert not time_major(layer, output)[padding].any()
    gradients = case.gradients()
    for name, gradient in clean.items():
        np.testing.assert_array_equal(gradients[name], gradient)
    assert not time_major(layer, gradients["x"])[padding].any()


@settings(max_examples=50, deadline=None)
@given(cases())
def test_passes_are_pure(case):
    """Nothing passed in changes; nothing is kept on the layer; backward gives the same again."""
    inputs = [*case.variables().values(), case.x, case.d_output, *parts(case.d_state)]
    before = [array.copy() for array in inputs]
    attributes = dict(vars(case.layer))
    output, state, cache = case.forward()
    first = case.layer.backward(case.d_output, case.d_state, cache)
    case.layer(case.x * 0, map_state(lambda part: part * 2, case.state), lengths=case.lengths)
    for array in (output, *parts(state)):
        array[...] = np.nan  # the caller's own: the cache does not see it
    second = case.layer.backward(case.d_output, case.d_state, cache)
    for old, new in zip(before, inputs, strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(vars(case.layer)[name] is value for name, value in attributes.items())
    assert vars(case.layer).keys() == attributes.keys()
    assert_same(first[1], second[1], rtol=0)
    for name, gradient in first[2].items():
        np.testing.assert_array_equal(gradient, second[2][name])
        assert not any(np.shares_memory(gradient, array) for array in inputs)
    names = list(first[2])
    for a, b in itertools.combinations(names, 2):
        assert not np.shares_memory(first[2][a], first[2][b])


@settings(max_examples=40, deadline=None)
@given(cases())
def test_inference_equals_the_training_pass_without_dropout(case):
    case.dropout_seed = None
    output, state, _ = case.forward()
    other, other_state = case.layer(case.x, case.state, lengths=case.lengths)
    np.testing.assert_array_equal(other, output)
    assert_same(other_state, state, rtol=0)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_single_precision_stays_single(case):
    double = case.gradients()
    for name in ("x", "state", "d_output", "d_state"):
        value = getattr(case, name)
        if getattr(value, "dtype", np.dtype("f8")).kind == "f":
            setattr(case, name, map_state(np.float32, value))
    params = {k: v.astype(np.float32) for k, v in case.layer.params.items()}
    case.layer = case.layer.with_params(params)
    output, state, _ = case.forward()
    assert {array.dtype for array in (output, *parts(state))} == {np.dtype(np.float32)}
    for name, gradient in case.gradients().items():
        assert gradient.dtype == np.float32
        assert_same(gradient, double[name], rtol=1e-4)
    assert case.layer(case.x)[0].dtype == np.float32


@pytest.mark.parametrize("kind", LAYERS)
def test_absent_state_and_gradients_are_zeros(kind):
    rng = np.random.default_rng(0)
    layer = kind(3, 4, 2, bidirectional=True, dtype=np.float64, rng=rng)
    x = rng.normal(size=(5, 2, 3))
    output, state, cache = layer.forward(x)
    zeros = map_state(np.zeros_like, state)
    np.testing.assert_array_equal(output, layer.forward(x, zeros)[0])
    d_output = rng.normal(size=output.shape)
    d_state = map_state(lambda part: rng.normal(size=part.shape), state)
    pairs = [
        ((d_output, None), (d_output, zeros)),
        ((None, d_state), (np.zeros_like(d_output), d_state)),
    ]
    if kind is LSTM:
        pairs += [
            ((None, (d_state[0], None)), (None, (d_state[0], zeros[1]))),
            ((d_output, (None, d_state[1])), (d_output, (zeros[0], d_state[1]))),
        ]
        np.testing.assert_array_equal(
            layer(x, (None, d_state[1]))[0], layer(x, (zeros[0], d_state[1]))[0]
        )
    for given_pair, full_pair in pairs:
        short, full = layer.backward(*given_pair, cache), layer.backward(*full_pair, cache)
        np.testing.assert_array_equal(short[0], full[0])
        assert_same(short[1], full[1], rtol=0)
        for name in full[2]:
            np.testing.assert_array_equal(short[2][name], full[2][name])


@settings(max_examples=30, deadline=None)
@given(cases())
def test_backward_is_linear_for_complex_gradients_too(case):
    _, _, cache = case.forward()
    real, imaginary = (
        case.layer.backward(d_output, d_state, cache)
        for d_output, d_state in [(case.d_output, None), (case.d_output * 2, None)]
    )
    both = case.layer.backward(case.d_output * (1 + 2j), None, cache)
    assert_same(both[1], map_state(lambda a, b: a + 1j * b, real[1], imaginary[1]))
    for name, gradient in both[2].items():
        assert_same(gradient, real[2][name] + 1j * imaginary[2][name])


@pytest.mark.parametrize("kind", LAYERS)
def test_unbatched_equals_a_batch_of_one(kind):
    rng = np.random.default_rng(0)
    for batch_first, bidirectional in itertools.product([False, True], repeat=2):
        layer = kind(
            3, 4, 2, batch_first=batch_first, bidirectional=bidirectional, dtype=np.float64, rng=rng
        )
        D = layer.num_directions
        x = rng.normal(size=(5, 3))
        initial = map_state(lambda part: rng.normal(size=part.shape), layer(x)[1])
        output, state, cache = layer.forward(x, initial)
        batched = x[None] if batch_first else x[:, None]
        expected, expected_state, _ = layer.forward(
            batched, map_state(lambda part: part[:, None], initial)
        )
        assert output.shape == (5, D * 4)
        assert {part.shape for part in parts(state)} == {(2 * D, 4)}
        np.testing.assert_array_equal(output, expected.squeeze(0 if batch_first else 1))
        assert_same(state, of_sequence(expected_state, 0), rtol=0)
        d_x, d_state, _ = layer.backward(output, state, cache)
        assert d_x.shape == x.shape
        assert {part.shape for part in parts(d_state)} == {(2 * D, 4)}


@pytest.mark.parametrize("kind", LAYERS)
def test_an_empty_batch_gives_empty_results(kind):
    layer = kind(3, 4, 2, bidirectional=True, rng=0)
    x = np.zeros((5, 0, 3), np.float32)
    for lengths in (None, np.zeros(0, int)):
        output, state, cache = layer.forward(x, lengths=lengths)
        assert output.shape == (5, 0, 8)
        assert {part.shape for part in parts(state)} == {(4, 0, 4)}
        d_x, d_state, grads = layer.backward(output, state, cache)
        assert d_x.shape == x.shape
        assert {part.shape for part in parts(d_state)} == {(4, 0, 4)}
        assert not any(gradient.any() for gradient in grads.values())


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "list"])
def test_arrays_of_any_layout(kind):
    rng = np.random.default_rng(0)
    layer = RNN(3, 4, rng=0)
    plain = rng.normal(size=(5, 2, 3)).astype(np.float32)
    x = {
        "fortran": lambda: np.asfortranarray(plain),
        "strided": lambda: np.repeat(plain, 2, axis=2)[:, :, ::2],
        "reversed": lambda: np.ascontiguousarray(plain[::-1])[::-1],
        "read-only": lambda: np.frombuffer(plain.tobytes(), np.float32).reshape(plain.shape),
        "list": lambda: plain,
    }[kind]()
    ids = rng.integers(0, 3, (5, 2))
    expected, state, cache = layer.forward(plain)
    output, _, other_cache = layer.forward(x)
    np.testing.assert_array_equal(output, expected)
    d = np.asfortranarray(np.ones_like(output))
    d.flags.writeable = False
    gradients = layer.backward(d, state, cache)[2]
    others = layer.backward(d, state, other_cache)[2]
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(others[name], gradient)
    np.testing.assert_array_equal(layer(ids.tolist())[0], layer(ids.astype(np.uint8))[0])


def test_the_same_seed_gives_the_same_parameters():
    first, second, other = (
        RNN(3, 4, rng=1),
        RNN(3, 4, rng=np.random.default_rng(1)),
        RNN(3, 4, rng=2),
    )
    double = RNN(3, 4, rng=1, dtype=np.float64)
    for name, value in first.params.items():
        np.testing.assert_array_equal(value, second.params[name])
        np.testing.assert_array_equal(value, double.params[name].astype(np.float32))
        assert not np.array_equal(value, other.params[name])


def test_parameters_are_drawn_as_in_pytorch():
    """U(-1/√H, 1/√H) for all of them, biases too; names, order and shapes of the state_dict."""
    layer = RNN(7, 400, 2, bidirectional=True, rng=0)
    assert list(layer.params)[:8] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
        "weight_hh_l0_reverse",
        "bias_ih_l0_reverse",
        "bias_hh_l0_reverse",
    ]
    assert layer.params["weight_ih_l0"].shape == (400, 7)
    assert layer.params["weight_ih_l1"].shape == (400, 800)
    for value in layer.params.values():
        assert np.abs(value).max() <= 1 / 20
        assert value.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.2)
    assert list(RNN(2, 3, bias=False).params) == ["weight_ih_l0", "weight_hh_l0"]


def test_dropout_draws_a_mask_for_every_entry_and_scales_the_rest():
    layer = RNN(3, 50, 2, dropout=0.25, dtype=np.float64, rng=0)
    # The identity in the upper layer, far in the linear part of tanh, shows its input.
    layer.params["weight_ih_l1"][...] = 1e-6 * np.eye(50)
    layer.params["weight_hh_l1"][...] = 0
    layer.params["bias_ih_l1"][...] = layer.params["bias_hh_l1"][...] = 0
    x = np.random.default_rng(1).normal(size=(40, 8, 3))
    lower = RNN(3, 50, dtype=np.float64).with_params(
        {k: v for k, v in layer.params.items() if k.endswith("l0")}
    )
    seen = layer.forward(x, rng=5)[0] * 1e6 / lower(x)[0]
    dropped = np.abs(seen) < 1e-6
    np.testing.assert_allclose(seen[~dropped], 1 / 0.75, rtol=1e-6)
    assert dropped.mean() == pytest.approx(0.25, abs=0.02)
    assert (dropped.any(axis=0) & ~dropped.all(axis=0)).all()
    np.testing.assert_array_equal(layer.forward(x, rng=5)[0], layer.forward(x, rng=5)[0])
    np.testing.assert_array_equal(layer.forward(x)[0], layer(x)[0])


def test_relu_passes_nan_and_infinities_on():
    """A masked copy must not turn a NaN into a 0."""
    layer = RNN(1, 1, nonlinearity="relu", bias=False, dtype=np.float64)
    layer = layer.with_params({"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.zeros((1, 1))})
    for value, expected in [(np.nan, np.nan), (-np.inf, 0.0), (np.inf, np.inf), (-0.0, 0.0)]:
        np.testing.assert_array_equal(layer(np.array([[[value]]]))[0][0, 0, 0], expected)


def test_relu_branches_on_the_real_part():
    """At 0 the derivative is 0, for the complex step as for the backward pass."""
    layer = RNN(1, 1, nonlinearity="relu", bias=False, dtype=np.float64)
    layer = layer.with_params({"weight_ih_l0": np.ones((1, 1)), "weight_hh_l0": np.zeros((1, 1))})
    for value, expected in [(1j, 0), (-1e-30 + 1j, 0), (1e-30 - 1j, 1e-30 - 1j)]:
        np.testing.assert_array_equal(layer(np.array([[[value]]]))[0][0, 0, 0], expected)
    output, _, cache = layer.forward(np.zeros((1, 1, 1)))
    assert layer.backward(np.ones_like(output), None, cache)[0] == 0


def test_with_params_shares_the_arrays_and_leaves_the_layer_alone():
    layer = RNN(2, 3, rng=0)
    own = dict(layer.params)
    params = {k: v.astype(np.complex128) for k, v in own.items()}
    other = layer.with_params(params)
    assert all(other.params[k] is v for k, v in params.items())
    assert all(layer.params[k] is v for k, v in own.items())
    assert other(np.zeros((2, 1), int))[0].dtype == np.complex128


def test_repr_shows_what_is_not_default():
    assert repr(RNN(2, 3)) == "RNN(2, 3)"
    assert repr(GRU(2, 3, bias=False)) == "GRU(2, 3, bias=False)"
    assert repr(LSTM(2, 3, forget_bias=1)) == "LSTM(2, 3, forget_bias=1.0)"
    layer = RNN(2, 3, 2, "relu", False, True, 0.5, True, dtype=np.float64)
    assert repr(layer) == (
        "RNN(2, 3, nonlinearity='relu', num_layers=2, bias=False, batch_first=True, "
        "dropout=0.5, bidirectional=True, dtype='float64')"
    )


def test_dropout_with_one_layer_warns():
    with pytest.warns(UserWarning, match="between layers") as caught:
        RNN(2, 3, dropout=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RNN(2, 3, 2, dropout=0.5)


def test_the_forget_bias():
    for value in (0.0, 1.5, None):
        layer = LSTM(2, 3, 2, bidirectional=True, forget_bias=value, rng=0)
        drawn = LSTM(2, 3, 2, bidirectional=True, rng=0)
        for name, array in layer.params.items():
            expected = drawn.params[name].copy()
            if name.startswith("bias") and value is not None:
                expected[3:6] = value if name.startswith("bias_ih") else 0
            np.testing.assert_array_equal(array, expected)


X = np.zeros((4, 2, 3), np.float32)
PAIR = LSTM(3, 5, rng=0)
H_0 = np.zeros((1, 2, 5), np.float32)
LAYER = RNN(3, 5, 2, bidirectional=True, rng=0)
CACHE = LAYER.forward(X)[2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: RNN(0, 3), ValueError, ["input_size", "at least 1", "0"]),
        (lambda: RNN(2, -3), ValueError, ["hidden_size", "at least 1", "-3"]),
        (lambda: RNN(2.0, 3), TypeError, ["input_size", "integer", "2.0"]),
        (lambda: RNN(2, True), TypeError, ["hidden_size", "integer", "True"]),
        (lambda: RNN(2, 3, 0), ValueError, ["num_layers", "at least 1"]),
        (lambda: RNN(2, 3, 1, "sigmoid"), ValueError, ["nonlinearity", "'tanh'", "'sigmoid'"]),
        (lambda: RNN(2, 3, bias="yes"), TypeError, ["bias", "True or False", "'yes'"]),
        (lambda: RNN(2, 3, 2, dropout=1.0), ValueError, ["dropout", "[0, 1)", "1"]),
        (lambda: RNN(2, 3, 2, dropout=-0.1), ValueError, ["dropout", "[0, 1)", "-0.1"]),
        (lambda: RNN(2, 3, 2, dropout=float("nan")), ValueError, ["dropout", "nan"]),
        (lambda: RNN(2, 3, dtype=np.int32), TypeError, ["dtype", "float32", "int32"]),
        (lambda: RNN(2, 3, dtype="half"), TypeError, ["dtype", "float32", "float16"]),
        (lambda: RNN(2, 3, rng="x"), TypeError, ["rng", "Generator", "str"]),
        (lambda: RNN(2, 3, rng=-1), ValueError, ["rng", "at least 0"]),
        (lambda: LAYER(X[..., :2]), ValueError, ["x", "(T, B, I=3)", "(4, 2, 2)"]),
        (lambda: LAYER(X[None]), ValueError, ["x", "(T, B, I=3)", "(1, 4, 2, 3)"]),
        (lambda: LAYER(X[0, 0]), ValueError, ["x", "(T, I=3)", "(3,)"]),
        (lambda: LAYER(X[:0]), ValueError, ["x", "one time step", "(0, 2, 3)"]),
        (lambda: LAYER(X.astype(int)), ValueError, ["x", "(T, B) or (T,)", "(4, 2, 3)", "astype"]),
        (lambda: LAYER(X.astype(float)), TypeError, ["x", "float64", "float32", "x.astype"]),
        (lambda: LAYER(X.astype("f2")), TypeError, ["x", "float16"]),
        (lambda: LAYER(X > 0), TypeError, ["x", "bool"]),
        (lambda: LAYER("text"), TypeError, ["x", "numbers"]),
        (lambda: LAYER([[1], [2, 3]]), TypeError, ["x", "array", "list"]),
        (lambda: LAYER(np.full((4, 2), 3)), ValueError, ["x", "0 .. input_size-1 = 2", "3"]),
        (lambda: LAYER(np.full((4, 2), -1)), ValueError, ["x", "0 .. input_size-1 = 2", "-1"]),
        (lambda: LAYER(X, X), ValueError, ["state", "(L*D=4, B=2, H=5)", "(4, 2, 3)"]),
        (lambda: LAYER(X[:, 0], np.zeros((4, 1, 5), "f")), ValueError, ["state", "(L*D=4, H=5)"]),
        (lambda: LAYER(X, np.zeros((4, 2, 5))), TypeError, ["state", "float64", "float32"]),
        (lambda: LAYER(X, np.zeros((4, 2, 5), int)), TypeError, ["state", "int64"]),
        (lambda: PAIR(X, H_0), TypeError, ["state", "tuple of 2 arrays", "(h, c)", "(1, 2, 5)"]),
        (lambda: PAIR(X, (H_0,)), TypeError, ["state", "tuple of 2 arrays"]),
        (lambda: PAIR(X, (H_0, H_0[0])), ValueError, ["state[1]", "(L*D=1, B=2, H=5)", "(2, 5)"]),
        (lambda: PAIR(X, (H_0, H_0.astype(float))), TypeError, ["state[1]", "float64"]),
        (lambda: PAIR.backward(None, H_0, PAIR.forward(X)[2]), TypeError, ["d_state", "(h, c)"]),
        (lambda: PAIR.backward(None, None, CACHE), ValueError, ["cache", "(1, 1, 5, 4)"]),
        (lambda: LAYER(X, (H_0, H_0)), ValueError, ["state"]),
        (lambda: LSTM(2, 3, forget_bias="one"), TypeError, ["forget_bias", "real number"]),
        (lambda: LSTM(2, 3, bias=False, forget_bias=1), ValueError, ["forget_bias", "bias=True"]),
        (lambda: LAYER(X, lengths=[4]), ValueError, ["lengths", "(B=2,)", "(1,)"]),
        (lambda: LAYER(X, lengths=[4, 5]), ValueError, ["lengths", "0 .. T=4", "5"]),
        (lambda: LAYER(X, lengths=[-1, 4]), ValueError, ["lengths", "0 .. T=4", "-1"]),
        (lambda: LAYER(X, lengths=[4.0, 2.5]), TypeError, ["lengths", "integers", "float64"]),
        (lambda: LAYER(X[:, 0], lengths=[4]), ValueError, ["lengths", "batch"]),
        (lambda: LAYER.forward(X, rng=1.5), TypeError, ["rng", "Generator", "float"]),
        (
            lambda: LAYER.backward(X, None, CACHE),
            ValueError,
            ["d_output", "(4, 2, 10)", "(4, 2, 3)"],
        ),
        (lambda: LAYER.backward(None, X, CACHE), ValueError, ["d_state", "(L*D=4, B=2, H=5)"]),
        (lambda: LAYER.backward(None, None, X), TypeError, ["cache", "forward", "ndarray"]),
        (
            lambda: RNN(3, 4, 2).backward(None, None, CACHE),
            ValueError,
            ["cache", "(L, D, H, G) = (2, 1, 4, 1)", "(2, 2, 5, 1)"],
        ),
        (
            lambda: LAYER.backward(np.zeros((4, 2, 10)), None, CACHE),
            TypeError,
            ["d_output", "float64", "float32"],
        ),
        (
            lambda: RNN(2, 1).with_params({"weight_ih_l0": np.ones((1, 3)), "w": np.ones(1)}),
            ValueError,
            [
                "missing weight_hh_l0 (1, 1)",
                "missing bias_ih_l0 (1,)",
                "unexpected w",
                "weight_ih_l0 has shape (1, 3), expected (1, 2)",
            ],
        ),
        (lambda: RNN(2, 1).with_params([1]), TypeError, ["params", "dict", "list"]),
    ],
)
def test_wrong_arguments_get_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "layer",
    [
        RNN(1, 16, rng=1),
        RNN(1, 16, nonlinearity="relu", rng=1),
        GRU(1, 16, rng=1),
        LSTM(1, 16, rng=1),
    ],
    ids=repr,
)
def test_training_more_than_one_step_lowers_the_loss(layer):
    """Real values in and out: the next value of a sine."""
    rng = np.random.default_rng(0)
    t = np.arange(60)[:, None] * 0.3 + rng.uniform(0, 6, 8)
    x, y = np.sin(t[:-1, :, None]).astype("f"), np.sin(t[1:, :, None]).astype("f")
    readout = nprnn.Linear(16, 1, rng=2)
    optimizers = [nprnn.SGD(part.params, lr=0.1, momentum=0.5) for part in (layer, readout)]
    losses = []
    for _ in range(60):
        hidden, _, cache = layer.forward(x)
        guess, readout_cache = readout.forward(hidden)
        loss, d_guess = nprnn.mean_squared_error(guess, y)
        d_hidden, readout_grads = readout.backward(d_guess, readout_cache)
        _, _, grads = layer.backward(d_hidden, None, cache)
        nprnn.clip_grad_norm(grads, 1.0)
        for optimizer, gradients in zip(optimizers, (grads, readout_grads), strict=True):
            optimizer.step(gradients)
        losses.append(float(loss))
    assert losses[20] < losses[0]
    assert losses[-1] < 0.2 * losses[0]
