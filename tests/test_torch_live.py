"""PyTorch and this package side by side, where PyTorch is installed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_torch import draw_problem, load, record, torch_passes
from strategies import seeds
from test_torch_reference import TOLERANCES, assert_same, nprnn_passes

import nprnn
from nprnn import RNN, SGD

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@st.composite
def problems(draw):
    batched = draw(st.booleans()) or draw(st.booleans())
    T, B = draw(st.integers(1, 6)), draw(st.integers(1, 4)) if batched else 1
    rng = np.random.default_rng(draw(seeds))
    problem = draw_problem(
        rng,
        T,
        B,
        lengths=rng.integers(1, T + 1, B) if batched and draw(st.booleans()) else None,
        batched=batched,
        ids=draw(st.sampled_from([False, False, True])),
        with_state=draw(st.sampled_from([True, True, False])),
        input_size=draw(st.integers(1, 5)),
        hidden_size=draw(st.integers(1, 5)),
        num_layers=draw(st.integers(1, 3)),
        nonlinearity=draw(st.sampled_from(["tanh", "relu"])),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        dropout=0.0,
        bidirectional=draw(st.booleans()),
    )
    absent = draw(st.sampled_from([None, None, "d_output", "d_state"]))
    return problem | {absent: None} if absent else problem


@settings(max_examples=300, deadline=None)
@given(problems())
def test_outputs_states_and_gradients(problem):
    for precision, rtol in TOLERANCES:
        expected = torch_passes(problem, precision)
        assert_same(nprnn_passes(problem, precision), expected, rtol, floor=1.0)


OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "bias"), values, strict=True))
    for values in itertools.product([1, 2, 3], [False, True], [False, True])
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_travel_without_a_mapping(options):
    """Names, order, shapes and dtype are the same, so either side takes the other's dict."""
    module, layer = torch.nn.RNN(3, 4, **options), RNN(3, 4, **options, rng=0)
    params = {name: value.numpy() for name, value in module.state_dict().items()}
    shapes = [(name, value.shape, value.dtype) for name, value in params.items()]
    assert [(name, value.shape, value.dtype) for name, value in layer.params.items()] == shapes

    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.tensor(x))[0].numpy()
        assert_same(layer.with_params(params)(x)[0], expected, 1e-5)
        module.load_state_dict({name: torch.tensor(v) for name, v in layer.params.items()})
        assert_same(layer(x)[0], module(torch.tensor(x))[0].numpy(), 1e-5)

    module, readout = torch.nn.Linear(3, 4, options["bias"]), nprnn.Linear(3, 4, options["bias"])
    params = {name: value.numpy() for name, value in module.state_dict().items()}
    assert list(readout.params) == list(params)
    with torch.no_grad():
        assert_same(readout.with_params(params)(x), module(torch.tensor(x)).numpy(), 1e-5)


def test_an_empty_batch():
    x = np.zeros((3, 0, 2))
    with torch.no_grad():
        expected = torch.nn.RNN(2, 4, bidirectional=True, dtype=torch.float64)(torch.tensor(x))
    for actual, other in zip(RNN(2, 4, bidirectional=True, dtype=float)(x), expected, strict=True):
        assert actual.shape == tuple(other.shape)


def test_the_record_is_what_this_version_computes():
    """If this fails after a change of record_torch.py, run it; else PyTorch or NumPy changed."""
    recorded = load()
    assert_near(record() | {"torch": recorded["torch"]}, recorded)


def assert_near(actual, expected):
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name, value in expected.items():
            assert_near(actual[name], value)
    elif isinstance(expected, list):
        for value, other in zip(actual, expected, strict=True):
            assert_near(value, other)
    elif isinstance(expected, np.ndarray):
        assert_same(actual, expected, 1e-9)
    else:
        assert actual == (pytest.approx(expected) if isinstance(expected, float) else expected)


TORCH_RNN = torch.nn.RNN(3, 5, 2, bidirectional=True)
LAYER = RNN(3, 5, 2, bidirectional=True, rng=0)
X = np.zeros((4, 2, 3), np.float32)


def construct(*args, **kwargs):
    """Return one call for each side that builds a layer from the same arguments."""
    return (lambda: torch.nn.RNN(*args, **kwargs)), (lambda: RNN(*args, **kwargs))


def run(x, state=None):
    """Return one call for each side that runs a layer over the same input."""
    h_0 = None if state is None else torch.tensor(state)
    return (lambda: TORCH_RNN(torch.tensor(x), h_0)), (lambda: LAYER(x, state))


def run_padded(lengths):
    def theirs():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            torch.tensor(X), lengths, enforce_sorted=False
        )
        return TORCH_RNN(packed)

    return theirs, (lambda: LAYER(X, lengths=lengths))


def take_weights(**changes):
    """Return one call for each side that takes weights of which some are changed or, None, gone."""
    params = {k: v for k, v in (LAYER.params | changes).items() if v is not None}
    tensors = {name: torch.tensor(value) for name, value in params.items()}
    return (lambda: TORCH_RNN.load_state_dict(tensors)), (lambda: LAYER.with_params(params))


def build_sgd(**options):
    p = torch.zeros(2)
    return (lambda: torch.optim.SGD([p], **options)), (lambda: SGD({"p": p.numpy()}, **options))


@pytest.mark.parametrize(
    "calls",
    [
        construct(2, 3, nonlinearity="sigmoid"),
        construct(2, 3, 2, dropout=1.5),
        construct(2, 3, 2, dropout=-0.1),
        construct(2, 3, 2, dropout="much"),
        construct(2, 0),
        construct(2, -3),
        construct(2, 3.0),
        construct(2, 3, 0),
        run(X[0, 0]),
        run(X[None]),
        run(X[..., :2]),
        run(X[:, 0, :2]),
        run(X[:0]),
        run(X.astype(np.float64)),
        run(X, np.zeros((2, 2, 5), np.float32)),
        run(X, np.zeros((4, 1, 5), np.float32)),
        run(X, np.zeros((4, 2, 3), np.float32)),
        run(X, np.zeros((2, 4, 5), np.float32)),
        run(X, np.zeros((4, 5), np.float32)),
        run(X[:, 0], np.zeros((4, 2, 5), np.float32)),
        run(X, np.zeros((4, 2, 5), np.float64)),
        run_padded([4, 5]),
        run_padded([4, -1]),
        take_weights(bias_hh_l0=None),
        take_weights(other=np.zeros(1, np.float32)),
        take_weights(weight_ih_l0=np.zeros((5, 4), np.float32)),
        build_sgd(lr=-0.1),
        build_sgd(lr=0.1, momentum=-0.1),
        build_sgd(lr=0.1, weight_decay=-0.1),
        build_sgd(lr=0.1, nesterov=True),
        build_sgd(lr=0.1, momentum=0.9, dampening=0.1, nesterov=True),
    ],
)
def test_what_torch_refuses_is_refused(calls):
    theirs, ours = calls
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        theirs()
    with pytest.raises((TypeError, ValueError)):
        ours()
