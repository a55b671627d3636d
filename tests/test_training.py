import itertools
import math

import naive
import numpy as np
import pytest

import nprnn
from nprnn import SGD, LanguageModel, NonFiniteError, Record, evaluate, train

TOKENS = np.random.default_rng(0).integers(0, 5, 400)


def model(seed=0, **options):
    return LanguageModel(5, 8, dtype=np.float64, rng=seed, **options)


def test_training_is_the_loop_written_out():
    trained, own = model(), model()
    records = list(train(trained, TOKENS, batch_size=4, num_steps=7, epochs=2, lr=0.5, rng=3))
    rng = np.random.default_rng(3)
    optimizer = SGD(own.params, 0.5)
    for record in records:
        state, losses, norms = None, [], []
        for inputs, targets in nprnn.sequential_batches(TOKENS, 4, 7, rng=rng):
            loss, grads, state = own.loss_and_grads(inputs, targets, state)
            norms.append(nprnn.clip_grad_norm(grads, 1.0))
            losses.append(loss)
            optimizer.step(grads)
        assert record.loss == pytest.approx(np.mean(losses), rel=1e-12)
        assert record.grad_norm == pytest.approx(np.mean(norms), rel=1e-12)
        assert record.tokens == 4 * 7 * len(losses)
    for name, value in own.params.items():
        np.testing.assert_array_equal(trained.params[name], value)


def test_random_order_starts_every_window_from_zero():
    trained, own = model(), model()
    for _ in train(trained, TOKENS, batch_size=4, num_steps=7, lr=0.5, order="random", rng=3):
        pass
    optimizer = SGD(own.params, 0.5)
    for inputs, targets in nprnn.random_batches(TOKENS, 4, 7, rng=np.random.default_rng(3)):
        _, grads, _ = own.loss_and_grads(inputs, targets)
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    for name, value in own.params.items():
        np.testing.assert_array_equal(trained.params[name], value)


def test_records_of_steps_and_of_epochs_tell_the_same():
    options = {"batch_size": 4, "num_steps": 7, "epochs": 3, "validation": TOKENS[:50], "rng": 3}
    steps = list(train(model(), TOKENS, per="step", **options))
    epochs = list(train(model(), TOKENS, per="epoch", **options))
    assert [record.step for record in steps] == list(range(1, len(steps) + 1))
    groups = [list(g) for _, g in itertools.groupby(steps, lambda record: record.epoch)]
    assert [record.epoch for record in epochs] == [1, 2, 3]
    for record, group in zip(epochs, groups, strict=True):
        assert record.step == group[-1].step
        assert record.loss == pytest.approx(np.mean([r.loss for r in group]))
        assert record.tokens == sum(r.tokens for r in group)
        assert record.validation_loss == group[-1].validation_loss is not None
        assert all(r.validation_loss is None for r in group[:-1])
        assert record.perplexity == pytest.approx(math.exp(record.loss))
        assert record.validation_perplexity == pytest.approx(math.exp(record.validation_loss))
        assert record.seconds > 0
        assert record.tokens_per_second == pytest.approx(record.tokens / record.seconds)


def test_validation_does_not_change_training():
    plain, watched = model(), model()
    for _ in train(plain, TOKENS, batch_size=4, num_steps=7, epochs=2, rng=3):
        pass
    for _ in train(watched, TOKENS, batch_size=4, num_steps=7, epochs=2, rng=3, validation=TOKENS):
        pass
    for name, value in plain.params.items():
        np.testing.assert_array_equal(watched.params[name], value)


def test_max_steps_stops_within_an_epoch_and_validates():
    options = {"batch_size": 4, "num_steps": 7, "epochs": 9, "validation": TOKENS[:50], "rng": 3}
    for per in ("step", "epoch"):
        records = list(train(model(), TOKENS, max_steps=20, per=per, **options))
        assert records[-1].step == 20
        assert records[-1].validation_loss is not None


def test_max_seconds_stops():
    records = list(
        train(model(), TOKENS, batch_size=4, num_steps=7, epochs=10**9, max_seconds=0.2, per="step")
    )
    assert 0.2 <= sum(record.seconds for record in records) + 0.1 < 2


def test_the_learning_rate_may_be_a_function_of_the_step():
    seen = []

    class Spy(SGD):
        def step(self, grads):
            seen.append(self.lr)
            super().step(grads)

    mine = model()
    spy = Spy(mine.params, 9.0)
    rate = lambda step: 1 / (1 + step)  # noqa: E731
    for _ in train(mine, TOKENS, batch_size=4, num_steps=7, max_steps=5, optimizer=spy, lr=rate):
        pass
    assert seen == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    seen.clear()
    for _ in train(
        mine, TOKENS, batch_size=4, num_steps=7, max_steps=2, optimizer=Spy(mine.params, 0.3)
    ):
        pass
    assert seen == [0.3, 0.3]


def test_dropout_is_drawn_from_the_generator():
    runs = []
    for seed in (1, 1, 2):
        one = model(num_layers=2, dropout=0.5)
        options = {"batch_size": 4, "num_steps": 7, "max_steps": 3, "rng": seed}
        runs.append([record.loss for record in train(one, TOKENS, per="step", **options)])
    assert runs[0] == runs[1] != runs[2]


def test_a_step_that_would_spoil_the_weights_is_not_taken():
    mine = model()
    mine.params["readout.weight"][0, 0] = np.nan
    before = {name: value.copy() for name, value in mine.params.items()}
    with pytest.raises(NonFiniteError, match=r"step 1, loss nan: .*readout\.weight"):
        next(train(mine, TOKENS, batch_size=4, num_steps=7))
    for name, value in before.items():
        np.testing.assert_array_equal(mine.params[name], value)


@pytest.mark.parametrize("num_steps", [1, 7, 512])
def test_evaluation_scores_every_token_once_with_the_state_carried(num_steps):
    mine = model()
    tokens = TOKENS[:40]
    expected, _ = naive.language_model_loss(
        mine.params, tokens[:-1, None], tokens[1:, None], np.zeros((1, 1, 8)), "tanh"
    )
    assert evaluate(mine, tokens, num_steps=num_steps) == pytest.approx(expected, rel=1e-12)


def test_only_language_models_are_trained_on_tokens():
    with pytest.raises(TypeError, match="model must be a LanguageModel, got SequenceTagger"):
        train(nprnn.SequenceTagger(5, 4, 3), TOKENS, batch_size=4, num_steps=7)


def test_perplexity_of_a_huge_loss_is_infinite():
    record = Record(1, 1, 1e4, 0.0, 1, 0.0)
    assert record.perplexity == math.inf
    assert record.tokens_per_second == math.inf
    assert record.validation_perplexity is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch_size": 0}, ValueError, ["batch_size"]),
        ({"num_steps": 400}, ValueError, ["too few", "num_steps"]),
        ({"epochs": 0}, ValueError, ["epochs", "at least 1"]),
        ({"max_steps": 0}, ValueError, ["max_steps", "at least 1"]),
        ({"max_seconds": 0}, ValueError, ["max_seconds", "(0, inf]"]),
        ({"max_norm": 0}, ValueError, ["max_norm", "(0, inf]"]),
        ({"lr": -1}, ValueError, ["lr", "[0, inf)"]),
        ({"order": "sorted"}, ValueError, ["order", "'sequential'", "'sorted'"]),
        ({"per": "token"}, ValueError, ["per", "'epoch'", "'token'"]),
        ({"validation": [1]}, ValueError, ["validation", "at least 2"]),
        ({"validation": [1, 5]}, ValueError, ["validation", "vocab_size-1 = 4"]),
        ({"rng": "x"}, TypeError, ["rng"]),
        ({"optimizer": "sgd"}, TypeError, ["optimizer", "step", "'sgd'"]),
        ({"tokens": [5] * 400}, ValueError, ["tokens", "vocab_size-1 = 4", "5"]),
        ({"tokens": [0.5] * 400}, TypeError, ["tokens", "integers"]),
    ],
)
def test_wrong_arguments_are_refused_before_training(options, error, words):
    tokens = options.pop("tokens", TOKENS)
    with pytest.raises(error) as caught:
        train(model(), tokens, **{"batch_size": 4, "num_steps": 7, **options})
    assert all(word in str(caught.value) for word in words), caught.value
