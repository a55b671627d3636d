"""Mistakes planted in a textbook's backward pass, text by text, and what the diagnosis says."""

import numpy as np
import pytest

from nprnn import RNN, LanguageModel, SequenceClassifier, SequenceTagger, one_hot
from nprnn.diagnosis import MISTAKES, diagnose

NETWORKS = 200

FORWARD = """
def forward(x, h_0, W_ih, W_hh, b):
    a, h = [], [h_0]
    for x_t in x:
        a.append(x_t @ W_ih.T + h[-1] @ W_hh.T + b)
        h.append(np.tanh(a[-1]))
    return np.array(a), np.array(h)
"""

BACKWARD = """
def backward(x, a, h, W_ih, W_hh, d_output, d_state):
    T, B, H = a.shape
    d_x = np.zeros_like(x)
    d_W_ih, d_W_hh, d_b = np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(H)
    d_h = d_state
    for t in reversed(range(T)):
        d_h = d_h + d_output[t]
        d_a = d_h * (1 - h[t + 1] ** 2)
        d_x[t] = d_a @ W_ih
        d_W_ih += d_a.T @ x[t]
        d_W_hh += d_a.T @ h[t]
        d_b += d_a.sum(axis=0)
        d_h = d_a @ W_hh
    grads = {"x": d_x, "state": d_h, "weight_ih_l0": d_W_ih, "weight_hh_l0": d_W_hh}
    return grads | {"bias_ih_l0": d_b, "bias_hh_l0": d_b}
"""

RELU = [("np.tanh(a[-1])", "np.maximum(a[-1], 0)"), ("(1 - h[t + 1] ** 2)", "(h[t + 1] > 0)")]


def factor(text):
    """Every gradient times a factor."""
    return [("return grads | {", "grads |= {"), ("d_b}\n", f"d_b}}\n    return {text}\n")]


def every(number):
    return factor(f"{{name: {number} * gradient for name, gradient in grads.items()}}")


TIMES = "the gradient carried back from later steps is dropped"
REPLACED = "the carried gradient replaces the step's own"

# What is replaced, by what, and what the diagnosis is to say.
PLANTED = {
    "no transpose": ([("= d_a @ W_hh", "= d_a @ W_hh.T")], "the transpose of W_hh is missing"),
    "no slope": ([(" * (1 - h[t + 1] ** 2)", "")], "the factor f'(a), for tanh 1 - h², is missing"),
    "slope of a": ([("h[t + 1] ** 2", "a[t] ** 2")], "1 - a² stands in place of 1 - h²"),
    "h for slope": ([("(1 - h[t + 1] ** 2)", "h[t + 1]")], "h stands in place of 1 - h²"),
    "dropped": ([("d_h = d_h + d_output[t]", "d_h = d_output[t]")], TIMES),
    "dropped but d_state": ([("d_h + d_out", "d_h * (t == T - 1) + d_out")], TIMES),
    "overwritten": ([("d_h = d_h + d_output[t]", "pass")], REPLACED),
    "overwritten but last": ([("+ d_output[t]", "+ d_output[t] * (t == T - 1)")], REPLACED),
    "h_t": ([("d_a.T @ h[t]", "d_a.T @ h[t + 1]")], "h_t stands in place of h_(t-1)"),
    "exchanged": ([("d_a.T @ h[t]", "h[t].T @ d_a")], "the two sides of the product"),
    "no h_0": ([("@ h[t]", "@ h[t] * (t > 0)")], "the first step's part in the gradient of W_hh"),
    "first skipped": ([("range(T))", "range(1, T))")], "the first step is skipped"),
    "last skipped": ([("range(T))", "range(T - 1))")], "the last step is skipped"),
    "early": ([("= d_h + d_", "= d_h * (t > 0 or T == 1) + d_")], "the carried gradient stops one"),
    "no final": (
        [("d_h = d_state", "d_h = 0 * d_state")],
        "the gradient of the final state is left",
    ),
    "one step's weights": (
        [("d_W_ih +=", "d_W_ih ="), ("d_W_hh +=", "d_W_hh =")],
        "the gradients of the weights are those of one step",
    ),
    "bias of one step": ([("d_b +=", "d_b =")], "the gradient of the bias is not summed over time"),
    "bias by step": (
        [("np.zeros(H)", "np.zeros((T, H))"), ("d_b +=", "d_b[t] =")],
        "the gradient of the bias is not summed over time",
    ),
    "bias by sequence": (
        [("np.zeros(H)", "np.zeros((B, H))"), ("d_a.sum(axis=0)", "d_a")],
        "the gradient of the bias is not summed over the batch",
    ),
    "bias of one": (
        [("d_a.sum(axis=0)", "d_a[0]")],
        "the gradient of the bias is not summed over the batch",
    ),
    "bias by entry": (
        [("np.zeros(H)", "np.zeros((T, B, H))"), ("d_b += d_a.sum(axis=0)", "d_b[t] = d_a")],
        "the gradient of the bias is not summed over time and batch",
    ),
    "late": (
        [("d_h = d_a @ W_hh", "late, d_h = d_h, d_a @ W_hh"), ('"state": d_h', '"state": late')],
        "the gradient of h_0 is that of h_1",
    ),
    "sign": (every("-1"), "the sign is wrong"),
    "twice": (every("2"), "the gradients of two calls are added up"),
    "twice the parameters": (
        factor("{k: g if k in ('x', 'state') else g + g for k, g in grads.items()}"),
        "the gradients of two calls are added up",
    ),
    "sum T": (every("T"), "a sum over time where there is a mean"),
    "sum B": (every("B"), "a sum over the batch where there is a mean"),
    "sum T B": (every("(T * B)"), "a sum over time and batch where there is a mean"),
    "mean T": (every("(1 / T)"), "a mean over time where there is a sum"),
    "mean B": (every("(1 / B)"), "a mean over the batch where there is a sum"),
    "mean T B": (every("(1 / T / B)"), "a mean over time and batch where there is a sum"),
}


def build(replacements):
    source = FORWARD + BACKWARD
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = {"np": np}
    exec(source, names)  # the texts above
    return names["forward"], names["backward"]


class Network:
    """A layer with random parameters, and what it is asked."""

    def __init__(self, seed, nonlinearity="tanh", sizes=None):
        rng = self.rng = np.random.default_rng(seed)
        T, B, I, H = sizes or rng.integers(1, 5, 4)  # noqa: E741
        self.layer = RNN(I, H, nonlinearity=nonlinearity, dtype=np.float64, rng=rng)
        self.layer.params = {k: rng.normal(0, 0.8, v.shape) for k, v in self.layer.params.items()}
        self.x = rng.normal(size=(T, B, I))
        self.state, self.d_state = rng.normal(size=(2, 1, B, H))
        self.d_output = rng.normal(size=(T, B, H))

    def gradients(self, forward, backward):
        p = self.layer.params
        W_ih, W_hh = p["weight_ih_l0"], p["weight_hh_l0"]
        a, h = forward(self.x, self.state[0], W_ih, W_hh, p["bias_ih_l0"] + p["bias_hh_l0"])
        return backward(self.x, a, h, W_ih, W_hh, self.d_output, self.d_state[0])

    def diagnose(self, grads):
        options = {"state": self.state, "d_output": self.d_output, "d_state": self.d_state}
        return diagnose(self.layer, grads, self.x, **options)


def differ(grads, right):
    return any(
        grads[k].shape != right[k].shape
        or np.abs(grads[k] - right[k]).max() > 1e-7 * np.abs(right[k]).max()
        for k in right
    )


RIGHT = build([])


@pytest.mark.parametrize("mistake", PLANTED)
def test_each_mistake_is_named_wherever_it_changes_anything(mistake):
    replacements, expected = PLANTED[mistake]
    planted = build(replacements)
    changed = 0
    for seed in range(NETWORKS):
        network = Network(seed)
        grads = network.gradients(*planted)
        diagnosis = network.diagnose(grads)
        if differ(grads, network.gradients(*RIGHT)):
            changed += 1
            names = [explanation.name for explanation in diagnosis.explanations]
            assert any(name.startswith(expected) for name in names), (seed, str(diagnosis))
            assert not any(" - and: " in name for name in names)
        else:
            assert diagnosis.is_right
            assert not diagnosis.explanations
    assert changed > NETWORKS / 4


def test_the_mistakes_of_the_list_are_the_planted_ones():
    names = {kind.name for kind in MISTAKES} - {
        "the target is not subtracted in the gradient of the softmax"
    }
    expected = [start for _, start in PLANTED.values()]
    assert all(any(name.startswith(start) for start in expected) for name in names)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_correct_gradients_get_no_name(nonlinearity):
    right = build(RELU if nonlinearity == "relu" else [])
    for seed in range(NETWORKS):
        network = Network(seed, nonlinearity)
        diagnosis = network.diagnose(network.gradients(*right))
        assert diagnosis.is_right, str(diagnosis)
        assert str(diagnosis) == "the gradients are right"


def spoil(grads, rng):
    """One of the ways to be wrong for no reason."""
    name = rng.choice(list(grads))
    way = rng.integers(4)
    noise = rng.normal(size=grads[name].shape)
    if way == 0:
        return grads | {name: grads[name] + 1e-3 * noise}
    if way == 1:
        return {key: rng.normal(size=g.shape) for key, g in grads.items()}
    if way == 2:
        index = tuple(rng.integers(size) for size in grads[name].shape)
        spoiled = grads[name].copy()
        spoiled[index] += 0.1 * np.abs(spoiled).max() + 0.01
        return grads | {name: spoiled}
    return {key: rng.uniform(0.2, 3) * g for key, g in grads.items()}


def test_random_errors_get_no_name():
    for seed in range(NETWORKS):
        network = Network(seed)
        wrong = spoil(network.gradients(*RIGHT), network.rng)
        diagnosis = network.diagnose(wrong)
        assert not diagnosis.is_right
        assert not diagnosis.explanations, str(diagnosis)
        assert str(diagnosis).startswith("no known mistake leads to these gradients")
        assert "entries wrong; worst at" in str(diagnosis)


@pytest.mark.parametrize(
    "mistakes", [("no transpose", "sign"), ("h_t", "bias of one step"), ("no slope", "dropped")]
)
def test_two_mistakes_at_once_are_both_named(mistakes):
    planted = build([pair for mistake in mistakes for pair in PLANTED[mistake][0]])
    for seed in range(20):
        network = Network(seed, sizes=(3, 2, 2, 3))
        told = str(network.diagnose(network.gradients(*planted)))
        assert all(PLANTED[mistake][1] in told for mistake in mistakes), told


def test_three_mistakes_in_places_of_their_own_are_named_array_by_array():
    planted = build(
        [pair for mistake in ("h_t", "bias of one step", "late") for pair in PLANTED[mistake][0]]
    )
    network = Network(0, sizes=(3, 2, 2, 3))
    names = [name for name, _ in network.diagnose(network.gradients(*planted)).explanations]
    assert names == [
        "the gradient of h_0 is that of h_1: the way through the first step is missing (state)",
        "h_t stands in place of h_(t-1) in the gradient of W_hh (weight_hh_l0)",
        "the gradient of the bias is not summed over time (bias_ih_l0)",
        "the gradient of the bias is not summed over time (bias_hh_l0)",
    ]


@pytest.mark.parametrize("limit", [0.25, 1.0, 5.0])
@pytest.mark.parametrize("slack", [0.0, 1e-6])
def test_clipping_before_the_check_is_named(limit, slack):
    clipped = 0
    for seed in range(NETWORKS):
        network = Network(seed)
        grads = network.gradients(*RIGHT)
        del grads["x"], grads["state"]
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        scaled = {k: min(1, limit / (norm + slack)) * g for k, g in grads.items()}
        cut = {k: np.clip(g, -limit, limit) for k, g in grads.items()}
        by_norm, by_value = network.diagnose(scaled), network.diagnose(cut)
        if norm > limit * 1.001:
            clipped += 1
            assert f"clipped to norm {limit:.2g} before the check" in str(by_norm)
        if max(np.abs(g).max() for g in grads.values()) > limit * 1.001:
            assert f"clipped to entries of at most {limit:.2g} before the check" in str(by_value)
    assert clipped > 50


def test_where_two_explanations_fit_both_are_listed():
    network = Network(3, sizes=(2, 3, 2, 2))
    grads = {k: 2 * g for k, g in network.gradients(*RIGHT).items()}
    names = [name for name, _ in network.diagnose(grads).explanations]
    assert names == [
        "the gradients of two calls are added up",
        "a sum over time where there is a mean",
    ]


def test_relu_networks_are_diagnosed_too():
    planted = build([*RELU, ("= d_a @ W_hh", "= d_a @ W_hh.T")])
    for seed in range(50):
        network = Network(seed, "relu", sizes=(4, 2, 2, 3))
        grads = network.gradients(*planted)
        if differ(grads, network.gradients(*build(RELU))):
            assert "the transpose of W_hh is missing" in str(network.diagnose(grads))


@pytest.mark.parametrize("kind", [LanguageModel, SequenceTagger])
def test_models_are_diagnosed_by_their_targets(kind):
    rng = np.random.default_rng(5)
    sizes = (4, 5) if kind is LanguageModel else (4, 5, 4)
    for _ in range(NETWORKS):
        model = kind(*sizes, dtype=np.float64, rng=rng)
        T, B = rng.integers(1, 5, 2)
        inputs, targets = rng.integers(0, 4, (2, T, B))
        state = rng.normal(size=(1, B, 5))
        _, grads, _ = model.loss_and_grads(inputs, targets, state)
        task = {"targets": targets, "state": state}
        assert diagnose(model, grads, inputs, **task).is_right

        # The same with p in place of p - y.
        hidden, _, cache = model.rnn.forward(inputs, state)
        logits = model.readout(hidden)
        p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True) / (T * B)
        d_hidden, readout = model.readout.backward(p, model.readout.forward(hidden)[1])
        _, _, layer = model.rnn.backward(d_hidden, None, cache)
        wrong = {f"rnn.{k}": g for k, g in layer.items()}
        wrong |= {f"readout.{k}": g for k, g in readout.items()}
        names = [name for name, _ in diagnose(model, wrong, inputs, **task).explanations]
        assert names == ["the target is not subtracted in the gradient of the softmax"]


def test_layouts_of_the_layer_are_those_of_the_diagnosis():
    rng = np.random.default_rng(7)
    layer = RNN(3, 4, batch_first=True, bias=False, dtype=np.float64, rng=rng)
    for x in (rng.normal(size=(2, 5, 3)), rng.normal(size=(5, 3)), rng.integers(0, 3, (2, 5))):
        output, state, cache = layer.forward(x)
        d_output, d_state = rng.normal(size=output.shape), rng.normal(size=state.shape)
        d_x, d_h_0, grads = layer.backward(d_output, d_state, cache)
        grads |= {"state": d_h_0} | ({} if d_x is None else {"x": d_x})
        assert diagnose(layer, grads, x, d_output=d_output, d_state=d_state).is_right


def test_one_hot_input_may_be_integers_or_vectors():
    network = Network(1, sizes=(3, 2, 4, 2))
    ids = network.rng.integers(0, 4, (3, 2))
    network.x = one_hot(ids, 4, np.float64)
    grads = network.gradients(*build(PLANTED["h_t"][0]))
    del grads["x"]
    network.x = ids
    assert "h_t stands in place of h_(t-1)" in str(network.diagnose(grads))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "layer"}, TypeError, "network must be an RNN, a LanguageModel"),
        ({"network": RNN(2, 3, 2, dtype=np.float64)}, ValueError, "one layer and one direction"),
        ({"network": RNN(2, 3)}, TypeError, "network must be in float64"),
        ({"network": SequenceClassifier(2, 3, 2, dtype=np.float64)}, TypeError, "network must be"),
        ({"grads": {}}, TypeError, "grads must be a dict of arrays"),
        ({"grads": {"W": np.ones(2)}}, ValueError, "grads has an unknown key 'W'; known are"),
        ({"grads": {"state": np.ones(2, np.float32)}}, TypeError, "must be float64, got float32"),
        ({"targets": np.zeros((2, 2), int)}, ValueError, "a model needs targets"),
        ({"d_output": np.ones((2, 2))}, ValueError, "d_output must have shape"),
        ({"inputs": np.ones((2, 2, 5))}, ValueError, "x must have shape"),
        ({"rtol": 0}, ValueError, "rtol must be a number in"),
    ],
)
def test_bad_input_gets_a_sentence(change, error, message):
    arguments = {
        "network": RNN(2, 3, dtype=np.float64, rng=0),
        "grads": {"bias_ih_l0": np.ones(3)},
        "inputs": np.ones((2, 2, 2)),
    }
    with pytest.raises(error, match=message):
        diagnose(**(arguments | change))
