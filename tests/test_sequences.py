import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprnn import RNN, last_output, pad_sequences, unpad_sequences
from nprnn.testing import cases, seeds


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from(["f4", "f8", "i8", "u1"]),
    st.booleans(),
    seeds,
)
def test_padding_and_back(lengths, rest, dtype, batch_first, seed):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, 100, (n, *rest)).astype(dtype) for n in lengths]
    padded, sizes = pad_sequences(sequences, batch_first=batch_first)
    assert sizes.tolist() == lengths
    T, B = max(lengths), len(lengths)
    assert padded.shape == ((B, T, *rest) if batch_first else (T, B, *rest))
    assert padded.dtype == np.dtype(dtype)
    assert padded.flags.c_contiguous
    assert np.count_nonzero(padded) == sum(sequence.size for sequence in sequences)
    back = unpad_sequences(padded, sizes, batch_first=batch_first)
    for before, after in zip(sequences, back, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
        assert not np.shares_memory(padded, after)


def test_empty_lists_take_part_in_a_batch():
    padded, lengths = pad_sequences([[], [[1.0, 2.0]]])
    assert padded.tolist() == [[[0, 0], [1, 2]]]
    assert lengths.tolist() == [0, 1]


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_last_output_is_the_final_state_of_the_top_layer(case):
    layer = case.layer
    case.dropout_seed = None
    output, state, _ = case.forward()
    last = last_output(output, case.lengths, layer.bidirectional, batch_first=layer.batch_first)
    h = state[0] if isinstance(state, tuple) else state
    expected = np.concatenate(list(h[-layer.num_directions :]), axis=-1)
    if case.lengths is not None:
        expected[case.lengths == 0] = 0
    np.testing.assert_array_equal(last, expected)


def test_all_layers_on_request():
    rng = np.random.default_rng(0)
    layer = RNN(3, 4, 3, bidirectional=True, batch_first=True, dtype=np.float64, rng=rng)
    x, lengths = rng.normal(size=(2, 5, 3)), [5, 2]
    outputs, state = layer.layer_outputs(x, lengths=lengths)
    expected, expected_state = layer(x, lengths=lengths)
    assert outputs.shape == (3, 2, 5, 8)
    np.testing.assert_array_equal(outputs[-1], expected)
    np.testing.assert_array_equal(state, expected_state)
    below = RNN(3, 4, 1, bidirectional=True, batch_first=True).with_params(
        {k: v for k, v in layer.params.items() if "l0" in k}
    )
    np.testing.assert_array_equal(outputs[0], below(x, lengths=lengths)[0])
    assert layer.layer_outputs(x[0])[0].shape == (3, 5, 8)


Z = np.zeros((4, 2, 6))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pad_sequences([]), ValueError, ["sequences", "at least one"]),
        (lambda: pad_sequences([1, 2]), ValueError, ["sequences[0]", "(length,)", "()"]),
        (lambda: pad_sequences([[1], [[2]]]), ValueError, ["sequences[1]", "(length,)", "(1, 1)"]),
        (
            lambda: pad_sequences([np.ones((2, 3)), np.ones((2, 4))]),
            ValueError,
            ["sequences[1]", "(length, 3)", "(2, 4)"],
        ),
        (lambda: pad_sequences([[1], [2.0]]), TypeError, ["sequences[1]", "int64", "float64"]),
        (lambda: pad_sequences(["ab"]), TypeError, ["sequences[0]", "numbers"]),
        (lambda: unpad_sequences(Z[:, 0, 0], [1]), ValueError, ["padded", "(T, B, ...)"]),
        (lambda: unpad_sequences(Z, [1]), ValueError, ["lengths", "(B=2,)"]),
        (lambda: unpad_sequences(Z, [1, 5]), ValueError, ["lengths", "0 .. T=4", "5"]),
        (lambda: unpad_sequences(Z, [1.0, 2.0]), TypeError, ["lengths", "integers"]),
        (lambda: last_output(Z[0]), ValueError, ["output", "(T, B, D*H)"]),
        (lambda: last_output(Z, [5, 1]), ValueError, ["lengths", "0 .. T=4"]),
        (lambda: last_output(Z[..., :5], None, True), ValueError, ["output", "even", "5"]),
        (lambda: last_output(Z, None, "yes"), TypeError, ["bidirectional", "'yes'"]),
        (lambda: last_output(Z[:0]), ValueError, ["output", "one time step"]),
    ],
)
def test_wrong_arguments_get_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
