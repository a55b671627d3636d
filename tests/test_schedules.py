import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nprnn import SGD, LanguageModel, schedules, train
from nprnn.schedules import constant, cosine, exponential, step_decay, warm_up

LRS = st.floats(0, 10)
STEPS = st.integers(0, 2000)


@given(LRS, STEPS, st.integers(1, 1000), st.floats(0, 1))
def test_the_equations(lr, t, n, factor):
    assert constant(lr)(t) == lr
    assert step_decay(lr, n, factor)(t) == pytest.approx(lr * factor ** math.floor(t / n))
    assert exponential(lr, factor)(t) == pytest.approx(lr * factor**t)
    wave = factor + (lr - factor) * (1 + math.cos(math.pi * t / n)) / 2
    assert cosine(lr, n, factor)(t) == pytest.approx(wave if t < n else factor, abs=1e-12)
    rise = min(1, (t + 1) / n)
    assert warm_up(exponential(lr, factor), n)(t) == pytest.approx(lr * factor**t * rise)


@given(LRS, st.integers(1, 1000), LRS)
def test_a_cosine_starts_at_its_rate_falls_and_stays(lr, n, final):
    schedule = cosine(lr, n, final)
    rates = [schedule(t) for t in range(n + 1)]
    assert rates[0] == pytest.approx(lr)
    assert rates[n] == schedule(n + 1) == schedule(10 * n) == final
    sign = 1 if lr >= final else -1
    assert (np.diff(rates) * sign <= 1e-12).all()


@pytest.mark.parametrize("steps", [0, 1])
def test_a_warm_up_of_no_length_changes_nothing(steps):
    schedule = cosine(0.3, 10)
    assert [warm_up(schedule, steps)(t) for t in range(12)] == [schedule(t) for t in range(12)]


def test_a_warm_up_takes_any_function_and_is_exact_at_its_end():
    schedule = warm_up(lambda step: 0.1 + step, 7)
    assert schedule(0) == pytest.approx(0.1 / 7)
    assert schedule(6) == 6.1
    assert schedule(7) == 7.1


@pytest.mark.parametrize(
    "text",
    [
        "constant(0.1)",
        "step_decay(0.1, every=20, factor=0.5)",
        "exponential(0.1, factor=0.99)",
        "cosine(0.1, total_steps=30, final=0.01)",
        "warm_up(warm_up(cosine(0.1, total_steps=30, final=0.0), steps=9), steps=3)",
    ],
)
def test_a_repr_is_the_call_that_made_it(text):
    names = {name: getattr(schedules, name) for name in dir(schedules)}
    schedule = eval(text, names)
    assert repr(schedule) == text
    assert type(schedule(np.int64(3))) is float


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: constant(-0.1), ValueError, ["lr", "[0, inf)", "-0.1"]),
        (lambda: constant("fast"), TypeError, ["lr", "'fast'"]),
        (lambda: step_decay(0.1, 0), ValueError, ["every", "at least 1", "0"]),
        (lambda: step_decay(0.1, 2.5), TypeError, ["every", "integer", "2.5"]),
        (lambda: step_decay(0.1, 2, -1), ValueError, ["factor"]),
        (lambda: exponential(0.1, 1.01), ValueError, ["factor", "[0, 1]"]),
        (lambda: exponential(math.nan, 0.5), ValueError, ["lr", "nan"]),
        (lambda: cosine(0.1, 0), ValueError, ["total_steps", "at least 1"]),
        (lambda: cosine(0.1, 10, -0.1), ValueError, ["final"]),
        (lambda: warm_up(0.1, 10), TypeError, ["schedule", "0.1", "constant"]),
        (lambda: warm_up(constant(0.1), -1), ValueError, ["steps", "at least 0"]),
        (lambda: constant(0.1)(-1), ValueError, ["step", "at least 0", "-1"]),
        (lambda: cosine(0.1, 10)(1.5), TypeError, ["step", "1.5"]),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_training_asks_the_schedule_before_each_step():
    model = LanguageModel(4, 3, rng=0)
    tokens = np.random.default_rng(0).integers(0, 4, 200)
    optimizer = SGD(model.params, 1.0)
    schedule = warm_up(cosine(0.5, 20, 0.1), 5)
    options = {"batch_size": 2, "num_steps": 8, "per": "step", "max_steps": 9, "rng": 0}
    records = train(model, tokens, optimizer=optimizer, lr=schedule, **options)
    rates = [optimizer.lr for _ in records]
    assert rates == [schedule(t) for t in range(9)]
