import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nprnn
from nprnn.generation import sampler
from nprnn.stepping import Stepper
from nprnn.testing import seeds


def frequencies(draw, logits, n=5000):
    rng = np.random.default_rng(0)
    return np.bincount([draw(logits, rng) for _ in range(n)], minlength=len(logits)) / n


LOGITS = np.log([0.4, 0.05, 0.3, 0.05, 0.2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.4, 0.05, 0.3, 0.05, 0.2]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, np.array([16, 0.25, 9, 0.25, 4]) / 29.5),
        ({"temperature": 1e-6}, [1, 0, 0, 0, 0]),
        ({"temperature": 1e6}, [0.2] * 5),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"top_k": 4}, np.array([0.4, 0.05, 0.3, 0, 0.2]) / 0.95),
        ({"top_k": 99}, [0.4, 0.05, 0.3, 0.05, 0.2]),
        ({"top_p": 0.3}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.6}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"top_p": 0.85}, [4 / 9, 0, 3 / 9, 0, 2 / 9]),
        ({"top_p": 1.0}, [0.4, 0.05, 0.3, 0.05, 0.2]),
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0, 0]),
    ],
)
def test_settings_shape_the_distribution(settings, expected):
    np.testing.assert_allclose(frequencies(sampler(**settings), LOGITS), expected, atol=0.025)


@given(
    seeds,
    st.integers(1, 30),
    st.none() | st.integers(1, 40),
    st.none() | st.floats(0.01, 1),
    st.floats(0.0, 1e3),
)
def test_a_draw_is_always_a_token_and_among_the_allowed(seed, V, top_k, top_p, temperature):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 10 ** rng.uniform(-3, 3), V)
    token = sampler(temperature, top_k, top_p)(logits.astype(np.float32), rng)
    assert type(token) is int
    assert 0 <= token < V
    if top_k is not None:
        assert (logits.astype(np.float32) > logits.astype(np.float32)[token]).sum() < top_k


def test_huge_logits_do_not_overflow():
    logits = np.array([3e38, -3e38, 3e38], np.float32)
    assert {sampler()(logits, np.random.default_rng(seed)) for seed in range(30)} == {0, 2}


def test_a_draw_takes_one_number_and_greedy_none():
    rng, same = np.random.default_rng(0), np.random.default_rng(0)
    sampler(temperature=0)(LOGITS, rng)
    assert rng.random() == same.random()
    sampler(top_k=3, top_p=0.9)(LOGITS, rng)
    same.random()
    assert rng.random() == same.random()


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"embedding_size": 3}])
def test_steps_are_those_of_the_layers(cell, options):
    model = nprnn.LanguageModel(5, 6, cell=cell, dtype=np.float64, rng=0, **options)
    rng = np.random.default_rng(1)
    model = model.with_params({k: rng.normal(size=v.shape) for k, v in model.params.items()})
    ids = rng.integers(0, 5, 12)
    inputs = model.params["embedding.weight"][ids] if "embedding_size" in options else ids
    expected, _ = model.rnn(inputs)
    _, state = model.rnn(inputs[:4])
    for start, begin in [(0, None), (4, state)]:
        step = Stepper(model.rnn, begin)
        for t in range(start, 12):
            x = inputs[t] if inputs.ndim > 1 else int(inputs[t])
            np.testing.assert_allclose(step(x), expected[t], rtol=0, atol=1e-14)


def test_steps_without_bias():
    layer = nprnn.GRU(3, 4, bias=False, dtype=np.float64, rng=0)
    step = Stepper(layer)
    for t, expected in enumerate(layer([2, 0, 1, 1])[0]):
        np.testing.assert_allclose(step([2, 0, 1, 1][t]), expected, rtol=0, atol=1e-15)
