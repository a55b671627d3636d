import itertools

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import LanguageModel
from nprnn.gradcheck import check_gradients
from nprnn.testing import map_state, seeds


@st.composite
def language_models(draw, smooth=False):
    options = {
        "vocab_size": draw(st.integers(2, 5)),
        "hidden_size": draw(st.integers(1, 4)),
        "num_layers": draw(st.integers(1, 2)),
        "cell": draw(st.sampled_from(["rnn", "gru", "lstm"])),
    }
    if options["cell"] == "rnn":
        options["nonlinearity"] = draw(st.sampled_from(["tanh"] if smooth else ["tanh", "relu"]))
    if draw(st.booleans()):
        options["tie_weights"] = draw(st.booleans())
        width = options["hidden_size"] if options["tie_weights"] else draw(st.integers(1, 4))
        options["embedding_size"] = width
    rng = np.random.default_rng(draw(seeds))
    model = LanguageModel(**options, dtype=np.float64, rng=rng)
    model = model.with_params({k: rng.normal(0, 0.7, v.shape) for k, v in model.params.items()})
    T, B = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    inputs, targets = rng.integers(0, options["vocab_size"], (2, T, B))
    state = map_state(lambda part: rng.normal(size=part.shape), model(inputs)[1])
    return model, inputs, targets, state


def unit_of(model):
    """Return the name by which tests/naive.py knows the model's cell."""
    return getattr(model.rnn, "nonlinearity", type(model.rnn).__name__.lower())


@settings(max_examples=50, deadline=None)
@given(language_models())
def test_loss_is_the_definition(drawn):
    model, inputs, targets, state = drawn
    expected, expected_state = naive.language_model_loss(
        model.params, inputs, targets, state, unit_of(model)
    )
    for loss, final in [
        model.loss(inputs, targets, state),
        model.loss_and_grads(inputs, targets, state)[::2],
    ]:
        assert loss == pytest.approx(expected, rel=1e-12)
        assert isinstance(final, tuple) == isinstance(state, tuple)
        np.testing.assert_allclose(final, expected_state, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(language_models(), st.sampled_from(["complex", "directional"]))
def test_every_gradient(drawn, method):
    model, inputs, targets, state = drawn
    if method == "directional" and unit_of(model) == "relu":
        method = "complex"  # a finite step may cross a kink
    _, grads, _ = model.loss_and_grads(inputs, targets, state)

    def loss(params):
        return model.with_params(params).loss(inputs, targets, state)[0]

    check_gradients(loss, model.params, grads, method=method)


@settings(max_examples=15, deadline=None)
@given(language_models(smooth=True))
def test_every_gradient_by_central_differences(drawn):
    model, inputs, targets, state = drawn
    _, grads, _ = model.loss_and_grads(inputs, targets, state)

    def loss(params):
        return model.with_params(params).loss(inputs, targets, state)[0]

    check_gradients(loss, model.params, grads, method="central", rtol=1e-7)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_truncated_bptt_cuts_the_gradient_and_not_the_state(cell):
    """The second window's gradient is that of its own loss, the incoming state held constant."""
    rng = np.random.default_rng(0)
    model = LanguageModel(5, 4, cell=cell, dtype=np.float64, rng=rng)
    tokens = rng.integers(0, 5, (9, 3))
    _, _, state = model.loss_and_grads(tokens[:4], tokens[1:5])
    loss, grads, final = model.loss_and_grads(tokens[4:8], tokens[5:9], state)
    whole, whole_final = model.loss(tokens[:8], tokens[1:9])
    first = model.loss(tokens[:4], tokens[1:5])[0]
    assert (float(first) + float(loss)) / 2 == pytest.approx(float(whole), rel=1e-13)
    np.testing.assert_allclose(final, whole_final, rtol=1e-12)

    def cut(params):
        return model.with_params(params).loss(tokens[4:8], tokens[5:9], state)[0]

    def uncut(params):
        other = model.with_params(params)
        return other.loss(tokens[4:8], tokens[5:9], other.loss(tokens[:4], tokens[1:5])[1])[0]

    check_gradients(cut, model.params, grads, method="complex")
    with pytest.raises(AssertionError, match=r"rnn\.weight_hh_l0"):
        check_gradients(uncut, model.params, grads, method="complex")


def test_the_outgoing_state_keeps_no_other_array_alive():
    tokens = np.zeros((50, 2), int)
    for cell, size in [("rnn", 8), ("lstm", 16)]:
        model = LanguageModel(5, 4, cell=cell, rng=0)
        for state in (model.loss(tokens, tokens)[1], model.loss_and_grads(tokens, tokens)[2]):
            for part in state if cell == "lstm" else [state]:
                base = part if part.base is None else part.base
                assert base.size == size


def test_parameters_are_named_after_the_parts_and_live_in_one_place():
    model = LanguageModel(5, 4, num_layers=2, rng=0)
    assert list(model.params)[:2] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    assert model.params["readout.weight"].shape == (5, 4)
    assert model.params["readout.bias"].shape == (5,)
    before, _ = model.loss([[1]], [[2]])
    model.params["readout.bias"] = model.params["readout.bias"] + np.float32([0, 0, 5, 0, 0])
    assert model.loss([[1]], [[2]])[0] < before
    assert model.readout.params["bias"] is model.params["readout.bias"]


def test_an_embedding_and_tied_weights():
    plain = LanguageModel(5, 4, embedding_size=3, rng=0)
    assert next(iter(plain.params)) == "embedding.weight"
    assert plain.params["embedding.weight"].shape == (5, 3)
    assert plain.rnn.input_size == 3
    tied = LanguageModel(5, 4, embedding_size=4, tie_weights=True, rng=0)
    assert "readout.weight" not in tied.params
    assert tied.readout.params["weight"] is tied.params["embedding.weight"]
    assert np.abs(tied.params["embedding.weight"]).max() <= 1 / 2
    text = np.arange(41)[:, None] % 5
    for model in (plain, tied):
        optimizer = nprnn.Adam(model.params, lr=0.03)
        for _ in range(60):
            loss, grads, _ = model.loss_and_grads(text[:-1], text[1:])
            assert list(grads) == list(model.params)
            optimizer.step(grads)
        assert loss < 0.1
        written = list(itertools.islice(model.generate([0, 1], temperature=0), 6))
        assert written == [2, 3, 4, 0, 1, 2]


@pytest.mark.parametrize("num_layers", [1, 2])
def test_dropout_acts_with_a_generator_only_and_its_gradient_uses_the_same_mask(num_layers):
    options = {"num_layers": num_layers, "dropout": 0.4}
    model = LanguageModel(5, 6, **options, dtype=np.float64, rng=0)
    inputs, targets = np.random.default_rng(1).integers(0, 5, (2, 4, 3))
    plain = model.loss(inputs, targets)[0]
    assert model.loss_and_grads(inputs, targets)[0] == plain
    dropped, grads, _ = model.loss_and_grads(inputs, targets, rng=7)
    assert dropped != plain
    check_gradients(
        lambda p: model.with_params(p).loss_and_grads(inputs, targets, rng=7)[0],
        model.params,
        grads,
        method="complex",
    )


def test_dropout_in_front_of_the_readout_zeroes_and_scales():
    """With states of 1 the logits count the entries that are left."""
    model = LanguageModel(2, 1000, nonlinearity="relu", dropout=0.25, dtype=np.float64, rng=0)
    for name, value in model.params.items():
        value[...] = 1 if name in ("rnn.bias_ih_l0", "readout.weight") else 0
    model.params["readout.weight"][1] = 0
    loss, _, _ = model.loss_and_grads([[0]], [[1]], rng=3)  # ln(1 + e^o) = o, where o is large
    kept = float(loss) * 0.75
    assert kept == pytest.approx(round(kept), abs=1e-9)
    assert kept == pytest.approx(750, abs=60)


def test_single_precision_throughout():
    model = LanguageModel(5, 4, rng=0)
    inputs, targets = np.random.default_rng(1).integers(0, 5, (2, 4, 3))
    loss, grads, state = model.loss_and_grads(inputs, targets)
    logits, _ = model(inputs)
    assert {loss.dtype, state.dtype, logits.dtype} == {np.dtype(np.float32)}
    assert {gradient.dtype for gradient in grads.values()} == {np.dtype(np.float32)}
    assert grads.keys() == model.params.keys()


@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru"}, {"cell": "lstm"}, {"cell": "lstm", "embedding_size": 3}]
)
def test_generation_is_greedy_at_temperature_zero(options):
    model = LanguageModel(6, 8, **options, dtype=np.float64, rng=3)
    prefix = [1, 2, 3]
    drawn = list(itertools.islice(model.generate(prefix, temperature=0), 8))
    tokens = list(prefix)
    for expected in drawn:
        logits, _ = model(np.array(tokens))
        assert expected == logits[-1].argmax()
        tokens.append(expected)


def test_generation_follows_the_distribution_of_the_next_token():
    model = LanguageModel(4, 8, dtype=np.float64, rng=3)
    model.params["readout.weight"] *= 5
    for prefix in ([], [2], [1, 0, 3, 1]):
        # Without a prefix it is the read-out of the zero state.
        logits = model(np.array(prefix))[0][-1] if prefix else model.params["readout.bias"]
        expected = np.exp(logits) / np.exp(logits).sum()
        rng = np.random.default_rng(0)
        counts = np.bincount(
            [next(model.generate(prefix, rng=rng)) for _ in range(4000)], minlength=4
        )
        np.testing.assert_allclose(counts / 4000, expected, atol=0.03)


def test_the_same_seed_generates_the_same_tokens():
    model = LanguageModel(20, 8, rng=3)
    texts = [list(itertools.islice(model.generate([1], rng=seed), 30)) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_generation_is_lazy_and_two_at_once_do_not_meet():
    model = LanguageModel(20, 8, rng=3)
    alone = list(itertools.islice(model.generate([1], rng=5), 10))
    first, second = model.generate([1], rng=5), model.generate([2, 3], rng=5)
    both = [(next(first), next(second)) for _ in range(10)]
    assert [pair[0] for pair in both] == alone


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_each_cell_lowers_its_loss_in_twenty_steps(cell):
    model = LanguageModel(6, 12, cell=cell, rng=0)
    optimizer = nprnn.Adam(model.params, lr=0.05)
    window, losses = np.random.default_rng(0).integers(0, 6, (9, 4)), []
    for _ in range(20):
        loss, grads, _ = model.loss_and_grads(window[:-1], window[1:])
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(float(loss))
    assert losses[-1] < losses[10] < losses[0]
    assert losses[-1] < 0.9 * losses[0]


def test_the_model_learns_and_its_text_shows_it():
    text = "a recurrent network reads a text and writes one. " * 40
    vocabulary = nprnn.Vocabulary(text)
    model = LanguageModel(len(vocabulary), 48, rng=0)
    ids = vocabulary.encode(text)
    for _ in nprnn.train(model, ids, batch_size=8, num_steps=25, epochs=60, rng=0):
        pass
    prefix = vocabulary.encode("a recurrent network ")
    written = vocabulary.decode(list(itertools.islice(model.generate(prefix, temperature=0), 29)))
    assert written == "reads a text and writes one. "


MODEL = LanguageModel(5, 4, rng=0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: LanguageModel(0, 4), ValueError, ["vocab_size", "at least 1"]),
        (lambda: LanguageModel(5, 0), ValueError, ["hidden_size", "at least 1"]),
        (lambda: LanguageModel(5, 4, cell="cnn"), ValueError, ["cell", "'rnn'", "'gru'", "'cnn'"]),
        (
            lambda: LanguageModel(5, 4, cell="gru", nonlinearity="relu"),
            ValueError,
            ["nonlinearity", "cell='rnn'", "cell='gru'"],
        ),
        (
            lambda: LanguageModel(5, 4, cell="gru", forget_bias=1.0),
            ValueError,
            ["forget_bias", "cell='lstm'", "cell='gru'"],
        ),
        (
            lambda: LanguageModel(5, 4, embedding_size=3, tie_weights=True),
            ValueError,
            ["tie_weights", "embedding_size=hidden_size=4", "3"],
        ),
        (lambda: LanguageModel(5, 4, tie_weights=True), ValueError, ["tie_weights", "None"]),
        (lambda: LanguageModel(5, 4, embedding_size=0), ValueError, ["embedding_size", "1"]),
        (lambda: MODEL.loss([[5]], [[0]]), ValueError, ["inputs", "vocab_size-1 = 4", "5"]),
        (lambda: MODEL.loss([[0]], [[-1]]), ValueError, ["targets", "V-1 = 4", "-1"]),
        (lambda: MODEL.loss([[0]], [0]), ValueError, ["targets", "(1, 1)", "(1,)"]),
        (lambda: MODEL.loss([[0.0]], [[0]]), TypeError, ["inputs", "integers", "float64"]),
        (lambda: MODEL.loss([[[0]]], [[[0]]]), ValueError, ["inputs", "(T, B)", "(1, 1, 1)"]),
        (lambda: MODEL.loss([[0]], [[0]], np.zeros((1, 2, 4), "f")), ValueError, ["state", "B=1"]),
        (lambda: MODEL.loss_and_grads([[0]], [[0]], rng="x"), TypeError, ["rng"]),
        (lambda: MODEL.generate([5]), ValueError, ["prefix", "vocab_size-1 = 4"]),
        (lambda: MODEL.generate([[0]]), ValueError, ["prefix", "(1, 1)"]),
        (lambda: MODEL.generate("ab"), TypeError, ["prefix", "numbers"]),
        (lambda: MODEL.generate([0], temperature=-1), ValueError, ["temperature", "[0, inf)"]),
        (lambda: MODEL.generate([0], temperature=float("nan")), ValueError, ["temperature"]),
        (lambda: MODEL.generate([0], top_k=0), ValueError, ["top_k", "at least 1"]),
        (lambda: MODEL.generate([0], top_k=1.5), TypeError, ["top_k", "integer"]),
        (lambda: MODEL.generate([0], top_p=0), ValueError, ["top_p", "(0, 1]"]),
        (lambda: MODEL.generate([0], top_p=1.1), ValueError, ["top_p", "(0, 1]"]),
        (lambda: MODEL.with_params({}), ValueError, ["missing rnn.weight_ih_l0", "readout.bias"]),
    ],
)
def test_the_model_refuses(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value
