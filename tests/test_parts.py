"""A batch in parts, side by side: the same numbers as in one, whoever else computes meanwhile."""

import copy
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import CELLS, long_cases, whole

import nprnn
from nprnn import blas, models, parts
from nprnn.blas import OpenBLAS, one_thread
from nprnn.columns import Columns
from nprnn.gradcheck import check_gradients
from nprnn.parts import columns, number_of_parts, side_by_side
from nprnn.stack import as_parts
from nprnn.testing import map_state

THREADS = 4


@pytest.fixture(autouse=True)
def parts_of_any_size(monkeypatch):
    """Divide batches however small the network."""
    monkeypatch.setattr(parts, "_MEANWHILE", 0)


@pytest.fixture
def library(monkeypatch):
    """Stand in for a BLAS of three threads; return what it is set to."""
    now = [3]
    fake = OpenBLAS("Haswell", lambda: now[0], lambda number: now.__setitem__(0, number))
    monkeypatch.setattr(blas, "openblas", lambda: fake)
    return now


def sizes_of_parts(monkeypatch):
    """Return a list of how many sequences each part has that is computed from now on."""
    seen, learn = [], models.SequenceModel._learn

    def watched(self, count, spans, *arguments):
        seen.append(np.shape(spans[0][0].inputs)[1:2])
        return learn(self, count, spans, *arguments)

    monkeypatch.setattr(models.SequenceModel, "_learn", watched)
    return seen


def assert_near(found, wanted, atol=1e-12):
    (loss, grads, final), (one_loss, one_grads, one_final) = found[:3], wanted[:3]
    assert loss == pytest.approx(one_loss, rel=1e-12)
    for own, one in zip(as_parts(final), as_parts(one_final), strict=True):
        assert own.shape == one.shape
        np.testing.assert_allclose(own, one, rtol=0, atol=1e-13)
    assert list(grads) == list(one_grads)
    for name, gradient in grads.items():
        np.testing.assert_allclose(gradient, one_grads[name], rtol=0, atol=atol, err_msg=name)


@settings(max_examples=80, deadline=None)
@given(long_cases(), st.integers(2, THREADS), st.sampled_from([6, 10**6]))
def test_parts_change_nothing_but_the_order_of_additions(drawn, threads, rows):
    model, inputs, targets, options = drawn

    def call(threads):
        return model.loss_and_grads(inputs, targets, **options, threads=threads)

    found = whole(rows, lambda: call(threads))
    assert_near(found, whole(rows, lambda: call(1)))
    again = whole(rows, lambda: call(threads))
    for name, gradient in found[1].items():
        np.testing.assert_array_equal(gradient, again[1][name], err_msg=name)


@settings(max_examples=40, deadline=None)
@given(long_cases(), st.integers(2, THREADS))
def test_reading_in_parts_reads_the_same(drawn, threads):
    model, inputs, targets, options = drawn
    mask = options.pop("mask", None)
    calls = [model(inputs, **options, threads=number) for number in (threads, 1)]
    for own, one in zip(map(as_flat, calls[0]), map(as_flat, calls[1]), strict=True):
        assert own.shape == one.shape
        np.testing.assert_allclose(own, one, rtol=0, atol=1e-13)
    losses = [model.loss(inputs, targets, **options, mask=mask, threads=k)[0] for k in (threads, 1)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def as_flat(part):
    return np.concatenate([np.asarray(every) for every in as_parts(part)])


def test_reading_is_shared_out_too(monkeypatch):
    asked = []

    def watched(calls):
        asked.append(len(calls))
        return side_by_side(calls)

    monkeypatch.setattr(models, "side_by_side", watched)
    model, ids = nprnn.LanguageModel(3, 4, cell="lstm", rng=0), np.zeros((5, 6), int)
    logits, (h, c) = model(ids, threads=3)
    assert (logits.shape, h.shape, c.shape) == ((5, 6, 3), (1, 6, 4), (1, 6, 4))
    model.loss(ids, ids, threads=2)
    model.loss(ids, ids)
    assert asked == [3, 2]


@pytest.mark.parametrize("every", [None, 4, "auto"])
def test_parts_recompute_to_the_bit(monkeypatch, every):
    monkeypatch.setattr(models, "WINDOW_ROWS", 6)
    rng = np.random.default_rng(2)
    model = nprnn.LanguageModel(5, 4, cell="lstm", num_layers=2, dropout=0.3, rng=rng)
    inputs, targets = rng.integers(0, 5, (2, 19, 6))
    kept = model.loss_and_grads(inputs, targets, rng=1, threads=3)
    seen = sizes_of_parts(monkeypatch)
    again = model.loss_and_grads(inputs, targets, rng=1, threads=3, recompute_every=every)
    assert seen == [(2,)] * 3
    for name, gradient in kept[1].items():
        np.testing.assert_array_equal(gradient, again[1][name], err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_parts(cell):
    rng = np.random.default_rng(3)
    model = nprnn.LanguageModel(3, 3, cell=cell, num_layers=2, dtype=np.float64, rng=rng)
    inputs, targets = rng.integers(0, 3, (2, 9, 4))
    state = map_state(lambda part: rng.normal(size=part.shape), model(inputs)[1])
    options = {"lengths": [9, 0, 4, 7], "mask": rng.random((9, 4)) < 0.6}
    _, grads, _ = model.loss_and_grads(inputs, targets, state, **options, threads=2)

    def loss(params):
        return model.with_params(params).loss(inputs, targets, state, **options)[0]

    check_gradients(loss, model.params, grads, method="complex", rtol=1e-10)


def test_both_directions_in_parts():
    rng = np.random.default_rng(4)
    model = nprnn.SequenceTagger(3, 5, 2, bidirectional=True, dtype=np.float64, rng=rng)
    x, targets = rng.normal(size=(7, 6, 3)), rng.integers(0, 2, (7, 6))
    state = rng.normal(size=(2, 6, 5))
    calls = [model.loss_and_grads(x, targets, state, threads=threads) for threads in (3, 1)]
    assert_near(*calls)


def test_a_classifier_a_sequence_alone_and_an_odd_batch_stay_whole(monkeypatch):
    seen = sizes_of_parts(monkeypatch)
    x = np.ones((5, 4, 3), np.float32)
    nprnn.SequenceClassifier(3, 4, 2, rng=0).loss_and_grads(x, [0, 1, 1, 0], threads=4)
    nprnn.LanguageModel(3, 4, rng=0).loss_and_grads([0, 1, 2], [1, 2, 0], threads=4)
    ids = np.zeros((5, 7), int)
    nprnn.LanguageModel(3, 4, rng=0).loss_and_grads(ids, ids, threads=4)
    assert seen == [(4,), (), (7,)]


def test_masks_are_those_of_the_whole_batch():
    rng = np.random.default_rng(5)
    model = nprnn.LanguageModel(4, 6, num_layers=2, dropout=0.5, dtype=np.float64, rng=rng)
    inputs, targets = rng.integers(0, 4, (2, 9, 6))
    one, three, ranks = (np.random.default_rng(7) for _ in range(3))
    wanted = model.loss_and_grads(inputs, targets, rng=one)
    assert_near(model.loss_and_grads(inputs, targets, rng=three, threads=3), wanted)
    assert one.random() == three.random()
    # A rank's columns, divided once more.
    first = Columns(ranks, 0, 2)
    half = inputs[:, :2], targets[:, :2]
    wanted = model.loss_and_grads(*half, rng=copy.deepcopy(first))
    assert_near(model.loss_and_grads(*half, rng=first, threads=2), wanted)


def test_as_many_parts_as_divide_the_batch_and_have_enough_to_do(monkeypatch):
    monkeypatch.setattr(parts, "_MEANWHILE", 1000)
    assert number_of_parts(1, 32, 10**9) == number_of_parts(4, 1, 10**9) == 1
    assert number_of_parts(4, 32, 10**9) == 4
    assert number_of_parts(4, 30, 10**9) == 3
    assert number_of_parts(4, 7, 10**9) == 1
    assert number_of_parts(10, 7, 10**9) == 7
    assert [number_of_parts(4, 32, weights) for weights in (124, 125, 499, 500)] == [1, 2, 2, 4]
    assert [columns(part, 3, 30) for part in range(3)] == [
        slice(0, 10), slice(10, 20), slice(20, 30),
    ]  # fmt: skip


def test_blas_has_one_thread_meanwhile_and_what_it_had_after(library):
    assert side_by_side([lambda: library[0]] * 3) == [1, 1, 1]
    assert library == [3]
    with one_thread():
        with one_thread():
            assert library == [1]
        assert library == [1]
    assert library == [3]


def test_whoever_ends_last_gives_blas_its_threads_back(library):
    inside, leave = threading.Event(), threading.Event()

    def longer():
        with one_thread():
            inside.set()
            assert leave.wait(60)
            return library[0]

    with ThreadPoolExecutor(1) as pool:
        with one_thread():
            other = pool.submit(longer)
            assert inside.wait(60)
        assert library == [1]
        leave.set()
        assert other.result() == 1
    assert library == [3]


@pytest.mark.skipif(not blas.openblas().core, reason="NumPy's BLAS is another")
def test_the_library_of_numpy_does_as_it_is_told():
    library = blas.openblas()
    before = library.threads()
    with one_thread():
        assert library.threads() == 1
    assert library.threads() == before


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_a_part_is_one_of_the_whole(library, place, error):
    done = []

    def part(k):
        if k == place:
            raise error("told")
        done.append(k)

    with pytest.raises(error, match="told"):
        side_by_side([lambda k=k: part(k) for k in range(3)])
    assert sorted(done) == [k for k in range(3) if k != place]  # none is left running
    assert library == [3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_has_threads_of_its_own():
    code = """
import os
from nprnn.parts import side_by_side
assert side_by_side([os.getpid] * 3) == [os.getpid()] * 3
child = os.fork()
assert side_by_side([os.getpid] * 3) == [os.getpid()] * 3
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "0\n"


def test_parts_do_as_the_caller_about_overflow():
    def overflow():
        return np.exp(np.float32(1000) * np.ones(2, np.float32))

    with np.errstate(over="ignore"):
        assert np.isinf(side_by_side([overflow, overflow])).all()
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        side_by_side([lambda: None, overflow])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": np.zeros((29, 4), int)}, r"targets must have shape \(T, B, ...\) = \(30, 4\)"),
        ({"mask": np.ones((30, 2), bool)}, r"mask must have shape \(T, B\) = \(30, 4\)"),
        ({"mask": np.zeros((30, 4), bool)}, "no prediction counts"),
        ({"lengths": [30, 31, 3, 3]}, "lengths must be in 0 .. T=30"),
        ({"inputs": np.full((30, 4), 3)}, r"inputs must be integers in 0 .. vocab_size-1 = 2"),
        ({"state": np.zeros((1, 2, 4), np.float32)}, r"state must have shape \(L\*D=1, B=4, H=4\)"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_same_words(change, words):
    model = nprnn.LanguageModel(3, 4, rng=0)
    ids = np.zeros((30, 4), int)
    with pytest.raises(ValueError, match=words):
        model.loss_and_grads(**{"inputs": ids, "targets": ids, "threads": 2, **change})


def test_training_in_threads_is_training(monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 5, 600)

    def losses(threads):
        model = nprnn.LanguageModel(5, 8, cell="gru", dropout=0.2, dtype=np.float64, rng=1)
        records = nprnn.train(model, tokens, batch_size=6, num_steps=10, epochs=3, rng=2,
                              threads=threads, validation=tokens)  # fmt: skip
        return [(record.loss, record.validation_loss) for record in records]

    whole_batches = losses(1)
    seen = sizes_of_parts(monkeypatch)
    np.testing.assert_allclose(losses(3), whole_batches, rtol=1e-9)
    assert set(seen) == {(2,)}


def test_eight_users_of_a_model_in_threads_see_what_one_sees():
    model = nprnn.LanguageModel(7, 16, cell="lstm", dropout=0.2, rng=0)
    ids = np.random.default_rng(1).integers(0, 7, (8, 2, 12, 6))

    def use(k):
        loss, grads, _ = model.loss_and_grads(*ids[k], rng=k, threads=3)
        return [loss.tobytes(), *(gradient.tobytes() for gradient in grads.values())]

    alone = [use(k) for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(8))) == alone
