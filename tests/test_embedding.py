import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprnn import Embedding
from nprnn.gradcheck import check_gradients
from nprnn.testing import seeds


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.lists(st.integers(0, 3), max_size=3), seeds)
def test_rows_looked_up_and_their_gradient(V, E, shape, seed):
    rng = np.random.default_rng(seed)
    layer = Embedding(V, E, dtype=np.float64, rng=rng)
    ids = rng.integers(0, V, shape)
    vectors, cache = layer.forward(ids)
    assert vectors.shape == (*shape, E)
    for place in np.ndindex(*shape):
        np.testing.assert_array_equal(vectors[place], layer.params["weight"][ids[place]])
    d_vectors = rng.normal(size=vectors.shape)
    check_gradients(
        lambda p: (layer.with_params(p)(ids) * d_vectors).sum(),
        layer.params,
        layer.backward(d_vectors, cache),
        method="complex",
    )


@pytest.mark.parametrize("V", [5, 99, 100, 101, 3000])
def test_the_gradient_sums_by_class_however_many_there_are(V):
    """Few are summed by a product, many by sorting; classes that do not occur have 0."""
    rng = np.random.default_rng(0)
    layer = Embedding(V, 3, dtype=np.float64, rng=0)
    ids = rng.integers(0, max(2, V // 2), (20, 7))
    d_vectors = rng.normal(size=(20, 7, 3))
    expected = np.zeros((V, 3))
    for place in np.ndindex(20, 7):
        expected[ids[place]] += d_vectors[place]
    (gradient,) = layer.backward(d_vectors, layer.forward(ids)[1]).values()
    np.testing.assert_allclose(gradient, expected, atol=1e-13)


def test_drawn_from_a_normal_distribution():
    weight = Embedding(400, 50, rng=0).params["weight"]
    assert weight.dtype == np.float32
    assert weight.mean() == pytest.approx(0, abs=0.02)
    assert weight.std() == pytest.approx(1, abs=0.02)
    assert repr(Embedding(400, 50)) == "Embedding(400, 50)"


LAYER = Embedding(4, 2, rng=0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Embedding(0, 2), ValueError, ["num_embeddings", "at least 1"]),
        (lambda: Embedding(2, 1.5), TypeError, ["embedding_dim", "integer"]),
        (lambda: LAYER([4]), ValueError, ["ids", "num_embeddings-1 = 3", "4"]),
        (lambda: LAYER([-1]), ValueError, ["ids", "-1"]),
        (lambda: LAYER([1.0]), TypeError, ["ids", "integers"]),
        (lambda: LAYER.backward(np.ones((2, 3), "f"), np.array([1, 2])), ValueError, ["(2, 2)"]),
        (lambda: LAYER.backward(np.ones((2, 2)), np.array([1, 2])), TypeError, ["float64"]),
        (lambda: LAYER.with_params({"weight": np.ones((4, 3))}), ValueError, ["(4, 2)"]),
    ],
)
def test_wrong_arguments_get_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
