"""Products of a step: every way to ask for one gives the same numbers."""

import numpy as np
import pytest

from nprnn import GRU, LSTM, RNN, LanguageModel, blas
from nprnn.blas import OpenBLAS, for_columns, multiply_steps, product
from nprnn.layout import empty, empty_like, exchanged, on_cache_lines, transposed, turned

KERNELS = {
    "small": OpenBLAS("SkylakeX", lambda: 1),
    "small, two threads": OpenBLAS("Cooperlake", lambda: 2),
    "none": OpenBLAS("Haswell", lambda: 1),
    "another library": OpenBLAS("", lambda: 1),
}
SIDES = [(96, 128), (100, 300), (512, 128), (128, 512), (331, 97), (3, 2)]  # of W


@pytest.fixture(params=KERNELS)
def library(request, monkeypatch):
    """Let the package believe that this is what NumPy brings."""
    monkeypatch.setattr(blas, "openblas", lambda: KERNELS[request.param])
    return request.param


@pytest.mark.parametrize("times", [1, 50])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("M", "K"), SIDES)
def test_a_product_is_one_however_it_is_asked_for(library, M, K, turned, times):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(M, K))
    W = np.asfortranarray(W) if turned else W
    for n in (0, 1, 2, 8, 16, 31, 32, 48, 50, 60, 64, 65, 96, 100, 128):
        x, out = rng.normal(size=(K, n)), np.full((M, n), np.nan)
        multiply, form, room = product(W, out, times)
        multiply(form, x, room)
        np.testing.assert_allclose(out, W @ x, atol=1e-12)
        if n:
            columns = np.asfortranarray(x[:, : n // 2 + 1])
            found = np.matmul(for_columns(W, n, times), columns).reshape(M, -1)
            np.testing.assert_allclose(found, W @ columns, atol=1e-12)


def test_blocks_are_for_large_products_of_few_columns_where_there_are_kernels(library):
    W = np.ones((512, 512), np.float32)

    def ways(n, times=35):
        return [len(np.shape(product(form, np.empty((512, n)), times).W)) for form in (W, W.T)]

    in_blocks = {"small": [3, 3], "small, two threads": [2, 2]}.get(library, [2, 2])
    assert ways(32) == in_blocks
    assert ways(8) == ([3, 3] if library.startswith("small") else [2, 2])
    assert ways(1) == ways(2) == ways(200) == [2, 2]
    assert ways(16, times=1) == [2, 2]  # no copy for a single step
    moved = product(W, np.empty((512, 50)), 35).multiply is blas._move_and_multiply
    assert moved == (library == "small")


@pytest.mark.parametrize("turned_W", [False, True])
@pytest.mark.parametrize(("M", "K", "B"), [(28, 300, 32), (96, 400, 50), (64, 600, 64), (7, 5, 3)])
def test_all_steps_are_multiplied_at_once(library, M, K, B, turned_W):
    rng = np.random.default_rng(0)
    W, steps = rng.normal(size=(M, K)), rng.normal(size=(9, K, B))
    W = np.asfortranarray(W) if turned_W else W
    expected = np.einsum("mk,tkb->tmb", W, steps)
    for out in (np.empty((9, M, B)), np.empty((M, 9, B)).swapaxes(0, 1)):
        out[...] = np.nan
        if multiply_steps(W, steps, out):
            np.testing.assert_allclose(out, expected, atol=1e-12)
        else:
            assert np.isnan(out).all()
            assert library != "small"


def test_steps_that_would_be_arranged_anew_are_left_to_one_product_over_all_rows(library):
    W, steps = np.ones((28, 300)), np.ones((9, 300, 32))
    rows = np.ones((9, 32, 300)).swapaxes(1, 2)  # a sequence in one piece
    assert not multiply_steps(W, rows, np.empty((9, 28, 32)))
    assert not multiply_steps(W, steps[:1], np.empty((1, 28, 32)))  # too few to copy W for
    assert not multiply_steps(W, steps[..., :1], np.empty((9, 28, 1)))


def test_what_is_only_looked_at_is_not_copied(library):
    W = np.ones((256, 256), np.float32)
    for form, n, times in ((W, 16, 1), (W.T, 16, 1), (W, 1, 50), (W.T, 1, 50)):
        assert np.shares_memory(product(form, np.empty((256, n), np.float32), times).W, W)


@pytest.mark.parametrize("lengths", [None, "some"])
@pytest.mark.parametrize("arguments", [{"bidirectional": True}, {"num_layers": 2}])
@pytest.mark.parametrize("layer", [RNN, GRU, LSTM])
def test_layers_compute_the_same_with_all_of_them(library, layer, arguments, lengths, monkeypatch):
    H, T, B = 160, 9, 40
    rng = np.random.default_rng(0)
    made = layer(5, H, **arguments, dtype=np.float64, rng=0)
    x, d_output = rng.normal(size=(T, B, 5)), rng.normal(size=(T, B, made.num_directions * H))
    lengths = None if lengths is None else rng.integers(0, T + 1, B)

    def results():
        output, state, cache = made.forward(x, lengths=lengths)
        d_x, _, grads = made.backward(d_output, state, cache)
        return [output, d_x, *grads.values()]

    here = results()
    monkeypatch.setattr(blas, "openblas", lambda: KERNELS["another library"])
    for one, other in zip(here, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_what_the_library_says_of_itself():
    """Its core is known where NumPy brings OpenBLAS; another library is none, and no error."""
    own = blas.openblas()
    assert own.threads() >= 1
    config = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    if config["name"] == "scipy-openblas":
        assert own.core


def test_no_library_is_found_where_there_is_none(monkeypatch, tmp_path):
    (tmp_path / "numpy.libs").mkdir()
    (tmp_path / "numpy.libs" / "libopenblas.so").write_text("no library")
    monkeypatch.setattr(np, "__file__", str(tmp_path / "numpy" / "__init__.py"))
    assert blas.openblas.__wrapped__().core == ""


@pytest.mark.parametrize("rows", [1, 8, 20, 40])
def test_blocks_transposed(rows):
    matrix = np.arange(40.0 * 7).reshape(40, 7)
    found = transposed(matrix, rows)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, matrix.reshape(-1, rows, 7).transpose(0, 2, 1))


@pytest.mark.parametrize("M", [2, 64, 150])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_pieces_exchanged(dtype, M):
    array = np.arange(M * 3 * 5).reshape(M, 3, 5).astype(dtype)
    array[0, 0, 0] = np.nan
    found = exchanged(array[:, ::-1])
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array[:, ::-1].transpose(1, 0, 2))


def test_parameters_begin_where_a_line_of_the_cache_does():
    for name, value in LanguageModel(7, 13, num_layers=2, cell="gru", rng=0).params.items():
        assert value.ctypes.data % 64 == 0, name
        assert value.flags.c_contiguous, name
        assert value.flags.writeable, name
    assert on_cache_lines((), np.float64).shape == ()
    assert on_cache_lines((0, 3), np.float32).shape == (0, 3)


def on_a_line(array):
    return array.ctypes.data % 64 == 0


def test_large_arrays_begin_where_a_line_of_the_cache_does():
    assert on_a_line(empty((64, 64), np.float32))
    assert empty((3, 2), np.float64).shape == (3, 2)
    columns = turned(np.ones((5, 40, 30)))
    found = empty_like(columns, np.float32)
    assert (found.shape, found.dtype) == (columns.shape, np.float32)
    assert on_a_line(found)
    assert turned(found).flags.c_contiguous
    assert empty_like(np.ones((2, 3)), np.float32).shape == (2, 3)


@pytest.mark.parametrize("layer", [RNN, GRU, LSTM])
def test_what_the_loop_reads_and_writes_begins_there_too(layer):
    made = layer(5, 64, rng=0)
    _, _, cache = made.forward(np.zeros((9, 16, 5), np.float32))
    run = cache.layers[0].runs[0]
    before, after = ([every[part] for every in run.states] for part in (np.s_[:-1], np.s_[1:]))
    factors = made.cell.local_derivatives(run.gates, run.kept, before, after)
    for array in (run.gates, run.states, factors[0], *(run.kept,) * bool(run.kept.size)):
        assert on_a_line(array)
