"""One model used from eight threads at once gives the bytes of one use after the other."""

import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nprnn
from nprnn import LanguageModel

THREADS = 8
V, H, T, B = 11, 24, 20, 4


@pytest.fixture(autouse=True)
def _often_interrupted():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def uses(model, seed):
    """Return what one user of the model sees, as bytes."""
    rng = np.random.default_rng(seed)
    x, targets = rng.integers(0, V, (2, T, B))
    state = nprnn.GRU(V, H, 2, rng=seed)(x)[1]  # any of the right shape
    state = (state, state / 2) if isinstance(model.rnn, nprnn.LSTM) else state
    output, final, cache = model.rnn.forward(*entered(model, x), state, rng=seed)
    seen = [output, final, model.rnn.backward(output, final, cache)]
    seen.append(model.loss_and_grads(x, targets, state, rng=seed))
    seen.append(model.loss_and_grads(x, targets, recompute_every=3))
    seen.append(model.loss(x, targets, state))
    walk = model.generate(x[:, 0], rng=seed, temperature=0.8, top_k=5)
    seen.append(np.array(list(itertools.islice(walk, 40))))
    return b"".join(flat(seen))


def entered(model, x):
    """Return the input of the layers: vectors, where the model embeds its tokens."""
    if not model.embedding_size:
        return (x,)
    return (nprnn.Embedding(V, model.embedding_size).with_params(
        {"weight": model.params["embedding.weight"]})(x),)  # fmt: skip


def flat(value):
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list | tuple):
        for each in value:
            yield from flat(each)
    elif value is not None:
        yield np.asarray(value).tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"cell": "rnn"},
        {"cell": "gru", "num_layers": 2, "dropout": 0.3},
        {"cell": "lstm", "num_layers": 2, "embedding_size": H, "tie_weights": True},
    ],
    ids=lambda options: options["cell"],
)
def test_eight_threads_see_what_one_sees(options):
    model = LanguageModel(V, H, **{"num_layers": 2, **options}, rng=0)
    before = {name: value.copy() for name, value in model.params.items()}
    seeds = range(3 * THREADS)
    alone = [uses(model, seed) for seed in seeds]
    together = threading.Barrier(THREADS)

    def use(seed):
        if seed < THREADS:
            together.wait(60)
        return uses(model, seed)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(use, seeds)) == alone
    assert len(set(alone)) == len(alone)
    for name, value in before.items():
        np.testing.assert_array_equal(model.params[name], value)


def test_trainings_side_by_side_do_not_meet():
    def weights(seed):
        model = LanguageModel(V, H, cell="gru", dropout=0.2, num_layers=2, rng=seed)
        tokens = np.random.default_rng(seed).integers(0, V, 400)
        optimizer = nprnn.Adam(model.params, lr=0.01)
        for _ in nprnn.train(model, tokens, batch_size=B, num_steps=T, optimizer=optimizer,
                             epochs=2, rng=seed):  # fmt: skip
            pass
        return b"".join(flat(model.params))

    alone = [weights(seed) for seed in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(weights, range(THREADS))) == alone


def test_a_vocabulary_and_a_sampler_are_shared_too():
    text = "the quick brown fox" * 200
    vocabulary = nprnn.Vocabulary(text)
    wanted = vocabulary.encode(text).tobytes()
    with ThreadPoolExecutor(THREADS) as pool:
        made = pool.map(lambda _: vocabulary.encode(text).tobytes(), range(THREADS))
        assert set(made) == {wanted}
