"""Arrays as people have them: any memory layout, none written to, wrong ones refused in time."""

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import GRU, LSTM, RNN, LanguageModel, optim
from nprnn.testing import seeds

T, B, I, H, V = 5, 3, 4, 6, 7  # noqa: E741


def plain(array, folder):
    return array


def strided(array, folder):
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def inner(array, folder):
    """Return a view of the middle of something larger."""
    larger = np.full([size + 2 for size in array.shape], -1, array.dtype)
    view = larger[tuple(slice(1, size + 1) for size in array.shape)]
    view[...] = array
    return view


def fortran(array, folder):
    return np.asfortranarray(array)


def swapped(array, folder):
    """Return a view whose first two axes lie in memory the other way round."""
    return array.swapaxes(0, 1).copy().swapaxes(0, 1) if array.ndim > 1 else array


def reversed_(array, folder):
    back = (slice(None, None, -1),) * array.ndim
    return array[back].copy()[back]


def read_only(array, folder):
    array.flags.writeable = False
    return array


def mapped(array, folder):
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    np.require(array, requirements="C").tofile(path)
    if not array.size:
        return array
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def other_endian(array, folder):
    return array.astype(array.dtype.newbyteorder())


FORMS = [plain, strided, inner, fortran, swapped, reversed_, read_only, mapped, other_endian]


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def ids(*shape, high=V):
    return np.random.default_rng(sum(shape)).integers(0, high, shape)


def pair(cell, array):
    return (array, array.copy()[::-1] if array.ndim else array) if cell is LSTM else array


# What is done: a function of the numbers, and the arrays that it is given.


def layer(cell, a, **options):
    one = cell(I, H, num_layers=2, bidirectional=True, rng=0, dtype=float, **options)
    output, state, cache = one.forward(a["x"], pair(cell, a["state"]), lengths=a.get("lengths"))
    kept = [np.array(output), *map(np.array, state)]
    output[...] = 7  # what is returned is the caller's own
    return kept, one.backward(a["d_output"], pair(cell, a["d_state"]), cache)


def layer_on_ids(cell, a):
    one = cell(V, H, rng=0, dtype=float)
    output, state, cache = one.forward(a["ids"])
    return output, state, one.backward(a["d_one"], None, cache), one(a["ids"])


def cell_step(cell, a):
    kind = {RNN: nprnn.RNNCell, GRU: nprnn.GRUCell, LSTM: nprnn.LSTMCell}[cell]
    one = kind(I, H, rng=0, dtype=float)
    output, state, cache = one.forward(a["x0"], pair(cell, a["state0"]))
    return output, state, one.backward(a["d_output0"], None, cache)


def given_params(cell, a):
    layer = cell(I, H, rng=0, dtype=float)
    gates = layer.params["bias_ih_l0"].size // H
    named = {name: a[f"{gates}.{name}"] for name in layer.params}
    one = layer.with_params(named)
    output, state, cache = one.forward(a["x"])
    return output, state, one.backward(a["d_one"], None, cache)


def linear(a):
    one = nprnn.Linear(H, V, rng=0, dtype=float)
    y, cache = one.forward(a["d_one"])
    return y, one.backward(a["logits"], cache)


def linear_params(a):
    one = nprnn.Linear(H, V, dtype=float).with_params({"weight": a["W"], "bias": a["b"]})
    y, cache = one.forward(a["d_one"])
    return y, one.backward(a["logits"], cache)


def embedding(a):
    one = nprnn.Embedding(V, I, dtype=float).with_params({"weight": a["E"]})
    vectors, cache = one.forward(a["ids"])
    return vectors, one.backward(a["x"], cache)


def losses(a):
    entropy = nprnn.softmax_cross_entropy(a["logits"], a["ids"], a["mask"])
    return entropy, nprnn.mean_squared_error(a["x"], a["y"], a["mask"])


def language_model(a):
    one = LanguageModel(V, H, rng=0, dtype=float, embedding_size=I)
    made = one.loss_and_grads(a["ids"], a["targets"], a["state1"], mask=a["mask"])
    walk = one.generate(a["prefix"], rng=0)
    return made, one.loss(a["ids"], a["targets"]), [next(walk) for _ in range(5)]


def tied_model(a):
    one = LanguageModel(V, H, rng=0, dtype=float, embedding_size=H, tie_weights=True)
    return one.loss_and_grads(a["ids"], a["targets"])


def classifier(a):
    one = nprnn.SequenceClassifier(I, H, V, pool="mean", rng=0, dtype=float)
    return one.loss_and_grads(a["x"], a["ids0"], lengths=a["lengths"])


def regressor(a):
    one = nprnn.SequenceRegressor(I, H, I, rng=0, dtype=float)
    return one.loss_and_grads(a["x"], a["y"]), one.forecast(a["x"], 3)


def optimizer(kind, a):
    params = {"W": np.zeros((V, H)), "b": np.zeros(V)}
    one = kind(params, lr=0.1)
    for _ in range(2):
        one.step({"W": a["W"], "b": a["b"]})
    return params


def tokens(a):
    made = [list(nprnn.sequential_batches(a["tokens"], 2, 3, rng=0)),
            list(nprnn.random_batches(a["tokens"], 2, 3, rng=0))]  # fmt: skip
    model = LanguageModel(V, H, rng=0, dtype=float)
    trained = [r.loss for r in nprnn.train(model, a["tokens"], batch_size=2, num_steps=3, rng=0)]
    text = nprnn.Vocabulary("abcdefg").decode(a["tokens"])
    return made, trained, nprnn.evaluate(model, a["tokens"]), text, nprnn.one_hot(a["ids"], V)


def padding(a):
    padded, lengths = nprnn.pad_sequences([a["x"][:, 0], a["y"][:2, 1]])
    return padded, lengths, nprnn.unpad_sequences(padded, lengths)


ARRAYS = {
    "x": numbers(T, B, I), "y": numbers(T, B, I) * 2, "state": numbers(4, B, H),
    "d_output": numbers(T, B, 2 * H), "d_state": numbers(4, B, H) + 1, "d_one": numbers(T, B, H),
    "lengths": np.array([T, 0, 2]), "ids": ids(T, B), "targets": ids(T, B)[::-1].copy(),
    "ids0": ids(B), "x0": numbers(B, I), "state0": numbers(B, H), "d_output0": numbers(B, H),
    "state1": numbers(1, B, H), "mask": ids(T, B) > 2, "logits": numbers(T, B, V),
    "W": numbers(V, H), "b": numbers(V), "E": numbers(V, I), "prefix": ids(4), "tokens": ids(31),
}  # fmt: skip
for _gates in (1, 3, 4):
    ARRAYS[f"{_gates}.weight_ih_l0"] = numbers(_gates * H, I)
    ARRAYS[f"{_gates}.weight_hh_l0"] = numbers(_gates * H, H) / 3
    ARRAYS[f"{_gates}.bias_ih_l0"] = numbers(_gates * H)
    ARRAYS[f"{_gates}.bias_hh_l0"] = numbers(_gates * H) + 1
ACTIONS = {
    **{f"{cell.__name__} {do.__name__}": functools.partial(do, cell)
       for cell in (RNN, GRU, LSTM) for do in (layer, layer_on_ids, cell_step, given_params)},
    **{do.__name__: do for do in (linear, linear_params, embedding, losses, language_model,
                                  tied_model, classifier, regressor, tokens, padding)},
    **{kind.__name__: functools.partial(optimizer, kind)
       for kind in (optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW)},
}  # fmt: skip


def leaves(value):
    """Yield the arrays and numbers of anything nested."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield np.array(value)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("name", ACTIONS)
def test_every_memory_layout_works_and_is_not_written_to(name, form, tmp_path):
    if form is other_endian and name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW"):
        pytest.skip("gradients have exactly the dtype of their parameters")
    expected = list(leaves(ACTIONS[name]({key: a.copy() for key, a in ARRAYS.items()})))
    formed = {key: form(a.copy(), tmp_path) for key, a in ARRAYS.items()}
    got = list(leaves(ACTIONS[name](formed)))
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        if one.dtype.kind in "US":
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    for key, array in formed.items():
        np.testing.assert_array_equal(array, ARRAYS[key])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("cell", [RNN, GRU, LSTM])
def test_no_sequences_and_a_single_step(cell, batch, steps):
    one = cell(I, H, num_layers=2, bidirectional=True, rng=0)
    x = np.ones((steps, batch, I), np.float32)
    for lengths in (None, np.full(batch, steps), np.zeros(batch, int)):
        output, state, cache = one.forward(x, lengths=lengths)
        d_x, d_state, grads = one.backward(np.ones_like(output), None, cache)
        assert (output.shape, d_x.shape) == ((steps, batch, 2 * H), x.shape)
        for part in (*leaves(state), *leaves(d_state)):
            assert part.shape == (4, batch, H)
        for name, value in one.params.items():
            assert grads[name].shape == value.shape
            assert batch or not grads[name].any()
    linear = nprnn.Linear(I, V, rng=0)
    y, linear_cache = linear.forward(x)
    d_x, grads = linear.backward(y, linear_cache)
    assert (y.shape, d_x.shape) == ((steps, batch, V), x.shape)
    vectors, embedded = nprnn.Embedding(V, I, rng=0).forward(np.ones((steps, batch), int))
    assert nprnn.Embedding(V, I, rng=0).backward(vectors, embedded)["weight"].shape == (V, I)
    tokens = np.ones((steps, batch), int)
    model = LanguageModel(V, H, cell=cell.__name__.lower(), rng=0)
    if batch:
        assert np.isfinite(model.loss_and_grads(tokens, tokens)[0])
    else:
        assert model(tokens)[0].shape == (steps, 0, V)
        with pytest.raises(ValueError, match="no mean over nothing"):
            model.loss_and_grads(tokens, tokens)


# Wrong shapes and dtypes

DTYPES = [
    "f4", "f8", "f2", "g", "c8", "c16", "i1", "i8", "u2", "?", "O", "U3", "S2", "M8[s]", "m8[s]",
    "V2",
]  # fmt: skip


@st.composite
def wrong(draw):
    """Return the name of an action, the one argument to replace, and what to put in its place."""
    name = draw(st.sampled_from(sorted(CALLS)))
    argument = draw(st.sampled_from(sorted(CALLS[name][1])))
    right = CALLS[name][1][argument]
    shape = tuple(right.shape)
    if draw(st.booleans()):
        shape = draw(
            st.one_of(
                st.lists(st.integers(0, 4), max_size=4).map(tuple),
                st.permutations(shape).map(tuple),
                st.just(shape[1:]),
                st.just((1, *shape)),
                st.just((*shape, 1)),
                st.just(tuple(1 for _ in shape)),  # what would be broadcast, silently
            )
        )
    return name, argument, shape, draw(st.sampled_from(DTYPES)), draw(seeds)


def filled(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "fc":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(-1, 3, shape).astype("S2" if dtype == "V2" else "i8").astype(dtype)


def shapes_and_kinds(value):
    return [(leaf.shape, leaf.dtype.kind) for leaf in leaves(value)]


def entropy(a):
    return nprnn.softmax_cross_entropy(a["logits"], a["targets"], a["mask"])


def squares(a):
    return nprnn.mean_squared_error(a["prediction"], a["target"], a["mask"])


def forward(cell, a):
    one = cell(I, H, rng=0)
    return one.forward(a["x"], pair(cell, a["state"]), lengths=a["lengths"])[:2]


def backward(cell, a):
    one = cell(I, H, rng=0)
    cache = one.forward(SINGLE["x"])[2]
    return one.backward(a["d_output"], pair(cell, a["d_state"]), cache)


def step(kind, a):
    params = {"W": np.ones((V, H), np.float32)}
    one, before = kind(params, lr=0.1), params["W"].copy()
    kept = one.state_dict()
    try:
        one.step({"W": a["W"]})
    except (TypeError, ValueError):
        np.testing.assert_array_equal(params["W"], before)
        for key, value in one.state_dict().items():
            np.testing.assert_array_equal(value, kept[key])
        raise
    return params


def clip(a):
    grads = {"first": np.full(3, 2.0), "W": a["W"]}
    try:
        return nprnn.clip_grad_norm(grads, 1.0)
    except (TypeError, ValueError):
        assert grads["first"].tolist() == [2.0] * 3
        raise


def model(a):
    return LanguageModel(V, H, rng=0).loss_and_grads(a["ids"], a["targets"], a["state"])


def parameters(a):
    one = nprnn.Linear(H, V).with_params({"weight": a["W"], "bias": a["b"]})
    return one(np.ones((2, H), one.params["weight"].dtype))


def single(array):
    return array.astype(np.float32) if array.dtype.kind == "f" else array


SINGLE = {key: single(a) for key, a in ARRAYS.items()}
_x = {"x": SINGLE["x"], "state": SINGLE["state1"], "lengths": SINGLE["lengths"]}
_d = {"d_output": SINGLE["d_one"], "d_state": SINGLE["state1"]}
CALLS = {
    **{f"{cell.__name__} forward": (functools.partial(forward, cell), _x)
       for cell in (RNN, GRU, LSTM)},
    **{f"{cell.__name__} backward": (functools.partial(backward, cell), _d)
       for cell in (RNN, GRU, LSTM)},
    **{kind.__name__: (functools.partial(step, kind), {"W": SINGLE["W"]})
       for kind in (optim.SGD, optim.Adam)},
    "entropy": (entropy, {key: SINGLE[key] for key in ("logits", "targets", "mask")}),
    "squares": (squares, {"prediction": SINGLE["x"], "target": SINGLE["y"],
                          "mask": SINGLE["mask"]}),
    "clip": (clip, {"W": SINGLE["W"]}),
    "model": (model, {"ids": SINGLE["ids"], "targets": SINGLE["targets"],
                      "state": SINGLE["state1"]}),
    "parameters": (parameters, {"W": SINGLE["W"], "b": SINGLE["b"]}),
    "embedding": (lambda a: nprnn.Embedding(V, I, rng=0)(a["ids"]), {"ids": SINGLE["ids"]}),
    "linear": (lambda a: nprnn.Linear(I, V, rng=0)(a["x"]), {"x": SINGLE["x"]}),
    "one_hot": (lambda a: nprnn.one_hot(a["ids"], V), {"ids": SINGLE["ids"]}),
    "batches": (lambda a: list(nprnn.sequential_batches(a["tokens"], 2, 3)),
                {"tokens": SINGLE["tokens"]}),
}  # fmt: skip
# Arguments of which only the last axis, or nothing at all, is fixed: another shape may be right.
FREE = {("linear", "x"), ("embedding", "ids"), ("one_hot", "ids"), ("batches", "tokens"),
        ("clip", "W")}  # fmt: skip


def refused_or_right(drawn):
    """Return whether it is refused; what is taken must have been of the right shape and kind."""
    name, argument, shape, dtype, seed = drawn
    action, right = CALLS[name]
    bad = filled(shape, dtype, seed)
    try:
        made = action({**right, argument: bad.copy()})
    except (TypeError, ValueError):
        return True
    if (name, argument) in FREE:
        return False
    # An array of steps without a batch is right too, with the rest in its shape: not here.
    assert shape == right[argument].shape, (drawn, shapes_and_kinds(made))
    kinds = {"f": "fc", "i": "iu", "b": "biufc"}[right[argument].dtype.kind]
    assert bad.dtype.kind in kinds or (argument in ("x", "mask") and bad.dtype.kind in "iu?"), drawn
    return False


@settings(max_examples=500, deadline=None)
@given(wrong())
def test_wrong_shapes_and_dtypes_are_refused(drawn):
    refused_or_right(drawn)


@pytest.mark.slow
@settings(
    max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(wrong())
def test_ten_thousand_wrong_shapes_and_dtypes_are_refused(drawn):
    refused_or_right(drawn)
