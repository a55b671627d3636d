"""What PyTorch computed once (see record_torch.py), computed here; it need not be installed."""

import numpy as np
import pytest
from record_torch import IGNORED, load

import nprnn
from nprnn import SGD, LanguageModel, clip_grad_norm

REFERENCE = load()
TOLERANCES = [("float64", 1e-12), ("float32", 1e-5)]
PRECISIONS = pytest.mark.parametrize(("precision", "rtol"), TOLERANCES)


def numbered(records):
    return pytest.mark.parametrize("record", records, ids=range(len(records)))


def assert_same(actual, expected, rtol, floor=0.0, path="results"):
    """Equal in units of the largest entry of each array, or of `floor`; dicts, lists by items."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected), path
        for name in expected:
            assert_same(actual[name], expected[name], rtol, floor, f"{path}[{name!r}]")
        return
    if isinstance(expected, list):
        for i, (part, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(part, other, rtol, floor, f"{path}[{i}]")
        return
    assert np.shape(actual) == np.shape(expected), path
    atol = rtol * max(floor, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=path)


def in_precision(arrays, precision):
    return {name: value.astype(precision) for name, value in arrays.items()}


def nprnn_passes(problem, precision, params=None):
    """The counterpart of record_torch.torch_passes."""
    layer = getattr(nprnn, problem["cell"])(**problem["options"], dtype=precision)
    params = in_precision(problem["params"], precision) if params is None else params
    assert list(layer.params) == list(params)
    layer = layer.with_params(params)
    x, d_output = (
        value if value is None or value.dtype.kind == "i" else value.astype(precision)
        for value in (problem["x"], problem["d_output"])
    )
    state, d_state = (as_state(problem[name], precision) for name in ("state", "d_state"))
    output, final, cache = layer.forward(x, state, lengths=problem["lengths"])
    d_x, d_state_0, grads = layer.backward(d_output, d_state, cache)
    results = {"output": output, "state": parts(final), "grads": grads}
    if d_x is not None:
        results["d_x"] = d_x
    if state is not None:
        results["d_state_0"] = parts(d_state_0)
    arrays = [output, *parts(final), *grads.values(), *results.get("d_state_0", [])]
    assert {array.dtype.name for array in arrays} == {precision}
    return results


def as_state(arrays, precision):
    """Return a list of recorded arrays as a layer takes them."""
    if arrays is None:
        return None
    converted = tuple(array.astype(precision) for array in arrays)
    return converted if len(converted) > 1 else converted[0]


def parts(state):
    return list(state) if isinstance(state, tuple) else [state]


@numbered([*REFERENCE["rnn"], *REFERENCE["gru"], *REFERENCE["lstm"]])
@PRECISIONS
def test_outputs_and_gradients(record, precision, rtol):
    assert_same(nprnn_passes(record, precision), record["torch"], rtol)


def test_the_record_spans_the_options():
    """A record of too little would pass."""
    for cell in ("rnn", "gru", "lstm"):
        records = REFERENCE[cell]
        assert {record["cell"] for record in records} == {cell.upper()}
        for name in ("bidirectional", "bias", "batch_first"):
            assert len({record["options"][name] for record in records}) == 2
        assert {record["options"]["num_layers"] for record in records} == {1, 2, 3}
        assert {record["lengths"] is None for record in records} == {True, False}
        assert any(gradient.any() for r in records for gradient in r["torch"]["grads"].values())
    assert len({record["options"]["nonlinearity"] for record in REFERENCE["rnn"]}) == 2


@numbered(REFERENCE["sgd"]["runs"])
def test_twenty_steps_of_sgd(record):
    params = in_precision(REFERENCE["sgd"]["params"], "float64")
    optimizer = SGD(params, **record["options"])
    grads = in_precision(REFERENCE["sgd"]["grads"], "float64")
    for step in range(20):
        optimizer.step({name: value[step] for name, value in grads.items()})
    assert_same(params, record["params"], 1e-14)
    assert_same(optimizer.momentum_buffers, record["momentum_buffers"], 1e-14)


@numbered(REFERENCE["clipping"])
@PRECISIONS
def test_clipping_by_norm(record, precision, rtol):
    grads = in_precision(record["grads"], precision)
    norm = clip_grad_norm(grads, record["max_norm"])
    assert norm == pytest.approx(record["norm"], rel=rtol, abs=0)
    assert_same(grads, record["clipped"], rtol)


@numbered(REFERENCE["cross_entropy"])
@PRECISIONS
def test_cross_entropy(record, precision, rtol):
    targets = record["targets"]
    counts = targets != IGNORED
    logits = record["logits"].astype(precision)
    masks = [counts, None] if counts.all() else [counts]
    for mask in masks:
        loss, d_logits = nprnn.softmax_cross_entropy(logits, targets, mask)
        assert loss == pytest.approx(record["loss"], rel=rtol, abs=0)
        assert_same(d_logits, record["d_logits"], rtol)


@numbered(REFERENCE["squared_error"])
@PRECISIONS
def test_mean_squared_error(record, precision, rtol):
    arrays = (record[name].astype(precision) for name in ("prediction", "target"))
    loss, d_prediction = nprnn.mean_squared_error(*arrays)
    assert loss == pytest.approx(record["loss"], rel=rtol, abs=0)
    assert_same(d_prediction, record["d_prediction"], rtol)


def test_fifty_steps_of_training_a_language_model():
    """Losses, norms before clipping, parameters and the state carried along, step by step."""
    record = REFERENCE["training"]
    params = in_precision(record["start"], "float64")
    model = LanguageModel(**record["sizes"], dtype=np.float64)
    assert list(model.params) == list(params)
    model = model.with_params(params)
    optimizer = SGD(model.params, record["lr"], record["momentum"])
    T, state, losses, norms = record["num_steps"], None, [], []
    for start in range(0, len(record["tokens"]) - 1, T):
        window = record["tokens"][start : start + T + 1]
        loss, grads, state = model.loss_and_grads(window[:-1], window[1:], state)
        norms.append(clip_grad_norm(grads, record["max_norm"]))
        optimizer.step(grads)
        losses.append(loss)
    np.testing.assert_allclose(losses, record["losses"], rtol=1e-9)
    np.testing.assert_allclose(norms, record["norms"], rtol=1e-9)
    assert_same(model.params, record["params"], 1e-9)
    assert_same(state, record["state"], 1e-9)
    # The run is a test of clipping and of learning only if both took place.
    assert min(norms) < record["max_norm"] < max(norms)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
