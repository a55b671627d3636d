import math
import re

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from nprnn import mean_squared_error, softmax_cross_entropy
from nprnn.gradcheck import check_gradients
from nprnn.testing import seeds


@st.composite
def logits_and_targets(draw):
    shape = draw(st.lists(st.integers(1, 4), max_size=3).map(tuple))
    V = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(seeds))
    return rng.normal(0, 3, (*shape, V)), rng.integers(0, V, shape), rng


@given(logits_and_targets())
def test_cross_entropy_is_its_definition(drawn):
    logits, targets, _ = drawn
    loss, d_logits = softmax_cross_entropy(logits, targets)
    assert loss == pytest.approx(naive.softmax_cross_entropy(logits, targets), rel=1e-12)
    oracle = -np.take_along_axis(log_softmax(logits, axis=-1), targets[..., None], -1).mean()
    assert loss == pytest.approx(oracle, rel=1e-12)
    assert d_logits.shape == logits.shape


@settings(deadline=None)
@given(logits_and_targets(), st.booleans())
def test_cross_entropy_gradient(drawn, masked):
    logits, targets, rng = drawn
    mask = None
    if masked:
        mask = np.array(rng.random(targets.shape) < 0.5)
        mask.flat[rng.integers(mask.size)] = True

    def loss(params):
        return softmax_cross_entropy(params["logits"], targets, mask)[0]

    gradient = softmax_cross_entropy(logits, targets, mask)[1]
    for method in ("central", "complex"):
        check_gradients(loss, {"logits": logits}, {"logits": gradient}, method=method)


@given(logits_and_targets())
def test_masked_positions_do_not_count_whatever_they_hold(drawn):
    logits, targets, rng = drawn
    mask = np.array(rng.random(targets.shape) < 0.5)
    mask.flat[0] = True
    expected, expected_d = softmax_cross_entropy(logits[mask], targets[mask])
    logits, targets = logits.copy(), np.array(targets)
    logits[~mask] = np.nan
    targets[~mask] = -100
    loss, d_logits = softmax_cross_entropy(logits, targets, mask)
    assert loss == pytest.approx(float(expected), rel=1e-14)
    np.testing.assert_allclose(d_logits[mask], expected_d, rtol=1e-13)
    assert not d_logits[~mask].any()
    again = softmax_cross_entropy(logits, targets, mask.astype(int))
    np.testing.assert_array_equal(again[1], d_logits)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e38), (np.float64, 1e300)])
def test_cross_entropy_of_huge_logits(dtype, size):
    logits = np.array([[size, -size, 0], [0, size, size]], dtype)
    loss, d_logits = softmax_cross_entropy(logits, [0, 1])
    assert loss.dtype == d_logits.dtype == dtype
    assert loss == pytest.approx(math.log(2) / 2)
    np.testing.assert_allclose(d_logits, [[0, 0, 0], [0, -0.25, 0.25]], atol=1e-7)
    assert softmax_cross_entropy(logits, [1, 0])[0] == pytest.approx(
        float(2 * logits[0, 0] + logits[0, 0]) / 2, rel=1e-6
    )


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([np.nan, 1], np.nan),
        ([np.inf, 1], np.nan),
        ([1, -np.inf], np.inf),
        ([3e38, -3e38], np.inf),  # further apart than float32 reaches
    ],
)
def test_logits_that_are_no_numbers_give_a_loss_that_is_none(logits, expected):
    loss, _ = softmax_cross_entropy(np.array([logits], np.float32), [1])
    np.testing.assert_equal(float(loss), expected)


def test_cross_entropy_does_not_change_its_arguments_and_keeps_float32():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4)).astype(np.float32)
    targets = rng.integers(0, 4, 3)
    before = logits.copy()
    loss, d_logits = softmax_cross_entropy(logits, targets)
    np.testing.assert_array_equal(logits, before)
    assert loss.dtype == d_logits.dtype == np.float32
    double = softmax_cross_entropy(logits.astype(np.float64), targets)
    np.testing.assert_allclose(d_logits, double[1], atol=1e-7)
    assert not np.shares_memory(d_logits, logits)


def test_the_mean_of_many_single_precision_losses_is_exact():
    """Added up in single precision it would be off by some 1e-5."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400_000, 2)).astype(np.float32)
    targets = rng.integers(0, 2, 400_000)
    loss, _ = softmax_cross_entropy(logits, targets)
    expected, _ = softmax_cross_entropy(logits.astype(np.float64), targets)
    assert loss == pytest.approx(float(expected), rel=2e-7)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), seeds, st.booleans())
def test_mean_squared_error(rows, width, seed, masked):
    rng = np.random.default_rng(seed)
    guess, truth = rng.normal(size=(2, rows, width))
    mask = None
    if masked:
        mask = rng.random(rows) < 0.5
        mask[rng.integers(rows)] = True
    chosen = slice(None) if mask is None else mask
    loss, gradient = mean_squared_error(guess, truth, mask)
    assert loss == pytest.approx(((guess - truth)[chosen] ** 2).mean(), rel=1e-13)
    check_gradients(
        lambda p: mean_squared_error(p["guess"], truth, mask)[0],
        {"guess": guess},
        {"guess": gradient},
        method="complex",
    )


Z = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: softmax_cross_entropy(Z, [0]), ValueError, ["targets", "(2,)", "(1,)"]),
        (lambda: softmax_cross_entropy(Z, [0, 3]), ValueError, ["targets", "V-1 = 2", "3"]),
        (lambda: softmax_cross_entropy(Z, [0, -1]), ValueError, ["targets", "-1"]),
        (lambda: softmax_cross_entropy(Z, [0.0, 1.0]), TypeError, ["targets", "integers"]),
        (lambda: softmax_cross_entropy(Z.astype(int), [0, 1]), TypeError, ["logits", "float32"]),
        (lambda: softmax_cross_entropy(1.0, 0), ValueError, ["logits", "(..., V)"]),
        (lambda: softmax_cross_entropy(Z[:0], []), ValueError, ["positions", "(0,)"]),
        (lambda: softmax_cross_entropy(Z, [0, 1], [1]), ValueError, ["mask", "(2,)", "(1,)"]),
        (lambda: softmax_cross_entropy(Z, [0, 1], [0, 0]), ValueError, ["mask", "no position"]),
        (lambda: softmax_cross_entropy(Z, [0, 1], [0, 0.5]), ValueError, ["mask", "1 and 0"]),
        (lambda: mean_squared_error(1.0, 1.0), ValueError, ["prediction", "(..., K)", "()"]),
        (lambda: mean_squared_error(Z, Z[:1]), ValueError, ["target", "(2, 3)", "(1, 3)"]),
        (lambda: mean_squared_error(Z, Z.astype("f")), TypeError, ["target", "float32"]),
        (lambda: mean_squared_error(Z, Z, [1]), ValueError, ["mask", "(2,)"]),
        (lambda: mean_squared_error(Z[:, :0], Z[:, :0]), ValueError, ["empty"]),
    ],
)
def test_losses_refuse(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("dtype", "largest"), [(np.float64, 300), (np.float64, 3), (np.float32, 38), (np.float32, 2)]
)
@pytest.mark.parametrize("seed", range(20))
def test_cross_entropy_against_fifty_digits(seed, dtype, largest):
    """Logits up to 10 to the power `largest`, of all sizes and signs in one row."""
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(seed)
    N, V = 4, int(rng.integers(1, 9))
    sizes = 10.0 ** rng.uniform(-largest, largest, (N, V))
    sizes[0, 0] = 10.0**largest
    logits = (rng.choice([-1, 1], (N, V)) * sizes).astype(dtype)
    targets = rng.integers(0, V, N)
    loss, d_logits = softmax_cross_entropy(logits, targets)
    assert loss.dtype == d_logits.dtype == dtype
    eps = float(np.finfo(dtype).eps)
    with mpmath.workdps(50):
        total = mpmath.mpf(0)
        for row, target, d_row in zip(logits.astype(object), targets, d_logits, strict=True):
            exact = [mpmath.mpf(float(logit)) for logit in row]
            shifted = [mpmath.exp(logit - max(exact)) for logit in exact]
            total += mpmath.log(mpmath.fsum(shifted)) + max(exact) - exact[target]
            for place, weight in enumerate(shifted):
                d_exact = (weight / mpmath.fsum(shifted) - (place == target)) / N
                assert abs(float(d_row[place]) - d_exact) <= 2 * eps
        exact_loss = total / N
        assert abs(mpmath.mpf(float(loss)) - exact_loss) <= 4 * eps * max(1, exact_loss)


def test_the_mean_is_finite_where_the_sum_would_not_be():
    logits = np.array([[1e38, -1e38]] * 10, np.float32)
    loss, _ = softmax_cross_entropy(logits, [1] * 10)
    assert loss == np.float32(2e38)
    assert mean_squared_error(np.full(10, 1e19, "f"), np.zeros(10, "f"))[0] == np.float32(1e38)
    assert mean_squared_error(np.full(2, 1e200), np.zeros(2))[0] == math.inf


@pytest.mark.parametrize(
    ("prediction", "target", "error", "sentence"),
    [
        (1.0, 1.0, ValueError, "prediction must have shape (..., K); got ()"),
        ([[1.0]], [["a"]], TypeError, "target must"),
        ([["a"]], [[1.0]], TypeError, "prediction must"),
        (np.ones((2, 0)), np.ones((2, 0)), ValueError, "prediction is empty: the mean over"),
    ],
)
def test_the_sentences_of_the_squared_error(prediction, target, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}"):
        mean_squared_error(prediction, target)


@pytest.mark.parametrize(
    ("targets", "mask", "error", "sentence"),
    [
        (["a", "b"], None, TypeError, "targets must"),
        ([0, [1]], None, TypeError, "targets must"),
        ([0], None, ValueError, "targets must have shape logits.shape[:-1] = (2,); got (1,)"),
        ([0, 1], [True], ValueError, "mask must have shape (2,), one entry a position; got (1,)"),
        ([0, 1], [True, [1]], TypeError, "mask must"),
        ([0, 1], ["a", "b"], TypeError, "mask must"),
        ([0, 1], [0, 2], ValueError, "mask must"),
    ],
)
def test_the_sentences_of_the_cross_entropy(targets, mask, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}"):
        softmax_cross_entropy(np.zeros((2, 3)), targets, mask)


def test_a_loss_above_the_largest_number_is_infinite_without_a_warning():
    logits = np.array([[3e38, -3e38]], np.float32)
    loss, d_logits = softmax_cross_entropy(logits, [1])
    assert (loss, loss.dtype) == (np.inf, np.float32)
    assert d_logits.tolist() == [[1, -1]]
