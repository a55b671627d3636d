"""What the ranks of an MPI job check together; `test_distributed` starts them.

    mpiexec -n 2 python tests/ranks.py

Each check runs on all ranks and raises on any; its name is written by rank 0 when all are through.
"""

import sys
import traceback

import numpy as np
import pytest

import nprnn
from nprnn.alone import Alone
from nprnn.distributed import Ranks, RanksError

RANKS = Ranks() if __name__ == "__main__" else Alone()
N = RANKS.size
B, T, V, H = 2 * N, 7, 5, 4
CELLS = ["rnn", "gru", "lstm"]
TOKENS = np.random.default_rng(7).integers(0, V, 1000)


def trained(cell, ranks, order="sequential", steps=50, **options):
    """Train a small network; return records, parameters, position and Generator."""
    model = nprnn.LanguageModel(V, H, cell=cell, num_layers=2, dropout=0.4, rng=3, dtype="float64")
    optimizer = nprnn.Adam(model.params, lr=0.02)
    position, rng = nprnn.training.Position(), np.random.default_rng(5)
    records = list(
        nprnn.train(
            model, TOKENS, batch_size=B, num_steps=T, epochs=99, max_steps=steps, per="step",
            optimizer=optimizer, max_norm=0.5, order=order, validation=TOKENS[:200],
            position=position, ranks=ranks, rng=rng, **options,
        )
    )  # fmt: skip
    return records, model.params, position, rng


def close(ours, theirs, tolerance=1e-10):
    """Compare two arrays, relative to the largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() <= tolerance * largest, np.abs(ours - theirs).max() / largest


def same_answer_as_one_process():
    """Fifty steps of every cell, with dropout, in both orders."""
    for cell in CELLS:
        for order in ("sequential", "random"):
            records, params, position, rng = trained(cell, RANKS, order)
            alone, expected, where, single = trained(cell, Alone(), order)
            for name, value in expected.items():
                close(params[name], value)
            close([r.loss for r in records], [r.loss for r in alone])
            close([r.grad_norm for r in records], [r.grad_norm for r in alone])
            close([r.validation_loss for r in records if r.validation_loss],
                  [r.validation_loss for r in alone if r.validation_loss])  # fmt: skip
            assert [r.tokens for r in records] == [r.tokens for r in alone]
            assert rng.bit_generator.state == single.bit_generator.state
            assert (position.step, position.batch) == (where.step, where.batch)
            assert (position.state is None) == (where.state is None)
            if where.state is not None:
                whole = RANKS.whole_state(position.state)
                for ours, theirs in zip(parts(whole), parts(where.state), strict=True):
                    close(ours, theirs)
                for ours, theirs in zip(
                    parts(RANKS.own_state(whole)), parts(position.state), strict=True
                ):
                    np.testing.assert_array_equal(ours, theirs)


def parts(state):
    """Return the arrays of a state."""
    return state if isinstance(state, tuple) else (state,)


def same_bits_on_all_ranks():
    """In float32 too, where sums depend on their order."""
    model = nprnn.LanguageModel(V, 32, cell="gru", rng=1)
    for _ in nprnn.train(model, TOKENS, batch_size=B, num_steps=T, epochs=3, ranks=RANKS, rng=2):
        pass
    for name, value in model.params.items():
        RANKS.check_same(name, value.tobytes())
    RANKS.check_equal(model.params, 0)


def the_same_seed_without_one():
    """Who gives no Generator trains on the same offsets all the same."""
    model = nprnn.LanguageModel(V, H, num_layers=2, dropout=0.5, rng=1)
    records = nprnn.train(
        model, TOKENS, batch_size=B, num_steps=T, epochs=2, order="random", ranks=RANKS
    )
    losses = [record.loss for record in records]
    RANKS.check_same("losses", repr(losses))


def lengths_count_by_their_predictions():
    """The mean is over all valid positions of the whole batch, and masks are the whole batch's."""
    rng = np.random.default_rng(0)
    for cell in CELLS:
        model = nprnn.SequenceTagger(
            3, H, 4, cell=cell, num_layers=2, dropout=0.5, bidirectional=True, rng=1,
            dtype="float64",
        )  # fmt: skip
        x, y = rng.normal(size=(T, B, 3)), rng.integers(0, 4, (T, B))
        lengths = rng.integers(1, T + 1, B)
        lengths[:2] = T  # so that the first ranks' own are all of one length
        loss, grads, _ = model.loss_and_grads(x, y, lengths=lengths, rng=9)
        own = RANKS.columns(B)
        masks = RANKS.generator(np.random.default_rng(9))
        part = model.loss_and_grads(x[:, own], y[:, own], lengths=lengths[own], rng=masks)
        mean, joined = RANKS.mean(part[0], part[1], weight=lengths[own].sum())
        close(mean, loss)
        for name, gradient in grads.items():
            close(joined[name], gradient)


def classes_of_whole_sequences():
    """The read-out's masks of a classifier are shared out too."""
    model = nprnn.SequenceClassifier(3, H, 4, num_layers=2, dropout=0.5, rng=1, dtype="float64")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(T, B, 3)), rng.integers(0, 4, B)
    loss, grads, _ = model.loss_and_grads(x, y, rng=9)
    own = RANKS.columns(B)
    masks = RANKS.generator(np.random.default_rng(9))
    part = model.loss_and_grads(x[:, own], y[own], rng=masks)
    mean, joined = RANKS.mean(part[0], part[1])
    close(mean, loss)
    for name, gradient in grads.items():
        close(joined[name], gradient)


def batches_are_read_in_columns():
    """Each rank reads its own windows, together those of the whole batch."""
    for draw in (nprnn.sequential_batches, nprnn.random_batches):
        own = RANKS.columns(B)
        whole = list(draw(TOKENS, B, T, rng=4))
        mine = list(draw(TOKENS, B, T, rng=4, columns=own))
        assert len(whole) == len(mine) > 3
        for (inputs, targets), (x, y) in zip(whole, mine, strict=True):
            np.testing.assert_array_equal(inputs[:, own], x)
            np.testing.assert_array_equal(targets[:, own], y)


def going_on_with_another_number_of_ranks():
    """Half by these ranks, half alone: the whole state travels."""
    _, expected, _, _ = trained("lstm", Alone(), steps=30)
    model = nprnn.LanguageModel(V, H, cell="lstm", num_layers=2, dropout=0.4, rng=3,
                                dtype="float64")  # fmt: skip
    optimizer = nprnn.Adam(model.params, lr=0.02)
    position = nprnn.training.Position()
    rng = np.random.default_rng(5)
    settings = {"batch_size": B, "num_steps": T, "epochs": 99, "optimizer": optimizer,
                "max_norm": 0.5, "position": position, "rng": rng}  # fmt: skip
    list(nprnn.train(model, TOKENS, max_steps=13, ranks=RANKS, **settings))
    position.state = RANKS.whole_state(position.state)
    list(nprnn.train(model, TOKENS, max_steps=30, **settings))
    for name, value in expected.items():
        close(model.params[name], value)


def what_is_not_finite_is_known_to_all():
    """A NaN on the last rank stops all, with a sentence that names the rank."""
    model = nprnn.LanguageModel(V, H, cell="gru", rng=1, dtype="float64")
    honest = model.loss_and_grads

    def spoilt(*arguments, **options):
        loss, grads, state = honest(*arguments, **options)
        if RANKS.rank == N - 1:
            grads["rnn.weight_hh_l0"][0, 0] = np.nan
        return loss, grads, state

    model.loss_and_grads = spoilt
    with pytest.raises(nprnn.NonFiniteError, match=f"on rank {N - 1} it appears only in the sum"):
        list(nprnn.train(model, TOKENS, batch_size=B, num_steps=T, epochs=1, ranks=RANKS, rng=2))


def taking_back_is_done_together():
    """A step that one rank finds bad is taken back by all."""
    model = nprnn.LanguageModel(V, H, rng=1, dtype="float64")
    honest, calls = model.loss_and_grads, []

    def spoilt(*arguments, **options):
        loss, grads, state = honest(*arguments, **options)
        calls.append(loss)
        return np.inf if len(calls) == 4 and RANKS.rank == 0 else loss, grads, state

    model.loss_and_grads = spoilt
    records = list(
        nprnn.train(model, TOKENS, batch_size=B, num_steps=T, epochs=1, ranks=RANKS, rng=2,
                    on_nonfinite="rollback", per="step")
    )  # fmt: skip
    assert sum(record.rollbacks for record in records) == 1
    RANKS.check_equal(model.params, 0)


def other_parameters_are_noticed():
    """The checksum names the rank."""
    if N == 1:
        return
    params = {"w": np.full(3, 1.0 if RANKS.rank < N - 1 else 2.0)}
    with pytest.raises(RanksError, match=f"after step 17 .* of rank {N - 1} "):
        RANKS.check_equal(params, 17)
    with pytest.raises(RanksError, match=f"the same weights; rank {N - 1} "):
        RANKS.check_same("weights", params["w"].tobytes())
    model = nprnn.LanguageModel(V, H, rng=RANKS.rank)
    with pytest.raises(RanksError, match=r"after step 0 .* of rank 1 "):
        list(nprnn.train(model, TOKENS, batch_size=B, num_steps=T, ranks=RANKS, rng=0))


def a_batch_that_cannot_be_shared_is_refused():
    """With the sizes that would work."""
    model = nprnn.LanguageModel(V, H, rng=0)
    if N > 1:
        with pytest.raises(ValueError, match=f"take {2 * N} or {3 * N}"):
            nprnn.train(model, TOKENS, batch_size=2 * N + 1, num_steps=T, ranks=RANKS)


def the_time_limit_is_the_same_for_all():
    """Clocks differ; what is decided by them must not."""
    model = nprnn.LanguageModel(V, H, rng=0)
    records = list(
        nprnn.train(model, TOKENS, batch_size=B, num_steps=T, epochs=10**6, per="step",
                    max_seconds=0.05 * (1 + RANKS.rank), ranks=RANKS, rng=0)
    )  # fmt: skip
    RANKS.check_same("number of steps", str(len(records)))


def bytes_are_shared():
    """Of any length, none too."""
    for content in (b"", b"abc", bytes(range(256)) * 1000):
        assert RANKS.share(content if RANKS.rank == 0 else b"?") == content


CHECKS = [
    same_answer_as_one_process,
    same_bits_on_all_ranks,
    the_same_seed_without_one,
    lengths_count_by_their_predictions,
    classes_of_whole_sequences,
    batches_are_read_in_columns,
    going_on_with_another_number_of_ranks,
    what_is_not_finite_is_known_to_all,
    taking_back_is_done_together,
    other_parameters_are_noticed,
    a_batch_that_cannot_be_shared_is_refused,
    the_time_limit_is_the_same_for_all,
    bytes_are_shared,
]


def main():
    """Run the checks; a rank that fails ends all."""
    for check in CHECKS:
        try:
            check()
        except BaseException:
            print(f"rank {RANKS.rank}, {check.__name__}:", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            RANKS.end_all(1)
        RANKS.wait()
        if RANKS.rank == 0:
            print(f"ok {check.__name__}", flush=True)


if __name__ == "__main__":
    main()
