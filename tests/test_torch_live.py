"""PyTorch and this package side by side, where PyTorch is installed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_torch import draw_problem, load, record, torch_passes
from test_torch_reference import TOLERANCES, assert_same, nprnn_passes

import nprnn
from nprnn import RNN, SGD, interop
from nprnn.testing import map_state, seeds

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@st.composite
def problems(draw):
    batched = draw(st.booleans()) or draw(st.booleans())
    T, B = draw(st.integers(1, 6)), draw(st.integers(1, 4)) if batched else 1
    rng = np.random.default_rng(draw(seeds))
    cell = draw(st.sampled_from(["RNN", "GRU", "LSTM"]))
    kind = {"nonlinearity": draw(st.sampled_from(["tanh", "relu"]))} if cell == "RNN" else {}
    problem = draw_problem(
        rng,
        T,
        B,
        cell=cell,
        lengths=rng.integers(1, T + 1, B) if batched and draw(st.booleans()) else None,
        batched=batched,
        ids=draw(st.sampled_from([False, False, True])),
        with_state=draw(st.sampled_from([True, True, False])),
        input_size=draw(st.integers(1, 5)),
        hidden_size=draw(st.integers(1, 5)),
        num_layers=draw(st.integers(1, 3)),
        **kind,
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        dropout=0.0,
        bidirectional=draw(st.booleans()),
    )
    absent = draw(st.sampled_from([None, None, "d_output", "d_state"]))
    return problem | {absent: None} if absent else problem


@settings(max_examples=600, deadline=None)
@given(problems())
def test_outputs_states_and_gradients(problem):
    for precision, rtol in TOLERANCES:
        expected = torch_passes(problem, precision)
        assert_same(nprnn_passes(problem, precision), expected, rtol, floor=1.0)


OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "bias"), values, strict=True))
    for values in itertools.product([1, 2, 3], [False, True], [False, True])
]


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_weights_travel_without_a_mapping(cell, options):
    """Names, order, shapes and dtype are the same, so either side takes the other's dict."""
    module = getattr(torch.nn, cell)(3, 4, **options)
    layer = getattr(nprnn, cell)(3, 4, **options, rng=0)
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


@pytest.mark.parametrize("cell", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_single_step(cell):
    module, step = getattr(torch.nn, cell)(3, 4), getattr(nprnn, cell)(3, 4, rng=0)
    params = {name: value.numpy() for name, value in module.state_dict().items()}
    assert list(step.params) == list(params)
    rng = np.random.default_rng(0)
    x, *state = (rng.normal(size=(2, width)).astype(np.float32) for width in (3, 4, 4))
    state = tuple(state) if cell == "LSTMCell" else state[0]
    with torch.no_grad():
        expected = module(torch.tensor(x), map_state(torch.tensor, state))
    _, final = step.with_params(params)(x, state)
    map_state(lambda a, b: assert_same(a, b.numpy(), 1e-5), final, expected)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_fifty_steps_of_adam_with_embedding_and_tied_weights(cell):
    """A whole model, its state carried, beside the same in PyTorch."""
    V, H, T, B = 7, 5, 6, 3
    tokens = np.random.default_rng(0).integers(0, V, (50 * T + 1, B))
    model = nprnn.LanguageModel(
        V, H, num_layers=2, cell=cell, embedding_size=H, tie_weights=True, dtype=float, rng=0
    )
    modules = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(V, H),
            "rnn": getattr(torch.nn, cell.upper())(H, H, 2),
            "readout": torch.nn.Linear(H, V),
        }
    ).double()
    modules["readout"].weight = modules["embedding"].weight
    tensors = {name: torch.tensor(value) for name, value in model.params.items()}
    modules.load_state_dict(tensors, strict=False)
    theirs = torch.optim.Adam(modules.parameters(), lr=0.01)
    ours = nprnn.Adam(model.params, lr=0.01)
    state, their_state = None, None
    for start in range(0, 50 * T, T):
        window = tokens[start : start + T + 1]
        loss, grads, state = model.loss_and_grads(window[:-1], window[1:], state)
        nprnn.clip_grad_norm(grads, 0.5)
        ours.step(grads)
        hidden, their_state = modules["rnn"](
            modules["embedding"](torch.tensor(window[:-1])), their_state
        )
        their_state = map_state(lambda part: part.detach(), their_state)
        logits = modules["readout"](hidden).reshape(-1, V)
        their_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]).reshape(-1))
        theirs.zero_grad()
        their_loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 0.5)
        theirs.step()
        assert loss == pytest.approx(their_loss.item(), rel=1e-9)
    for name, value in modules.named_parameters():
        assert_same(model.params[name], value.detach().numpy(), 1e-9)
    map_state(lambda a, b: assert_same(a, b.numpy(), 1e-9), state, their_state)


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


def drawn(module):
    """The same module over numbers far from what it starts with."""
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, 0, 0.6, generator=generator)
    return module


def as_arrays(state):
    """A state of either side as a list of arrays: h alone, or h and c."""
    return [np.asarray(part) for part in (state if isinstance(state, tuple) else (state,))]


INTEROP_OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "bias", "batch_first"), values, strict=True))
    for values in itertools.product([1, 3], [False, True], [False, True], [False, True])
]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("options", INTEROP_OPTIONS, ids=str)
def test_a_state_dict_gives_the_same_layer_and_goes_back(kind, options):
    theirs = drawn(getattr(torch.nn, kind)(3, 4, **options, dtype=torch.float64))
    ours = interop.from_state_dict(theirs.state_dict(), batch_first=options["batch_first"])
    assert type(ours) is getattr(nprnn, kind)

    rng = np.random.default_rng(0)
    T, B, lengths = 6, 3, [4, 6, 1]
    x = rng.normal(size=(B, T, 3) if options["batch_first"] else (T, B, 3))
    shape = (options["num_layers"] * ours.num_directions, B, 4)
    parts = tuple(rng.normal(size=shape) for _ in range(ours.cell.num_states))
    h_0 = tuple(map(torch.tensor, parts))
    state, h_0 = (parts, h_0) if kind == "LSTM" else (parts[0], h_0[0])
    batch_first = options["batch_first"]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(x), lengths, batch_first, enforce_sorted=False
    )
    with torch.no_grad():
        whole = theirs(torch.tensor(x), h_0)
        output, final = theirs(packed, h_0)
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first, total_length=T)
    for expected, actual in [
        (whole, ours(x, state)),
        ((output, final), ours(x, state, lengths=lengths)),
    ]:
        assert_same(actual[0], expected[0].numpy(), 1e-12, floor=1.0)
        for part, other in zip(as_arrays(actual[1]), as_arrays(expected[1]), strict=True):
            assert_same(part, other, 1e-12, floor=1.0)

    again = getattr(torch.nn, kind)(3, 4, **options, dtype=torch.float64)
    arrays = interop.to_state_dict(ours)
    again.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_language_model_takes_a_module_through_a_file(tmp_path, kind, tied):
    """Where the parts are named alike, a file is all that it takes."""
    V, H = 7, 4
    module = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(V, H),
            "rnn": getattr(torch.nn, kind)(H, H, 2),
            "readout": torch.nn.Linear(H, V),
        }
    )
    drawn(module)
    if tied:
        module["readout"].weight = module["embedding"].weight
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if tied:  # PyTorch lists it under both names
        del arrays["readout.weight"]
    nprnn.weights.save(tmp_path / "m.safetensors", arrays)
    options = {"num_layers": 2, "cell": kind.lower(), "embedding_size": H, "tie_weights": tied}
    empty = nprnn.LanguageModel(V, H, **options, rng=0)
    model = interop.load_params(tmp_path / "m.safetensors", empty)

    ids = np.random.default_rng(0).integers(0, V, (6, 3))
    with torch.no_grad():
        hidden, expected_state = module["rnn"](module["embedding"](torch.tensor(ids)))
        expected = module["readout"](hidden).numpy()
    logits, state = model(ids)
    assert_same(logits, expected, 1e-5)
    for part, other in zip(as_arrays(state), as_arrays(expected_state), strict=True):
        assert_same(part, other, 1e-5)


def test_an_lstm_with_projections_is_refused():
    theirs = torch.nn.LSTM(3, 12, proj_size=4)
    with pytest.raises(ValueError, match="weight_hr_l0: an LSTM with projections is not supported"):
        interop.from_state_dict(theirs.state_dict())
