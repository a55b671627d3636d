import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nprnn import random_batches, sequential_batches
from nprnn.batching import check_ids
from nprnn.testing import seeds

SIZES = {"batch_size": st.integers(1, 6), "num_steps": st.integers(1, 7)}
both = pytest.mark.parametrize("batches", [sequential_batches, random_batches])


@both
@given(extra=st.integers(1, 60), seed=seeds, **SIZES)
def test_targets_are_inputs_one_step_later(batches, batch_size, num_steps, extra, seed):
    tokens = np.arange(batch_size * num_steps + extra, dtype=np.int32)
    drawn = list(batches(tokens, batch_size, num_steps, rng=seed))
    assert drawn
    for inputs, targets in drawn:
        assert inputs.shape == targets.shape == (num_steps, batch_size)
        assert inputs.dtype == np.int32
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[0] + np.arange(num_steps)[:, None])
    everything = np.concatenate([inputs.ravel() for inputs, _ in drawn])
    assert len(np.unique(everything)) == len(everything)
    # What is left out: fewer than T in front, and what does not fill a batch behind.
    assert len(everything) > len(tokens) - 1 - num_steps - (batch_size * num_steps + batch_size)


@given(extra=st.integers(1, 60), seed=seeds, **SIZES)
def test_sequential_windows_continue_each_other(batch_size, num_steps, extra, seed):
    tokens = np.arange(batch_size * num_steps + extra)
    drawn = list(sequential_batches(tokens, batch_size, num_steps, rng=seed))
    for (before, _), (after, _) in itertools.pairwise(drawn):
        np.testing.assert_array_equal(after[0], before[-1] + 1)


def test_the_offset_is_random_and_covers_every_place():
    tokens = np.arange(1000)
    for batches in (sequential_batches, random_batches):
        places = {next(batches(tokens, 3, 5, rng=seed))[0][0, 0] % 5 for seed in range(99)}
        assert places == set(range(5))
    assert {next(sequential_batches(tokens, 3, 5))[0][0, 0] for _ in range(9)} == {0}


def test_random_windows_come_in_another_order_each_time_and_the_same_for_a_seed():
    tokens = np.arange(1000)
    first, second = (
        [inputs.tolist() for inputs, _ in random_batches(tokens, 3, 5, rng=seed)] for seed in (1, 2)
    )
    again = [inputs.tolist() for inputs, _ in random_batches(tokens, 3, 5, rng=1)]
    assert first == again
    assert first != second
    starts = [start for inputs in first for start in inputs[0]]
    assert starts != sorted(starts)


def test_a_generator_moves_on_from_epoch_to_epoch():
    rng = np.random.default_rng(0)
    tokens = np.arange(1000)
    epochs = [next(random_batches(tokens, 3, 5, rng=rng))[0].tolist() for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]


@both
def test_batches_own_their_arrays(batches):
    tokens = np.arange(50)
    inputs, targets = next(batches(tokens, 2, 4, rng=0))
    assert not np.shares_memory(inputs, targets)
    assert not np.shares_memory(inputs, tokens)
    inputs[...] = -1
    assert targets.min() >= 0


@both
def test_a_memory_map_is_read_window_by_window(batches, tmp_path):
    path = tmp_path / "tokens"
    np.arange(100, dtype=np.uint16).tofile(path)
    tokens = np.memmap(path, np.uint16, "r")
    inputs, targets = next(batches(tokens, 2, 4, rng=0))
    assert type(inputs) is type(targets) is np.ndarray
    np.testing.assert_array_equal(targets, inputs + 1)


@both
@given(**SIZES, missing=st.integers(1, 50))
def test_too_few_tokens_name_sizes_that_work(batches, batch_size, num_steps, missing):
    num_tokens = max(0, batch_size * num_steps + 1 - missing)
    with pytest.raises(ValueError, match="too few") as caught:
        batches(np.arange(num_tokens), batch_size, num_steps)
    message = str(caught.value)
    assert f"needs {batch_size * num_steps + 1}" in message
    if num_tokens < 2:
        assert "needs 2" in message
        return
    offers = message.split("would work: ")[1].split(", or ")
    assert offers
    for offer in offers:
        sizes = dict(part.split("=") for part in offer.split(" with "))
        sizes = {name: int(value) for name, value in sizes.items()}
        list(batches(np.arange(num_tokens), **sizes))
        bigger = {name: value + (name in offer.split("=")[0]) for name, value in sizes.items()}
        with pytest.raises(ValueError, match="too few"):
            batches(np.arange(num_tokens), **bigger)


@both
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.arange(99), 0, 5), ValueError, ["batch_size", "at least 1"]),
        ((np.arange(99), 2, -5), ValueError, ["num_steps", "at least 1", "-5"]),
        ((np.arange(99), 2.0, 5), TypeError, ["batch_size", "integer"]),
        ((np.arange(99.0), 2, 5), TypeError, ["tokens", "integers", "float64"]),
        ((np.ones((9, 9), int), 2, 5), ValueError, ["tokens", "(N,)", "(9, 9)"]),
        (("text", 2, 5), TypeError, ["tokens", "numbers"]),
        (([], 2, 5), ValueError, ["tokens", "too few"]),
        (([[1], [2, 3]], 2, 5), TypeError, ["tokens", "array"]),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(batches, arguments, error, words):
    with pytest.raises(error) as caught:
        batches(*arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_memory_map_is_read_and_unmapped_window_by_window(tmp_path):
    """What is resident of a map stays far below its size, though all of it is read."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "ids"
    np.tile(np.arange(200, dtype=np.uint8), 1_000_000).tofile(path)  # 200 MB
    tokens = np.memmap(path, np.uint8, "r")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_ids("tokens", tokens, 200, "vocab_size")
    for inputs, targets in itertools.islice(sequential_batches(tokens, 400, 5000), 100):
        assert (targets == (inputs + 1) % 200).all()
    with pytest.raises(ValueError, match=r"tokens must be integers in 0 .. vocab_size-1 = 198"):
        check_ids("tokens", tokens, 199, "vocab_size")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120_000  # KiB


def test_unmapping_leaves_changes_alone(tmp_path):
    path = tmp_path / "ids"
    np.zeros(10_000, np.uint8).tofile(path)
    own = np.memmap(path, np.uint8, "c")
    own[:] = 7
    assert next(iter(sequential_batches(own, 2, 50)))[0].min() == 7
