"""The models that are not language models: gradients, lengths, masks, learning."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import LanguageModel, SequenceClassifier, SequenceRegressor, SequenceTagger
from nprnn.gradcheck import check_gradients
from nprnn.testing import map_state, seeds

KINDS = ["tagger", "last", "mean", "regressor", "language"]


def build(kind, rng, hidden_size=2, **options):
    """Return a model in float64 with random parameters."""
    make = {
        "tagger": lambda: SequenceTagger(3, hidden_size, 4, **options),
        "last": lambda: SequenceClassifier(3, hidden_size, 4, **options),
        "mean": lambda: SequenceClassifier(3, hidden_size, 4, pool="mean", **options),
        "regressor": lambda: SequenceRegressor(3, hidden_size, 4, **options),
        "language": lambda: LanguageModel(4, hidden_size, **options),
    }[kind]
    model = make()
    return model.with_params({k: rng.normal(0, 0.7, v.shape) for k, v in model.params.items()})


def batch(kind, rng, T, B):
    """Return inputs, targets and the shape of a mask."""
    if kind == "language":
        return *rng.integers(0, 4, (2, T, B)), (T, B)
    x = rng.normal(size=(T, B, 3))
    if kind == "regressor":
        return x, rng.normal(size=(T, B, 4)), (T, B)
    shape = (T, B) if kind == "tagger" else (B,)
    return x, rng.integers(0, 4, shape), shape


def of_sequence(state, b):
    """Return one sequence's states from those of a batch."""
    return map_state(lambda part: part[:, b], state)


@st.composite
def problems(draw, kind=None):
    kind = kind or draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(seeds))
    cell = draw(st.sampled_from(["rnn", "gru", "lstm"]))
    options = {"num_layers": draw(st.integers(1, 2)), "cell": cell}
    if cell == "rnn":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind != "language":
        options["bidirectional"] = draw(st.booleans())
    model = build(kind, rng, **options)
    T, B = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    x, targets, mask_shape = batch(kind, rng, T, B)
    settings = {}
    if draw(st.booleans()):
        settings["lengths"] = rng.integers(0, T + 1, B)
        settings["lengths"][rng.integers(B)] = T
    if draw(st.booleans()):
        mask = np.array(rng.random(mask_shape) < 0.6)
        mask[(0,) * mask.ndim if "lengths" not in settings else ...] = True
        settings["mask"] = mask
    state = map_state(lambda part: rng.normal(size=part.shape), model(x)[1])
    return model, x, targets, state, settings


@settings(max_examples=200, deadline=None)
@given(problems())
def test_every_gradient(problem):
    model, x, targets, state, options = problem
    loss, grads, final = model.loss_and_grads(x, targets, state, **options)
    other_loss, other_final = model.loss(x, targets, state, **options)
    assert loss == pytest.approx(other_loss, rel=1e-14)
    np.testing.assert_array_equal(final, other_final)
    check_gradients(
        lambda p: model.with_params(p).loss(x, targets, state, **options)[0],
        model.params,
        grads,
        method="complex",
        atol=1e-14,  # p - 1 is exact to the last digit of 1, however small it is itself
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_by_central_differences(kind):
    rng = np.random.default_rng(5)
    model = build(kind, rng)
    x, targets, _ = batch(kind, rng, 4, 3)
    options = {"lengths": [2, 4, 1]}
    _, grads, _ = model.loss_and_grads(x, targets, **options)
    check_gradients(
        lambda p: model.with_params(p).loss(x, targets, **options)[0],
        model.params,
        grads,
        method="central",
    )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_predictions_for_a_batch_equal_those_one_by_one(problem):
    model, x, _, state, options = problem
    lengths = options.get("lengths", np.full(x.shape[1], len(x)))
    whole, final = model(x, state, lengths=options.get("lengths"))
    for b, n in enumerate(lengths):
        if n == 0:
            continue
        alone, alone_final = model(x[:n, b], of_sequence(state, b))
        same = whole[b] if isinstance(model, SequenceClassifier) else whole[:n, b]
        np.testing.assert_allclose(same, alone, atol=1e-13)
        own_final = of_sequence(final, b)
        np.testing.assert_allclose(own_final, alone_final, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_what_does_not_count_may_hold_anything(problem):
    model, x, targets, state, options = problem
    loss, grads, _ = model.loss_and_grads(x, targets, state, **options)
    T = len(x)
    valid = np.ones(x.shape[:2], bool)
    if "lengths" in options:
        valid = np.arange(T)[:, None] < options["lengths"]
    x, targets = x.copy(), targets.copy()
    x[~valid] = -9 if x.dtype.kind == "i" else np.nan
    if targets.ndim >= 2:
        counted = valid & options.get("mask", True)
    else:
        counted = np.broadcast_to(options.get("mask", True), targets.shape)
    if "lengths" in options or "mask" in options:
        targets[~counted] = -9 if targets.dtype.kind == "i" else np.nan
    if isinstance(model, LanguageModel):
        x[~valid] = 0  # a token, whichever
    again, same_grads, _ = model.loss_and_grads(x, targets, state, **options)
    assert again == loss
    for name, gradient in grads.items():
        np.testing.assert_array_equal(same_grads[name], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_throughout(kind):
    rng = np.random.default_rng(0)
    model = build(kind, rng)
    model = model.with_params({k: v.astype(np.float32) for k, v in model.params.items()})
    x, targets, _ = batch(kind, rng, 4, 3)
    x = x if x.dtype.kind == "i" else x.astype(np.float32)
    targets = targets if targets.dtype.kind == "i" else targets.astype(np.float32)
    loss, grads, state = model.loss_and_grads(x, targets, lengths=[4, 0, 2])
    assert {loss.dtype, state.dtype, model(x)[0].dtype} == {np.dtype(np.float32)}
    assert {gradient.dtype for gradient in grads.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind):
    rng = np.random.default_rng(0)
    model = build(kind, rng, hidden_size=12)
    x, targets, _ = batch(kind, rng, 5, 6)
    optimizer = nprnn.SGD(model.params, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        loss, grads, _ = model.loss_and_grads(x, targets, lengths=[5, 5, 3, 4, 1, 2])
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_a_classifier_reads_both_ends():
    """Whether the first item is above the last: each direction has just read one of them."""
    rng = np.random.default_rng(0)
    model = SequenceClassifier(4, 16, 2, bidirectional=True, rng=0)
    optimizer = nprnn.SGD(model.params, lr=0.1, momentum=0.9)

    def draw(n):
        lengths = rng.integers(2, 9, n)
        x = rng.integers(0, 4, (8, n))
        return x, (x[0] > x[lengths - 1, np.arange(n)]).astype(int), lengths

    for _ in range(400):
        x, labels, lengths = draw(64)
        _, grads, _ = model.loss_and_grads(x, labels, lengths=lengths)
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    x, labels, lengths = draw(500)
    assert (model(x, lengths=lengths)[0].argmax(-1) == labels).mean() > 0.95


def test_a_forecast_feeds_its_predictions_back():
    model = SequenceRegressor(2, 5, 2, num_layers=2, dtype=np.float64, rng=0)
    x = np.random.default_rng(1).normal(size=(6, 3, 2))
    path = model.forecast(x, 4)
    assert path.shape == (4, 3, 2)
    grown = x
    for step in range(4):
        prediction, _ = model(grown)
        np.testing.assert_allclose(path[step], prediction[-1], atol=1e-13)
        grown = np.concatenate([grown, prediction[-1:]])
    np.testing.assert_allclose(model.forecast(x[:, 0], 4), path[:, 0], atol=1e-13)


def test_repr_names_the_parts():
    assert repr(SequenceTagger(3, 4, 2, bidirectional=True)) == (
        "SequenceTagger(RNN(3, 4, bidirectional=True), Linear(8, 2))"
    )


X, TARGETS = np.zeros((4, 2, 3), "f"), np.zeros((4, 2), int)
TAGGER, CLASSIFIER = SequenceTagger(3, 2, 4, rng=0), SequenceClassifier(3, 2, 4, rng=0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: SequenceTagger(3, 2, 0), ValueError, ["out_features", "at least 1"]),
        (lambda: SequenceTagger(3, 2, 4, cell="x"), ValueError, ["cell", "'rnn'", "'x'"]),
        (lambda: SequenceClassifier(3, 2, 4, pool="max"), ValueError, ["pool", "'mean'", "'max'"]),
        (lambda: TAGGER.loss(X, TARGETS[:, 0]), ValueError, ["targets", "(4, 2)", "(4,)"]),
        (lambda: TAGGER.loss(X, TARGETS + 4), ValueError, ["targets", "V-1 = 3", "4"]),
        (lambda: CLASSIFIER.loss(X, TARGETS), ValueError, ["targets", "(2,)", "(4, 2)"]),
        (lambda: TAGGER.loss(X, TARGETS, lengths=[1]), ValueError, ["lengths", "(B=2,)"]),
        (lambda: TAGGER.loss(X, TARGETS, lengths=[0, 0]), ValueError, ["mask", "no position"]),
        (
            lambda: TAGGER.loss(X, TARGETS, lengths=[1, 1], mask=[1, 1]),
            ValueError,
            ["mask", "(T, B) = (4, 2)", "(2,)"],
        ),
        (lambda: CLASSIFIER.loss(X, [0, 0], mask=TARGETS), ValueError, ["mask", "(2,)"]),
        (lambda: SequenceRegressor(3, 2, 1).forecast(X, 2), ValueError, ["forecast", "input_size"]),
        (lambda: SequenceRegressor(3, 2, 3).forecast(X, 0), ValueError, ["num_steps"]),
    ],
)
def test_wrong_arguments_get_a_sentence(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_dropout_uses_the_same_mask_in_the_gradient():
    rng = np.random.default_rng(0)
    for kind, bidirectional in itertools.product(["tagger", "last", "mean"], [False, True]):
        model = build(kind, rng, num_layers=3, dropout=0.4, bidirectional=bidirectional)
        x, targets, _ = batch(kind, rng, 4, 3)
        _, grads, _ = model.loss_and_grads(x, targets, rng=3)
        check_gradients(
            lambda p, m=model, x=x, y=targets: m.with_params(p).loss_and_grads(x, y, rng=3)[0],
            model.params,
            grads,
            method="complex",
        )
