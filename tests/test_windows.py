"""Long sequences: read in windows, with and without computing states again on the way back."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import models
from nprnn.gradcheck import check_gradients
from nprnn.testing import map_state, seeds

CELLS = ["rnn", "gru", "lstm"]


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(models, "WINDOW_ROWS", 6)


@st.composite
def long_cases(draw):
    """Return a model, a batch longer than a window of 6 rows, and how the batch is to be read."""
    rng = np.random.default_rng(draw(seeds))
    V, I, H, T = 4, 3, draw(st.integers(1, 4)), draw(st.integers(7, 20))  # noqa: E741
    lead = (T,) if draw(st.integers(0, 3)) == 0 else (T, draw(st.integers(1, 3)))
    common = {
        "num_layers": draw(st.integers(1, 2)),
        "cell": draw(st.sampled_from(CELLS)),
        "dropout": draw(st.sampled_from([0.0, 0.4])),
        "dtype": np.float64,
        "rng": rng,
    }
    kind = draw(st.sampled_from(["text", "tags", "values"]))
    if kind == "text":
        embedding = draw(st.sampled_from([{}, {"embedding_size": 2}]))
        tied = {"embedding_size": H, "tie_weights": True} if draw(st.booleans()) else embedding
        model = nprnn.LanguageModel(V, H, **common, **tied)
        inputs, targets = rng.integers(0, V, (2, *lead))
    elif kind == "tags":
        model = nprnn.SequenceTagger(I, H, V, **common)
        inputs, targets = rng.normal(size=(*lead, I)), rng.integers(0, V, lead)
    else:
        model = nprnn.SequenceRegressor(I, H, 2, **common)
        inputs, targets = rng.normal(size=(*lead, I)), rng.normal(size=(*lead, 2))
    model = model.with_params({k: rng.normal(0, 0.7, v.shape) for k, v in model.params.items()})
    options = {"state": map_state(lambda part: rng.normal(size=part.shape), model(inputs)[1])}
    if len(lead) == 2 and draw(st.booleans()):
        lengths = rng.integers(0, T + 1, lead[1])
        lengths[0] = T
        options["lengths"] = lengths
    if draw(st.booleans()):
        options["mask"] = rng.random(lead) < 0.3
        options["mask"][0] = True
    return model, inputs, targets, options


def whole(rows, call):
    """Return what a call gives where windows hold so many rows."""
    before, models.WINDOW_ROWS = models.WINDOW_ROWS, rows
    try:
        return call()
    finally:
        models.WINDOW_ROWS = before


@settings(max_examples=60, deadline=None)
@given(long_cases())
def test_windows_change_nothing_but_the_order_of_additions(drawn):
    model, inputs, targets, options = drawn

    def call():
        return model.loss_and_grads(inputs, targets, **options)

    (loss, grads, final), (one_loss, one_grads, one_final) = whole(6, call), whole(10**6, call)
    assert loss == pytest.approx(one_loss, rel=1e-12)
    np.testing.assert_allclose(final, one_final, rtol=0, atol=1e-13)
    assert list(grads) == list(one_grads)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, one_grads[name], rtol=0, atol=1e-12, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(long_cases(), st.sampled_from([1, 4, 7, 100, "auto"]))
def test_computing_again_gives_the_same_bits(drawn, every):
    model, inputs, targets, options = drawn

    def call(recompute_every):
        rng = np.random.default_rng(5)
        loss, grads, final = model.loss_and_grads(
            inputs, targets, **options, rng=rng, recompute_every=recompute_every
        )
        return loss, grads, final, rng.random()

    kept, again = whole(6, lambda: call(None)), whole(6, lambda: call(every))
    assert (kept[0], kept[3]) == (again[0], again[3])
    np.testing.assert_array_equal(kept[2], again[2])
    for name, gradient in kept[1].items():
        np.testing.assert_array_equal(gradient, again[1][name], err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("every", [None, 4])
def test_gradients_through_windows(small_windows, cell, every):
    rng = np.random.default_rng(3)
    model = nprnn.LanguageModel(3, 3, cell=cell, num_layers=2, dtype=np.float64, rng=rng)
    inputs, targets = rng.integers(0, 3, (2, 17, 2))
    state = map_state(lambda part: rng.normal(size=part.shape), model(inputs)[1])
    _, grads, _ = model.loss_and_grads(inputs, targets, state, recompute_every=every)

    def loss(params):
        return model.with_params(params).loss(inputs, targets, state)[0]

    check_gradients(loss, model.params, grads, method="complex", rtol=1e-10)


def test_windows_without_a_prediction_that_counts(small_windows):
    model = nprnn.LanguageModel(3, 3, dtype=np.float64, rng=0)
    inputs, targets = np.random.default_rng(1).integers(0, 3, (2, 30, 2))
    mask = np.zeros((30, 2), bool)
    mask[20, 1] = True
    loss, grads, _ = model.loss_and_grads(inputs, targets, mask=mask)
    expected = nprnn.softmax_cross_entropy(model(inputs)[0], targets, mask)[0]
    assert loss == pytest.approx(expected, rel=1e-12)
    assert any(gradient.any() for gradient in grads.values())
    with pytest.raises(ValueError, match="no prediction counts"):
        model.loss_and_grads(inputs, targets, mask=np.zeros((30, 2), bool))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": np.zeros((29, 2), int)}, r"targets must have shape \(T, B, ...\) = \(30, 2\)"),
        ({"mask": np.ones(30, bool)}, r"mask must have shape \(T, B\) = \(30, 2\)"),
        ({"lengths": [30, 31]}, "lengths must be in 0 .. T=30"),
        ({"inputs": np.full((30, 2), 3)}, r"inputs must be integers in 0 .. vocab_size-1 = 2"),
        ({"recompute_every": 0}, "recompute_every must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(small_windows, change, words):
    model = nprnn.LanguageModel(3, 4, rng=0)
    call = {"inputs": np.zeros((30, 2), int), "targets": np.zeros((30, 2), int), **change}
    with pytest.raises(ValueError, match=words):
        model.loss_and_grads(**call)


def test_only_one_direction_and_a_prediction_a_step_can_be_computed_again():
    x = np.zeros((5, 2, 3), np.float32)
    both = nprnn.SequenceTagger(3, 4, 2, bidirectional=True, rng=0)
    with pytest.raises(ValueError, match=r"reads in one direction .*bidirectional=True"):
        both.loss_and_grads(x, np.zeros((5, 2), int), recompute_every=2)
    with pytest.raises(ValueError, match="predicts at every step"):
        nprnn.SequenceClassifier(3, 4, 2, rng=0).loss_and_grads(x, [0, 1], recompute_every=2)


def peak(model, T, B, **options):
    """Return the most bytes that a step has allocated at once."""
    inputs, targets = np.random.default_rng(0).integers(0, model.vocab_size, (2, T, B))
    model.loss_and_grads(inputs[:2], targets[:2])
    tracemalloc.start()
    model.loss_and_grads(inputs, targets, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_memory_grows_with_the_square_root_of_the_steps():
    model = nprnn.LanguageModel(5, 32, rng=0)
    short, long = (peak(model, T, 256, recompute_every="auto") for T in (64, 1024))
    assert long < 4.2 * short
    assert peak(model, 1024, 256) > 3 * long


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("V", "H", "T", "B"),
    [(28, 64, 35, 1), (28, 128, 50, 16), (65, 64, 99, 128), (200, 256, 35, 8)],
)
def test_memory_is_what_the_docstring_says(cell, V, H, T, B):
    model = nprnn.LanguageModel(V, H, cell=cell, rng=0)
    G, S, K = (getattr(model.rnn.cell, name) for name in ("num_gates", "num_states", "num_kept"))
    kept = G * (not model.rnn.cell.in_place) + S + K
    N, P = T * B, sum(value.size for value in model.params.values())
    formula = 4 * (N * H * kept + min(N, 1536) * ((G + 2) * H + 2 * V) + P)
    assert 1 / 1.3 < peak(model, T, B) / formula < 1.3
