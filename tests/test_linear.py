import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprnn import Linear, blas
from nprnn.gradcheck import check_gradients
from nprnn.testing import seeds


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    seeds,
)
def test_linear_is_a_matrix_product_with_the_right_gradients(shape, size, classes, bias, seed):
    rng = np.random.default_rng(seed)
    layer = Linear(size, classes, bias, dtype=np.float64, rng=rng)
    x = rng.normal(size=(*shape, size))
    upstream = rng.normal(size=(*shape, classes))
    y, cache = layer.forward(x)
    expected = np.einsum("vh,...h->...v", layer.params["weight"], x) + layer.params.get("bias", 0)
    np.testing.assert_allclose(y, expected, atol=1e-13)
    np.testing.assert_array_equal(layer(x), y)
    d_x, grads = layer.backward(upstream, cache)

    def loss(p):
        return (layer.with_params({k: p[k] for k in grads})(p["x"]) * upstream).sum()

    for method in ("central", "complex"):
        check_gradients(loss, {**layer.params, "x": x}, {**grads, "x": d_x}, method=method)


@pytest.mark.parametrize("classes", [2, 63, 64, 130])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2)])
def test_linear_is_the_same_however_its_input_lies_in_memory(classes, axes):
    rng = np.random.default_rng(classes)
    layer = Linear(70, classes, dtype=np.float64, rng=rng)
    plain, upstream = rng.normal(size=(4, 3, 70)), rng.normal(size=(4, 3, classes))

    def moved(array):
        return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))

    y, cache = layer.forward(moved(plain))
    weight = layer.params["weight"]
    np.testing.assert_allclose(y, plain @ weight.T + layer.params["bias"], rtol=0, atol=1e-13)
    d_x, grads = layer.backward(moved(upstream), cache)
    np.testing.assert_allclose(d_x, upstream @ weight, rtol=0, atol=1e-13)
    expected = np.einsum("tbv,tbh->vh", upstream, plain)
    np.testing.assert_allclose(grads["weight"], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(grads["bias"], upstream.sum((0, 1)), rtol=0, atol=1e-13)
    assert grads["weight"].flags.c_contiguous


def test_linear_is_drawn_as_in_pytorch_and_stays_single():
    layer = Linear(400, 30, rng=0)
    assert {name: value.shape for name, value in layer.params.items()} == {
        "weight": (30, 400),
        "bias": (30,),
    }
    for value in layer.params.values():
        assert value.dtype == np.float32
        assert np.abs(value).max() <= 1 / 20
    y, cache = layer.forward(np.ones((2, 400), np.float32))
    d_x, grads = layer.backward(y, cache)
    assert {y.dtype, d_x.dtype, grads["weight"].dtype, grads["bias"].dtype} == {y.dtype}
    assert y.dtype == np.float32
    assert repr(layer) == "Linear(400, 30)"
    assert repr(Linear(2, 3, bias=False)) == "Linear(2, 3, bias=False)"


LAYER = Linear(3, 2, rng=0)
CACHE = LAYER.forward(np.zeros((4, 3), np.float32))[1]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Linear(0, 1), ValueError, ["in_features", "at least 1"]),
        (lambda: Linear(1, "2"), TypeError, ["out_features", "integer", "'2'"]),
        (lambda: LAYER(np.zeros((4, 2), "f")), ValueError, ["x", "in_features=3", "(4, 2)"]),
        (lambda: LAYER(np.float32(1)), ValueError, ["x", "in_features=3", "()"]),
        (lambda: LAYER(np.zeros((4, 3))), TypeError, ["x", "float64", "float32"]),
        (lambda: LAYER(np.zeros((4, 3), int)), TypeError, ["x", "int64"]),
        (lambda: LAYER.backward(np.zeros((4, 3), "f"), CACHE), ValueError, ["d_y", "(4, 2)"]),
        (lambda: LAYER.backward(np.zeros((4, 2)), CACHE), TypeError, ["d_y", "float64"]),
        (lambda: LAYER.with_params({}), ValueError, ["missing weight (2, 3)", "missing bias"]),
        (
            lambda: LAYER.with_params({"weight": np.ones((2, 3)), "bias": np.ones(2, "f")}),
            ValueError,
            ["float32 and float64 are mixed"],
        ),
    ],
)
def test_linear_refuses(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("core", ["SkylakeX", "Haswell"])
@pytest.mark.parametrize("V", [5, 28, 100, 300])
def test_steps_in_columns_are_read_out_as_any_others(V, core, monkeypatch):
    """Whatever the layout of what comes in, and the kernels of the library that multiplies."""
    monkeypatch.setattr(blas, "openblas", lambda: blas.OpenBLAS(core, lambda: 1))
    T, B, H = 9, 32, 128
    rng = np.random.default_rng(V)
    layer = Linear(H, V, dtype=np.float64, rng=rng)
    x, d_y = rng.normal(size=(T, B, H)), rng.normal(size=(T, B, V))
    W, b = layer.params["weight"], layer.params["bias"]
    steps = np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)
    classes = np.ascontiguousarray(d_y.transpose(2, 0, 1)).transpose(1, 2, 0)
    for laid in (x, steps):
        y, cache = layer.forward(laid)
        np.testing.assert_allclose(y, x @ W.T + b, rtol=1e-12, atol=1e-12)
        for d_laid in (d_y, classes):
            d_x, grads = layer.backward(d_laid, cache)
            np.testing.assert_allclose(d_x, d_y @ W, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                grads["weight"], np.einsum("tbv,tbh->vh", d_y, x), rtol=1e-11, atol=1e-11
            )
            np.testing.assert_allclose(grads["bias"], d_y.sum((0, 1)), rtol=1e-11, atol=1e-11)
