"""Weights in and out: to the bit, and to the same results in the networks of others."""

import itertools
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import GRU, LSTM, RNN, Linear, LSTMCell, RNNCell, interop, weights
from nprnn.testing import layer_options, seeds

H, I, V = 4, 3, 5  # noqa: E741
GATES = {RNN: 1, GRU: 3, LSTM: 4}
EVERY_KIND = pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)


def random_bits(rng, shape, dtype=np.float32):
    """Any numbers, infinities, subnormals and both zeros among them; no NaN, which has no sum."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = rng.integers(256, size=size, dtype=np.uint8).view(dtype).reshape(shape).copy()
    array[np.isnan(array)] = -np.inf
    array[rng.random(shape) < 0.2] = -0.0
    array[rng.random(shape) < 0.1] = 0.0
    return array


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for key, array in expected.items():
        assert actual[key].dtype == array.dtype, key
        assert actual[key].shape == array.shape, key
        assert actual[key].tobytes() == array.tobytes(), key


def refill(layer, rng, dtype=np.float32):
    return layer.with_params(
        {key: random_bits(rng, value.shape, dtype) for key, value in layer.params.items()}
    )


def state_dict(prefix="", num_layers=1, bidirectional=False, bias=True, dtype=np.float32, kind=RNN):
    layer = kind(I, H, num_layers, bias=bias, bidirectional=bidirectional, dtype=dtype, rng=0)
    return interop.to_state_dict(layer, prefix=prefix)


def assert_message(error, *words):
    message = str(error.value)
    for word in words:
        assert word in message
    assert "\n" not in message


# PyTorch's names


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(list(GATES)),
    layer_options(),
    st.sampled_from(["", "rnn.", "module.encoder.rnn_"]),
    seeds,
)
def test_a_state_dict_comes_back_to_the_bit(kind, options, prefix, seed):
    rng = np.random.default_rng(seed)
    dtype = rng.choice([np.float32, np.float64])
    drawn = options.pop("nonlinearity")
    nonlinearity = {"nonlinearity": drawn} if kind is RNN else {}
    layer = refill(kind(**options, **nonlinearity, rng=0), rng, dtype)
    others = {"decoder.weight": np.ones((2, 2), np.float16), "steps": 7} if prefix else {}
    loaded = interop.from_state_dict(
        {**others, **interop.to_state_dict(layer, prefix=prefix)},
        batch_first=options["batch_first"],
        dropout=options["dropout"],
        **nonlinearity,
    )
    assert type(loaded) is kind
    assert repr(loaded) == repr(layer)
    assert list(loaded.params) == list(layer.params)
    assert_same_bits(loaded.params, layer.params)


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array.tolist(),
    ],
    ids=["columns", "big-endian", "list"],
)
def test_any_layout_is_read_and_copied(layout):
    arrays = state_dict(dtype=np.float64)
    given = {key: layout(array) for key, array in arrays.items()}
    layer = interop.from_state_dict(given)
    assert_same_bits(layer.params, arrays)
    for key, value in layer.params.items():
        assert value.flags.c_contiguous
        assert value.flags.writeable
        assert value.dtype.isnative
        assert not np.shares_memory(value, np.asarray(given[key]))


@EVERY_KIND
def test_a_loaded_layer_runs_and_trains(kind):
    arrays = state_dict("rnn.", num_layers=2, bidirectional=True, dtype=np.float64, kind=kind)
    layer = interop.from_state_dict(arrays)
    original = kind(I, H, 2, bidirectional=True, rng=0, dtype=np.float64)
    x = np.random.default_rng(1).normal(size=(6, 2, I))
    output, _, cache = layer.forward(x)
    np.testing.assert_array_equal(output, original(x)[0])
    _, _, grads = layer.backward(output, None, cache)
    nprnn.SGD(layer.params, lr=0.1).step(grads)
    assert not np.array_equal(layer.params["weight_hh_l1"], arrays["rnn.weight_hh_l1"])


def test_a_prefix_chooses_between_layers():
    both = {**state_dict("encoder."), **state_dict("decoder.rnn.", num_layers=2)}
    with pytest.raises(ValueError, match="several") as error:
        interop.from_state_dict(both)
    assert_message(error, "prefix", "'encoder.'", "'decoder.rnn.'")
    assert interop.from_state_dict(both, prefix="encoder.").num_layers == 1
    assert interop.from_state_dict(both, prefix="decoder.rnn.").num_layers == 2


def test_every_fault_is_in_one_message():
    arrays = state_dict("rnn.", num_layers=2, bidirectional=True)
    del arrays["rnn.weight_hh_l1"], arrays["rnn.bias_ih_l0_reverse"]
    arrays["rnn.weight_hh_l0_g"] = np.ones(3)
    arrays["rnn.weight_ih_l1"] = np.ones((H, H), np.float32)
    arrays["rnn.bias_hh_l0"] = np.ones((1, H), np.float32)
    with pytest.raises(ValueError, match="the arrays of state_dict do not fit") as error:
        interop.from_state_dict(arrays)
    assert_message(
        error,
        f"missing rnn.weight_hh_l1 ({H}, {H})",
        f"missing rnn.bias_ih_l0_reverse ({H},)",
        "unexpected rnn.weight_hh_l0_g",
        f"rnn.weight_ih_l1 has shape ({H}, {H}), expected ({H}, {2 * H})",
        f"rnn.bias_hh_l0 has shape (1, {H}), expected ({H},)",
    )


def without(key, **options):
    return {k: v for k, v in state_dict(**options).items() if k != key}


def replaced(key, value, **options):
    return {**state_dict(**options), key: value}


@pytest.mark.parametrize(
    ("given", "options", "kind", "words"),
    [
        ({}, {}, ValueError, ["no key that ends in weight_ih_l0"]),
        (
            {"epoch": 1, "model": {}},
            {},
            ValueError,
            ["no key that ends in weight_ih_l0", "epoch, model"],
        ),
        (without("weight_ih_l0"), {}, ValueError, ["weight_ih_l0", "bias_ih_l0"]),
        (without("weight_hh_l0"), {}, ValueError, [f"missing weight_hh_l0 ({H}, {H})"]),
        (without("bias_ih_l0"), {}, ValueError, [f"missing bias_ih_l0 ({H},)"]),
        (replaced("fc.weight", np.eye(2)), {}, ValueError, ["unexpected fc.weight"]),
        (
            state_dict("rnn."),
            {"prefix": "rnn"},
            ValueError,
            ["'rnnweight_ih_l0'", "prefix", "'rnn.'"],
        ),
        (state_dict("rnn."), {"prefix": ""}, ValueError, ["'weight_ih_l0'", "'rnn.'"]),
        (state_dict("rnn."), {"prefix": 3}, ValueError, ["'3weight_ih_l0'", "'rnn.'"]),
        (
            replaced("weight_ih_l2", np.ones((H, H))),
            {},
            ValueError,
            ["missing weight_ih_l1", "unexpected weight_ih_l2"],
        ),
        (
            replaced("weight_ih_l99999999999999999999", np.ones((H, H))),
            {},
            ValueError,
            ["missing weight_ih_l1", "unexpected weight_ih_l99999999999999999999"],
        ),
        (
            replaced("weight_ih_l0", np.ones((10**6, 1), np.float32)),
            {},
            ValueError,
            ["weight_ih_l0 has shape (1000000, 1), expected (4, 1)"],
        ),
        (replaced("weight_ih_l0", np.ones(H)), {}, ValueError, ["weight_ih_l0", "matrix", "(4,)"]),
        (replaced("weight_ih_l0", np.ones((0, 3))), {}, ValueError, ["weight_ih_l0", "(0, 3)"]),
        (replaced("weight_hh_l0", np.ones(H)), {}, ValueError, ["weight_hh_l0", "matrix", "(4,)"]),
        (
            replaced("weight_hh_l0", np.ones((2 * H, H))),
            {},
            ValueError,
            [
                "weight_hh_l0 has 8 rows, the hidden size H is 4",
                "1*H for an RNN, 3*H for a GRU, 4*H for an LSTM",
            ],
        ),
        (
            replaced("weight_hh_l0", np.ones((10**6, 1), np.float32)),
            {},
            ValueError,
            ["weight_hh_l0 has 1000000 rows, the hidden size H is 1"],
        ),
        (
            replaced("weight_ih_l0", np.ones((H, I), np.float32), kind=LSTM),
            {},
            ValueError,
            ["weight_ih_l0 has shape (4, 3), expected (16, 3)"],
        ),
        (
            state_dict(kind=GRU),
            {"nonlinearity": "relu"},
            ValueError,
            ["nonlinearity belongs to an RNN", "the arrays to a GRU", "'relu'"],
        ),
        (
            state_dict(kind=LSTM),
            {"nonlinearity": "gelu"},
            ValueError,
            ["nonlinearity belongs to an RNN", "the arrays to an LSTM", "'gelu'"],
        ),
        (
            replaced("bias_hh_l0", np.ones(H)),
            {},
            ValueError,
            ["float32 and float64 are mixed"],
        ),
        (
            replaced("bias_hh_l0", np.ones(H, np.float16)),
            {},
            TypeError,
            ["bias_hh_l0", "float32 or float64", "float16", ".float()", ".astype('float32')"],
        ),
        (replaced("bias_hh_l0", np.ones(H, int)), {}, TypeError, ["bias_hh_l0", "int64"]),
        (replaced("bias_hh_l0", np.ones(H, complex)), {}, TypeError, ["bias_hh_l0", "complex128"]),
        (replaced("bias_hh_l0", ["a"] * H), {}, TypeError, ["bias_hh_l0", "<U1"]),
        (replaced("bias_hh_l0", [[1.0], [2.0, 3.0]]), {}, TypeError, ["bias_hh_l0", "array"]),
        (
            (state_dict(), {}),
            {},
            TypeError,
            ["state_dict", "tuple", "module.state_dict()", "nprnn.weights.load(path)[0]"],
        ),
        (RNN(I, H), {}, TypeError, ["state_dict", "RNN", "module.state_dict()"]),
        ({0: np.eye(2)}, {}, TypeError, ["state_dict must map names to arrays"]),
        (state_dict(), {"nonlinearity": "gelu"}, ValueError, ["nonlinearity", "'relu'", "'gelu'"]),
        (state_dict(), {"dropout": 1.0}, ValueError, ["dropout", "[0, 1)"]),
        (state_dict(), {"batch_first": "no"}, TypeError, ["batch_first"]),
    ],
)
def test_a_bad_state_dict_is_refused(given, options, kind, words):
    with pytest.raises(kind) as error:
        interop.from_state_dict(given, **options)
    assert_message(error, *words)


@EVERY_KIND
def test_the_shapes_tell_the_cell(kind):
    """Where I, H or both are 1, or rows and columns would fit several cells, too."""
    for input_size, hidden_size in ((I, H), (1, 1), (4 * H, H), (H, 3 * H)):
        layer = kind(input_size, hidden_size, 2, rng=0)
        assert repr(interop.from_state_dict(layer.params)) == repr(layer)
        layer = kind(input_size, hidden_size, rng=0)
        assert repr(interop.from_keras(interop.to_keras(layer))) == repr(layer)


def test_projections_are_refused():
    arrays = {
        "rnn.weight_ih_l0": np.ones((4 * H, I)),
        "rnn.weight_hh_l0": np.ones((4 * H, 2)),
        "rnn.weight_hr_l0": np.ones((2, H)),
    }
    with pytest.raises(ValueError, match="projections is not supported") as error:
        interop.from_state_dict(arrays)
    assert_message(error, "state_dict has rnn.weight_hr_l0")


def test_many_keys_are_not_all_listed():
    many = {f"part{i}.gain": np.ones(1) for i in range(1000)}
    with pytest.raises(ValueError, match="no key") as error:
        interop.from_state_dict(many)
    assert_message(error, "part19.gain and 980 more")
    assert len(str(error.value)) < 500


def test_dropout_on_one_layer_warns_as_ever():
    with pytest.warns(UserWarning, match="no effect"):
        interop.from_state_dict(state_dict(), dropout=0.5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_a_linear_layer_comes_back_to_the_bit(prefix, bias):
    layer = refill(Linear(H, V, bias), np.random.default_rng(0))
    others = state_dict("rnn.") if prefix else {}
    arrays = others | interop.to_state_dict(layer, prefix=prefix)
    loaded = interop.linear_from_state_dict(arrays, prefix=prefix)
    assert repr(loaded) == repr(layer)
    assert_same_bits(loaded.params, layer.params)
    assert not np.shares_memory(loaded.params["weight"], arrays[f"{prefix}weight"])


W = np.ones((V, H), np.float32)


@pytest.mark.parametrize(
    ("given", "prefix", "kind", "words"),
    [
        ({"fc.weight": W}, "fc", ValueError, ["'fcweight'", "'fc.'"]),
        ({"fc.bias": W}, "fc.", ValueError, ["no key that ends in weight", "fc.bias"]),
        ({"fc.weight": W[0]}, "fc.", ValueError, ["fc.weight", "matrix"]),
        (
            {"fc.weight": W, "fc.bias": W[0], "fc.gain": W},
            "fc.",
            ValueError,
            ["unexpected fc.gain", f"fc.bias has shape ({H},), expected ({V},)"],
        ),
        ({"fc.weight": W.astype(np.float16)}, "fc.", TypeError, ["fc.weight", "float16"]),
        ([W], "fc.", TypeError, ["state_dict", "list"]),
    ],
)
def test_a_bad_linear_layer_is_refused(given, prefix, kind, words):
    with pytest.raises(kind) as error:
        interop.linear_from_state_dict(given, prefix=prefix)
    assert_message(error, *words)


KINDS = {
    "RNN": RNN(I, H, 2, bidirectional=True, rng=0),
    "GRU": GRU(I, H, bias=False, rng=0),
    "LSTM": LSTM(I, H, 2, forget_bias=1.0, rng=0),
    "RNNCell": RNNCell(I, H, rng=0),
    "LSTMCell": LSTMCell(I, H, rng=0),
    "Linear": Linear(I, H, rng=0),
    "Embedding": nprnn.Embedding(V, I, rng=0),
    "LanguageModel": nprnn.LanguageModel(V, H, num_layers=2, rng=0),
    "embedded": nprnn.LanguageModel(V, H, cell="gru", embedding_size=I, rng=0),
    "tied": nprnn.LanguageModel(V, H, cell="lstm", embedding_size=H, tie_weights=True, rng=0),
    "SequenceClassifier": nprnn.SequenceClassifier(I, H, V, rng=0),
}


@pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS)
def test_a_state_dict_is_a_contiguous_copy(layer):
    layer = layer.with_params({k: np.asfortranarray(v) for k, v in layer.params.items()})
    arrays = interop.to_state_dict(layer, prefix="net.")
    assert_same_bits(arrays, {f"net.{key}": value for key, value in layer.params.items()})
    for key, value in layer.params.items():
        assert arrays[f"net.{key}"].flags.c_contiguous
        assert not np.shares_memory(arrays[f"net.{key}"], value)


@pytest.mark.parametrize("call", [interop.to_state_dict, lambda x: interop.save_params("x", x)])
def test_what_has_no_parameters_is_refused(call):
    for wrong in (None, {"weight": W}, RNN):
        with pytest.raises(TypeError, match="layer must be a layer or a model, got"):
            call(wrong)


# Files


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS)
def test_a_file_comes_back_to_the_bit(tmp_path, layer, dtype):
    filled = refill(layer, np.random.default_rng(0), dtype)
    before = {key: value.copy() for key, value in layer.params.items()}
    interop.save_params(tmp_path / "layer.safetensors", filled)
    loaded = interop.load_params(tmp_path / "layer.safetensors", layer)
    assert type(loaded) is type(layer)
    assert_same_bits(loaded.params, filled.params)
    assert_same_bits(layer.params, before)


def test_a_tied_matrix_is_saved_once_and_still_tied(tmp_path):
    model = KINDS["tied"]
    interop.save_params(tmp_path / "m.safetensors", model)
    arrays, _ = weights.load(tmp_path / "m.safetensors")
    assert "readout.weight" not in arrays
    other = nprnn.LanguageModel(V, H, cell="lstm", embedding_size=H, tie_weights=True, rng=1)
    loaded = interop.load_params(tmp_path / "m.safetensors", other)
    ids = np.array([[0, 1], [4, 2], [3, 3]])
    np.testing.assert_array_equal(loaded(ids)[0], model(ids)[0])
    assert loaded.readout.params["weight"] is loaded.params["embedding.weight"]
    untied = nprnn.LanguageModel(V, H, cell="lstm", embedding_size=H, rng=1)
    with pytest.raises(ValueError, match=r"missing readout\.weight"):
        interop.load_params(tmp_path / "m.safetensors", untied)


@pytest.mark.parametrize(
    "options", [{"nonlinearity": "relu"}, {"cell": "gru"}, {"cell": "lstm"}], ids=str
)
def test_a_file_gives_a_layer_of_unknown_size(tmp_path, options):
    model = nprnn.LanguageModel(V, H, num_layers=2, rng=0, **options)
    interop.save_params(tmp_path / "m.safetensors", model)
    arrays, _ = weights.load(tmp_path / "m.safetensors")
    layer = interop.from_state_dict(arrays, nonlinearity=options.get("nonlinearity", "tanh"))
    readout = interop.linear_from_state_dict(arrays, prefix="readout.")
    x = np.array([[0, 1], [4, 2]])
    np.testing.assert_array_equal(readout(layer(x)[0]), model(x)[0])


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    interop.save_params(path, nprnn.LanguageModel(V, H, rng=0))
    with pytest.raises(ValueError, match="do not fit") as error:
        interop.load_params(path, nprnn.LanguageModel(V + 1, H, num_layers=2))
    assert_message(
        error,
        str(path),
        "missing rnn.weight_ih_l1 (4, 4)",
        "readout.weight has shape (5, 4), expected (6, 4)",
    )
    with pytest.raises(ValueError, match=r"missing weight .*unexpected rnn\.weight_ih_l0"):
        interop.load_params(path, Linear(2, 2))
    weights.save(path, {"weight": np.ones((2, 2), np.float16), "bias": np.ones(2, np.float16)})
    with pytest.raises(TypeError, match=r"bias must be of float32 or float64.*float16"):
        interop.load_params(path, Linear(2, 2))


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(weights.WeightsFileError, match=r"safetensors\.torch\.save_file"):
        interop.load_params(tmp_path / "model.pt", Linear(2, 2))


# Keras


def simple_rnn(x, kernel, recurrent_kernel, bias, activation):
    """A Keras SimpleRNN by its definition: (B, T, I) -> (B, T, H)."""
    outputs = []
    h = np.zeros((x.shape[0], kernel.shape[1]))
    for t in range(x.shape[1]):
        h = activation(np.dot(x[:, t], kernel) + bias + np.dot(h, recurrent_kernel))
        outputs.append(h)
    return np.stack(outputs, axis=1)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def keras_gru(x, kernel, recurrent_kernel, bias):
    """A Keras GRU (reset_after=True) by its definition, gates z, r, h: (B, T, I) -> (B, T, H)."""
    outputs = []
    h = np.zeros((x.shape[0], recurrent_kernel.shape[0]))
    for t in range(x.shape[1]):
        x_z, x_r, x_h = np.split(np.dot(x[:, t], kernel) + bias[0], 3, axis=1)
        inner_z, inner_r, inner_h = np.split(np.dot(h, recurrent_kernel) + bias[1], 3, axis=1)
        z, r = sigmoid(x_z + inner_z), sigmoid(x_r + inner_r)
        h = z * h + (1 - z) * np.tanh(x_h + r * inner_h)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def keras_lstm(x, kernel, recurrent_kernel, bias):
    """A Keras LSTM by its definition, gates i, f, c, o: (B, T, I) -> (B, T, H)."""
    outputs = []
    h = c = np.zeros((x.shape[0], recurrent_kernel.shape[0]))
    for t in range(x.shape[1]):
        a = np.dot(x[:, t], kernel) + np.dot(h, recurrent_kernel) + bias
        a_i, a_f, a_c, a_o = np.split(a, 4, axis=1)
        c = sigmoid(a_f) * c + sigmoid(a_i) * np.tanh(a_c)
        h = sigmoid(a_o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def keras_shapes(kind, input_size, hidden_size, bias):
    columns = GATES[kind] * hidden_size
    bias_shape = (2, columns) if kind is GRU else (columns,)
    return [(input_size, columns), (hidden_size, columns), bias_shape][: 2 + bias]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "definition"), [(GRU, keras_gru), (LSTM, keras_lstm)])
def test_keras_gated_layers_give_the_same_output(kind, definition, bias):
    rng = np.random.default_rng(4)
    arrays = [rng.normal(size=shape) for shape in keras_shapes(kind, I, H, bias=True)]
    x = rng.normal(size=(2, 6, I))
    expected = definition(x, *arrays[:2], arrays[2] * bias)
    layer = interop.from_keras(arrays[: 2 + bias])
    assert (type(layer), layer.bias) == (kind, bias)
    output, _ = layer(x.swapaxes(0, 1))
    np.testing.assert_allclose(output.swapaxes(0, 1), expected, rtol=1e-12, atol=1e-12)
    if bias:  # a layer with two biases of its own goes out with what counts of them
        layer.params["bias_hh_l0"] = rng.normal(size=GATES[kind] * H)
        expected, _ = layer(x.swapaxes(0, 1))
        output = definition(x, *interop.to_keras(layer))
        np.testing.assert_allclose(output, expected.swapaxes(0, 1), rtol=1e-12, atol=1e-12)


ACTIVATIONS = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ACTIVATIONS)
def test_keras_layers_give_the_same_output(nonlinearity, bias):
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(I, H)), rng.normal(0, 0.4, (H, H)), rng.normal(size=H)]
    x = rng.normal(size=(2, 6, I))
    expected = simple_rnn(x, *arrays[:2], arrays[2] * bias, ACTIVATIONS[nonlinearity])
    layer = interop.from_keras(arrays[: 2 + bias], nonlinearity=nonlinearity)
    assert layer.bias is bias
    output, _ = layer(x.swapaxes(0, 1))
    np.testing.assert_allclose(output.swapaxes(0, 1), expected, rtol=1e-12, atol=1e-12)
    # A layer with two biases of its own goes out with their sum.
    if bias:
        layer.params["bias_hh_l0"] = rng.normal(size=H)
        expected, _ = layer(x.swapaxes(0, 1))
        output = simple_rnn(x, *interop.to_keras(layer), ACTIVATIONS[nonlinearity])
        np.testing.assert_allclose(output, expected.swapaxes(0, 1), rtol=1e-12, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(list(GATES)),
    seeds,
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_keras_arrays_come_back_to_the_bit(kind, seed, input_size, hidden_size, bias, double):
    rng = np.random.default_rng(seed)
    shapes = keras_shapes(kind, input_size, hidden_size, bias)
    arrays = [random_bits(rng, shape, np.float64 if double else np.float32) for shape in shapes]
    returned = interop.to_keras(interop.from_keras(arrays))
    assert_same_bits(dict(enumerate(returned)), dict(enumerate(arrays)))
    for array, copy in zip(arrays, returned, strict=True):
        assert copy.flags.c_contiguous
        assert not np.shares_memory(array, copy)


K, R, b = np.ones((I, H)), np.ones((H, H)), np.ones(H)


@pytest.mark.parametrize(
    ("arrays", "kind", "words"),
    [
        ([K], ValueError, ["kernel, recurrent_kernel", "got 1 arrays"]),
        ([K, R, b, K, R, b], ValueError, ["one direction", "got 6 arrays"]),
        ([b, R, b], ValueError, ["kernel", "matrix", "(4,)"]),
        (
            [K[:, :3], R, b[:2]],
            ValueError,
            ["kernel has shape (3, 3), expected (3, 4)", "bias has shape (2,), expected (4,)"],
        ),
        (
            [K, R[:, :3], b[:2]],
            ValueError,
            ["recurrent_kernel has 3 columns, the hidden size H is 4", "4*H for an LSTM"],
        ),
        ([K, b, b], ValueError, ["recurrent_kernel", "matrix", "(4,)"]),
        (
            [np.ones((I, 3 * H)), np.ones((H, 3 * H)), np.ones(3 * H)],
            ValueError,
            ["bias must have shape (2, 3*H = 12), got (12,)", "reset_after=False"],
        ),
        (
            [np.ones((I, 3 * H)), np.ones((H, 3 * H)), np.ones(6 * H)],
            ValueError,
            ["bias has shape (24,), expected (2, 12)"],
        ),
        (
            [np.ones((I, 4 * H)), np.ones((H, 4 * H)), np.ones((2, 4 * H))],
            ValueError,
            ["bias has shape (2, 16), expected (16,)"],
        ),
        ([K, R, b.astype(np.float16)], TypeError, ["bias", "float16"]),
        ([K, R, b.astype(np.float32)], ValueError, ["mixed"]),
    ],
)
def test_bad_keras_arrays_are_refused(arrays, kind, words):
    with pytest.raises(kind) as error:
        interop.from_keras(arrays)
    assert_message(error, *words)


def test_only_simple_layers_go_to_keras():
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        with pytest.raises(ValueError, match=r"one layer of one direction.*RNN\(3, 4, "):
            interop.to_keras(RNN(I, H, **options))
    with pytest.raises(ValueError, match=r"one layer of one direction.*LSTM\(3, 4, "):
        interop.to_keras(LSTM(I, H, 2))
    with pytest.raises(TypeError, match="layer must be an RNN, GRU or LSTM, got Linear"):
        interop.to_keras(Linear(I, H))
    with pytest.raises(ValueError, match="nonlinearity must be one of"):
        interop.from_keras([K, R, b], nonlinearity="sigmoid")
    with pytest.raises(ValueError, match="nonlinearity belongs to an RNN, the arrays to a GRU"):
        interop.from_keras([np.ones((I, 3 * H)), np.ones((H, 3 * H))], nonlinearity="relu")


# The chapter


def chapter_arrays(rng, draw=None, dtype=np.float64):
    draw = draw or (lambda shape: rng.normal(0, 0.6, shape).astype(dtype))
    shapes = {"W_xh": (V, H), "W_hh": (H, H), "b_h": (H,), "W_hq": (H, V), "b_q": (V,)}
    return {key: draw(shape) for key, shape in shapes.items()}


def test_the_chapter_gives_the_same_logits():
    rng = np.random.default_rng(5)
    p = chapter_arrays(rng)
    model = interop.from_chapter(**p)
    ids, state = rng.integers(0, V, (6, 2)), rng.normal(size=(1, 2, H))
    h, expected = state[0], []
    for x in nprnn.one_hot(ids, V, np.float64):
        h = np.tanh(x @ p["W_xh"] + h @ p["W_hh"] + p["b_h"])
        expected.append(h @ p["W_hq"] + p["b_q"])
    logits, final = model(ids, state)
    np.testing.assert_allclose(logits, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(final[0], h, rtol=1e-12, atol=1e-12)
    # After training both biases have moved; the chapter has their sum.
    model.params["rnn.bias_hh_l0"] += 0.3
    np.testing.assert_array_equal(interop.to_chapter(model)["b_h"], p["b_h"] + 0.3)


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([np.float32, np.float64]))
def test_the_chapters_arrays_come_back_to_the_bit(seed, dtype):
    rng = np.random.default_rng(seed)
    arrays = chapter_arrays(rng, lambda shape: random_bits(rng, shape, dtype))
    model = interop.from_chapter(**arrays)
    assert isinstance(model, nprnn.LanguageModel)
    assert (model.params["rnn.bias_hh_l0"] == 0).all()
    returned = interop.to_chapter(model)
    assert_same_bits(returned, arrays)
    for key, array in returned.items():
        assert array.flags.c_contiguous
        assert not np.shares_memory(array, arrays[key])
        for owned in model.params.values():
            assert not np.shares_memory(array, owned)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"W_xh": np.ones(3)}, ValueError, ["W_xh", "matrix", "(3,)"]),
        (
            {"W_hh": np.ones((H, V)), "W_hq": np.ones((V, H))},
            ValueError,
            ["W_hh has shape (4, 5), expected (4, 4)", "W_hq has shape (5, 4), expected (4, 5)"],
        ),
        ({"b_h": np.ones(V)}, ValueError, ["b_h has shape (5,), expected (4,)"]),
        ({"b_q": np.ones(V, np.float16)}, TypeError, ["b_q", "float16"]),
    ],
)
def test_bad_chapter_arrays_are_refused(changes, kind, words):
    with pytest.raises(kind) as error:
        interop.from_chapter(**{**chapter_arrays(np.random.default_rng(0)), **changes})
    assert_message(error, *words)


def test_only_the_chapters_network_goes_back():
    for model, word in (
        (nprnn.LanguageModel(V, H, num_layers=2), "one layer"),
        (nprnn.SequenceTagger(I, H, V, bidirectional=True), "one direction"),
        (nprnn.LanguageModel(V, H, nonlinearity="relu"), "tanh"),
        (nprnn.LanguageModel(V, H, cell="gru"), r"cell 'rnn'.*got GRU\(5, 4\)"),
        (nprnn.LanguageModel(V, H, cell="lstm"), r"cell 'rnn'.*got LSTM\(5, 4\)"),
        (nprnn.LanguageModel(V, H, embedding_size=V), "embedding"),
    ):
        with pytest.raises(ValueError, match=word):
            interop.to_chapter(model)
    with pytest.raises(TypeError, match="model must be a model, such as LanguageModel; got RNN"):
        interop.to_chapter(RNN(I, H))


# ONNX


@pytest.fixture
def session(tmp_path):
    """A function that exports a layer and opens the file in onnxruntime."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")

    def open_session(layer, **options):
        interop.to_onnx(layer, tmp_path / "layer.onnx", **options)
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = 1
        return runtime.InferenceSession(tmp_path / "layer.onnx", settings)

    return open_session


def assert_runs_alike(session, layer, name, x, lengths=None):
    """The graph and the layer give the same output and final state, from an initial state."""
    rnn = getattr(layer, "rnn", layer)
    B = x.shape[0 if rnn.batch_first else 1]
    shape = (rnn.num_layers * rnn.num_directions, B, rnn.hidden_size)
    rng = np.random.default_rng(B)
    names = ["state_h", "state_c"] if isinstance(rnn, LSTM) else ["state"]
    feed = {name: x} | {key: rng.normal(size=shape).astype(np.float32) for key in names}
    state = tuple(feed[key] for key in names)
    feed |= {} if lengths is None else {"lengths": lengths}
    assert [value.name for value in session.get_inputs()] == list(feed)
    assert [value.name for value in session.get_outputs()[1:]] == [f"final_{key}" for key in names]
    expected, final = layer(x, state if len(names) == 2 else state[0], lengths=lengths)
    computed = session.run(None, feed)
    for ours, theirs in zip(
        [expected, *(final if len(names) == 2 else [final])], computed, strict=True
    ):
        assert theirs.dtype == np.float32
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)


def drawn(layer, seed=0):
    """The same layer over numbers far from what it starts with, biases not the least of them."""
    rng = np.random.default_rng(seed)
    return layer.with_params(
        {k: rng.normal(0, 0.6, v.shape).astype(np.float32) for k, v in layer.params.items()}
    )


def inputs(rng, T, lengths, batch_first=False):
    """Return x, NaN in the padding, and the lengths, zeros among them."""
    x = rng.normal(size=(T, len(lengths), I)).astype(np.float32)
    x[np.arange(T)[:, None] >= lengths] = np.nan
    return x.swapaxes(0, 1).copy() if batch_first else x


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(RNN, {"nonlinearity": "tanh"}), (RNN, {"nonlinearity": "relu"}), (GRU, {}), (LSTM, {})],
)
@pytest.mark.parametrize("bias", [True, False])
def test_an_onnx_graph_gives_the_same_output(
    session, num_layers, bidirectional, kind, options, bias
):
    rng = np.random.default_rng(0)
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": bias, **options}
    for batch_first in (False, True):
        layer = drawn(kind(I, H, batch_first=batch_first, **options, rng=rng))
        plain, ragged = session(layer), session(layer, lengths=True)
        for T, B in ((6, 3), (1, 1), (9, 2)):  # the same graph for all sizes
            x = inputs(rng, T, np.full(B, T), batch_first)
            assert_runs_alike(plain, layer, "x", x)
        for lengths in ([2, 6, 0, 1], [0], [5, 5]):
            x = inputs(rng, 6, np.array(lengths), batch_first)
            assert_runs_alike(ragged, layer, "x", x, np.array(lengths))


def test_an_onnx_language_model_reads_ids(session):
    model = nprnn.LanguageModel(V, H, num_layers=2, nonlinearity="relu", rng=0)
    rng = np.random.default_rng(1)
    plain, ragged = session(model), session(model, lengths=True)
    assert [(i.name, i.type, i.shape) for i in ragged.get_inputs()] == [
        ("ids", "tensor(int64)", ["T", "B"]),
        ("state", "tensor(float)", [2, "B", H]),
        ("lengths", "tensor(int64)", ["B"]),
    ]
    assert [(o.name, o.shape) for o in ragged.get_outputs()] == [
        ("logits", ["T", "B", V]),
        ("final_state", [2, "B", H]),
    ]
    for T, B in ((7, 3), (1, 1)):
        assert_runs_alike(plain, model, "ids", rng.integers(0, V, (T, B)))
    assert_runs_alike(ragged, model, "ids", rng.integers(0, V, (7, 3)), np.array([7, 0, 3]))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"embedding_size": I}, {"embedding_size": H, "tie_weights": True}], ids=str
)
def test_an_onnx_language_model_of_any_kind(session, tmp_path, cell, num_layers, options):
    model = nprnn.LanguageModel(V, H, num_layers=num_layers, cell=cell, **options)
    model = drawn(model, num_layers)
    rng = np.random.default_rng(1)
    plain, ragged = session(model), session(model, lengths=True)
    for T, B in ((7, 3), (1, 1)):
        assert_runs_alike(plain, model, "ids", rng.integers(0, V, (T, B)))
    assert_runs_alike(ragged, model, "ids", rng.integers(0, V, (7, 3)), np.array([7, 0, 3]))
    onnx = pytest.importorskip("onnx")
    names = {array.name for array in onnx.load(tmp_path / "layer.onnx").graph.initializer}
    assert ("W_embedding" in names) is ("embedding_size" in options)
    assert ("W_readout" in names) is ("tie_weights" not in options)  # one array in two places


def test_states_go_round_in_onnx(session):
    """A sequence in two windows, the states carried over, is the sequence."""
    model = drawn(nprnn.LanguageModel(V, H, num_layers=2, cell="lstm"))
    run = session(model).run
    ids = np.random.default_rng(1).integers(0, V, (8, 2))
    h = c = np.zeros((2, 2, H), np.float32)
    pieces = []
    for window in np.split(ids, 2):
        logits, h, c = run(None, {"ids": window, "state_h": h, "state_c": c})
        pieces.append(logits)
    expected, (h_T, c_T) = model(ids)
    for actual, ours in ((np.concatenate(pieces), expected), (h, h_T), (c, c_T)):
        np.testing.assert_allclose(actual, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (nprnn.SequenceTagger, {}, "logits"),
        (nprnn.SequenceRegressor, {}, "output"),
        (nprnn.SequenceClassifier, {"pool": "last"}, "logits"),
        (nprnn.SequenceClassifier, {"pool": "mean"}, "logits"),
    ],
)
def test_other_models_go_to_onnx(session, kind, options, name, bidirectional, cell):
    rng = np.random.default_rng(2)
    model = drawn(kind(I, H, V, num_layers=2, cell=cell, bidirectional=bidirectional, **options))
    plain, ragged = session(model), session(model, lengths=True)
    states = ["final_state_h", "final_state_c"] if cell == "lstm" else ["final_state"]
    assert [value.name for value in plain.get_outputs()] == [name, *states]
    assert_runs_alike(plain, model, "x", inputs(rng, 5, np.full(3, 5)))
    lengths = np.array([3, 0, 5])
    assert_runs_alike(ragged, model, "x", inputs(rng, 5, lengths), lengths)


@EVERY_KIND
def test_the_onnx_graph_is_of_recurrent_nodes(tmp_path, kind):
    onnx = pytest.importorskip("onnx")
    interop.to_onnx(kind(I, H, 3, bidirectional=True, rng=0), str(tmp_path / "a.onnx"))
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 22)
    assert [node.op_type for node in model.graph.node].count(kind.__name__) == 3


def test_what_onnx_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(TypeError, match=r"float32 parameters, got float64.*astype\('float32'\)"):
        interop.to_onnx(RNN(I, H, dtype=np.float64), path)
    sentence = "layer must be an RNN, GRU or LSTM, or a model with one; got Linear"
    with pytest.raises(TypeError, match=sentence):
        interop.to_onnx(Linear(I, H), path)
    assert not path.exists()


def test_a_missing_onnx_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="pip install onnx"):
        interop.to_onnx(RNN(I, H), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_lengths_are_a_choice(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(TypeError, match="lengths must be True or False"):
        interop.to_onnx(RNN(I, H), tmp_path / "a.onnx", lengths=[3, 2])


# PyTorch itself


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


OPTIONS = [
    dict(
        zip(("num_layers", "nonlinearity", "bias", "batch_first", "bidirectional"), v, strict=True)
    )
    for v in itertools.product(
        [1, 3], ["tanh", "relu"], [True, False], [True, False], [True, False]
    )
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_a_torch_layer_and_back(torch, options):
    torch.manual_seed(0)
    theirs = torch.nn.RNN(I, H, **options).double()
    settings = {key: options[key] for key in ("nonlinearity", "batch_first")}
    ours = interop.from_state_dict(theirs.state_dict(), **settings)
    x = np.random.default_rng(0).normal(size=(5, 2, I))
    with torch.no_grad():
        expected, expected_state = theirs(torch.from_numpy(x))
    output, state = ours(x)
    np.testing.assert_allclose(output, expected.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state, expected_state.numpy(), rtol=1e-12, atol=1e-12)
    again = torch.nn.RNN(I, H, **options).double()
    arrays = interop.to_state_dict(ours)
    again.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


def users_module(torch, layer):
    class CharRNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(V, I)
            self.rnn = layer
            self.decoder = torch.nn.Linear(H, V)

        def forward(self, ids):
            return self.decoder(self.rnn(self.embedding(ids))[0])

    return CharRNN()


@EVERY_KIND
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_module_of_a_user(torch, tmp_path, wrapped, kind):
    torch.manual_seed(0)
    module = users_module(torch, getattr(torch.nn, kind.__name__)(I, H, 2))
    outer = torch.nn.DataParallel(module) if wrapped else module
    prefix = "module." if wrapped else ""
    arrays = {key: tensor.numpy() for key, tensor in outer.state_dict().items()}
    weights.save(tmp_path / "m.safetensors", arrays)
    arrays, _ = weights.load(tmp_path / "m.safetensors")
    for source in (outer.state_dict(), arrays):
        layer = interop.from_state_dict(source)
        readout = interop.linear_from_state_dict(source, prefix=f"{prefix}decoder.")
        ids = np.random.default_rng(0).integers(0, V, (6, 2))
        vectors = np.asarray(source[f"{prefix}embedding.weight"])[ids]
        with torch.no_grad():
            expected = module(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(readout(layer(vectors)[0]), expected, rtol=1e-5, atol=1e-6)


def test_a_torch_layer_is_not_shared(torch):
    theirs = torch.nn.RNN(I, H)
    ours = interop.from_state_dict(theirs.state_dict())
    before = theirs.weight_ih_l0.detach().clone()
    ours.params["weight_ih_l0"] += 1
    assert torch.equal(theirs.weight_ih_l0, before)


def test_tensors_that_cannot_be_read_are_explained(torch):
    theirs = torch.nn.RNN(I, H)
    with pytest.raises(TypeError, match=r"weight_ih_l0 cannot be read.*\.detach\(\)"):
        interop.from_state_dict(dict(theirs.named_parameters()))
    with pytest.raises(TypeError, match=r"weight_ih_l0 cannot be read.*BFloat16.*\.float\(\)"):
        interop.from_state_dict(theirs.bfloat16().state_dict())
    with pytest.raises(TypeError, match=r"weight_ih_l0 must be of float32.*float16.*\.float\(\)"):
        interop.from_state_dict(theirs.half().state_dict())
    with pytest.raises(TypeError, match=r"got RNN: pass module\.state_dict\(\)"):
        interop.from_state_dict(theirs)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_torch_projections_are_refused(torch, bidirectional):
    theirs = torch.nn.LSTM(I, H, 2, proj_size=2, bidirectional=bidirectional)
    with pytest.raises(ValueError, match=r"rnn\.weight_hr_l0: an LSTM with projections is not"):
        interop.from_state_dict(users_module(torch, theirs).state_dict())


def test_weight_normalisation_is_listed(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.utils.weight_norm(torch.nn.RNN(I, H), "weight_hh_l0")
    with pytest.raises(ValueError, match=r"missing weight_hh_l0 .*unexpected weight_hh_l0_g"):
        interop.from_state_dict(theirs.state_dict())


# The example

SCRIPT = Path(__file__).parents[1] / "examples" / "from_pytorch.py"
in_a_checkout = pytest.mark.skipif(not SCRIPT.exists(), reason="runs in a checkout")


def run_example(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(nprnn.__file__).parents[1])}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=environment, timeout=120
    )


@in_a_checkout
def test_the_example_runs_a_torch_module(torch):
    result = run_example()
    assert result.returncode == 0, result.stderr
    for kind in GATES:
        assert f"{kind.__name__}: logits (12, 4, 30), largest difference from" in result.stdout


@in_a_checkout
def test_the_example_describes_a_file(tmp_path):
    path = tmp_path / "m.safetensors"
    interop.save_params(path, nprnn.LanguageModel(V, H, num_layers=2, rng=0))
    result = run_example(path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "RNN(5, 4, num_layers=2)\noutput (5, 1, 4), state (2, 1, 4)\n"
    interop.save_params(path, LSTM(I, H, rng=0))
    result = run_example(path)
    assert result.stdout == "LSTM(3, 4)\noutput (5, 1, 4), h (1, 1, 4), c (1, 1, 4)\n"
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    result = run_example(path)
    assert result.returncode == 1
    assert "safetensors.torch.save_file" in result.stderr
    assert "Traceback" not in result.stderr
