"""Layers and models as ONNX graphs, written in ONNX's own notation."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check
from . import dialects
from .models import LanguageModel, SequenceClassifier, SequenceModel, SequenceRegressor
from .recurrent import GRU, LSTM, RNN

if TYPE_CHECKING:
    from ._validation import Array, Params
    from .stack import Recurrent

    Layer = RNN | GRU | LSTM


def to_onnx(
    layer: Layer | SequenceModel, path: str | os.PathLike[str], *, lengths: bool = False
) -> None:
    """Write a layer or a model as an ONNX graph, which onnxruntime and others run.

    One RNN, GRU or LSTM node a layer (ONNX operator set 22), with free T and B. Inputs:

    - ``ids``, int64 (T, B), for a `LanguageModel`; a runtime may not notice ids that are not in
      0 .. V-1. Or ``x``, float32 (T, B, I), for everything else; with `batch_first` (B, T, I).
    - ``state``, float32 (L*D, B, H); zeros to begin with. Of an `LSTM` two, ``state_h`` and
      ``state_c``.
    - ``lengths``, int64 (B,), if asked for.

    Outputs:

    - ``output``, float32 (T, B, D*H), of a layer, with `batch_first` (B, T, D*H); (T, B, V) of a
      `SequenceRegressor`. Or ``logits``, float32 (T, B, V), of the other models, of a
      `SequenceClassifier` (B, V).
    - ``final_state``, float32 (L*D, B, H). Of an `LSTM` two, ``final_state_h`` and
      ``final_state_c``.

    For instance::

        to_onnx(model, "model.onnx")
        session = onnxruntime.InferenceSession("model.onnx")
        logits, state = session.run(None, {"ids": ids, "state": state})

    Parameters
    ----------
    layer : RNN, GRU, LSTM or model
        With float32 parameters: onnxruntime has no such nodes of another type.
    path : str or path-like
        By custom it ends in ``.onnx``.
    lengths : bool, default False
        Whether the graph has the input ``lengths``: the valid steps of each sequence, 0 to T.

    Raises
    ------
    ImportError
        If the package ``onnx``, 1.17 or newer, is not installed.
    TypeError
        If it is another kind of layer, or the parameters are not float32.
    """
    rnn = _exported_layer(layer)
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError("to_onnx needs the package onnx: pip install onnx") from error
    model = onnx.parser.parse_model(_graph(layer, rnn, check.flag("lengths", lengths)))
    arrays = _graph_weights(layer, rnn)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString())


def _exported_layer(layer: Layer | SequenceModel) -> Layer:
    """Return the recurrent layers of a layer or a model, if they can be exported."""
    rnn = layer.rnn if isinstance(layer, SequenceModel) else layer
    if not isinstance(rnn, RNN | GRU | LSTM):
        raise TypeError(
            f"layer must be an RNN, GRU or LSTM, or a model with one; got {type(rnn).__name__}"
        )
    if isinstance(rnn, RNN):
        check.choice("nonlinearity", rnn.nonlinearity, ("tanh", "relu"))
    dtype = rnn.params["weight_hh_l0"].dtype
    if dtype != np.float32:
        raise TypeError(
            f"layer must have float32 parameters, got {dtype}: convert it with layer.with_params("
            "{key: value.astype('float32') for key, value in layer.params.items()})"
        )
    return rnn


def _state_names(rnn: Recurrent) -> dict[str, str]:
    """Return the name of each state, as caller and runtime know it, by its letter."""
    letters = "hc"[: rnn.cell.num_states]
    return {letter: "state" if letters == "h" else f"state_{letter}" for letter in letters}


def _graph(layer: Layer | SequenceModel, rnn: Layer, lengths: bool) -> str:
    """Return the graph in ONNX's own notation; the weights are known by name only."""
    steps = "B, T" if rnn.batch_first else "T, B"
    x = f"float[{steps}, {rnn.input_size}] x"
    result = f"float[{steps}, {rnn.num_directions * rnn.hidden_size}] output"
    if isinstance(layer, SequenceModel):
        x = f"int64[{steps}] ids" if isinstance(layer, LanguageModel) else x
        axes = "B" if isinstance(layer, SequenceClassifier) else steps
        result = f"float[{axes}, {layer.readout.out_features}] {_result_name(layer)}"
    shape = f"float[{rnn.num_layers * rnn.num_directions}, B, {rnn.hidden_size}]"
    states = [f"{shape} {name}" for name in _state_names(rnn).values()]
    finals = [f"{shape} final_{name}" for name in _state_names(rnn).values()]
    inputs = ", ".join([x, *states, *(["int64[B] lengths"] if lengths else [])])
    outputs = ", ".join([result, *finals])
    nodes = [*_input_nodes(layer, rnn), *_layer_nodes(rnn, lengths), *_result_nodes(layer, lengths)]
    header = '<ir_version: 10, opset_import: ["": 22], producer_name: "nprnn">'
    body = "\n".join(nodes)
    return f"{header} nprnn ({inputs}) => ({outputs}) {{\n{body}\n}}"


def _result_name(layer: Layer | SequenceModel) -> str:
    """Return the name of the first output."""
    if isinstance(layer, SequenceModel) and not isinstance(layer, SequenceRegressor):
        return "logits"
    return "output"


def _input_nodes(layer: Layer | SequenceModel, rnn: Layer) -> list[str]:
    """Return the nodes from the input to x_0, (T, B, I)."""
    if isinstance(layer, LanguageModel) and layer.embedding_size:
        return ["x_0 = Gather <axis = 0> (W_embedding, ids)"]
    if isinstance(layer, LanguageModel):
        return [
            f"num_classes = Constant <value_int = {rnn.input_size}> ()",
            "off_on = Constant <value_floats = [0.0, 1.0]> ()",
            "x_0 = OneHot (ids, num_classes, off_on)",
        ]
    return ["x_0 = Transpose <perm = [1, 0, 2]> (x)" if rnn.batch_first else "x_0 = Identity (x)"]


def _layer_nodes(rnn: Layer, lengths: bool) -> list[str]:
    """Return the nodes from x_0 and the states to y, laid out like the input, and final states."""
    L, D, H = rnn.num_layers, rnn.num_directions, rnn.hidden_size
    names = _state_names(rnn)
    nodes = [
        f"joined = Constant <value_ints = [0, 0, {D * H}]> ()",  # 0 keeps T and B
        *(["valid = Cast <to = 6> (lengths)"] if lengths else []),  # to int32
    ]
    for letter, name in names.items():
        initials = ", ".join(f"{letter}_0_{k}" for k in range(L))
        nodes.append(f"{initials} = Split <axis = 0, num_outputs = {L}> ({name})")
    for k in range(L):
        B, valid = f"B_{k}" if rnn.bias else "", "valid" if lengths else ""
        before, after = (", ".join(f"{letter}_{t}_{k}" for letter in names) for t in "0T")
        nodes += [
            f"Y_{k}, {after} = {_operator(rnn)} (x_{k}, W_{k}, R_{k}, {B}, {valid}, {before})",
            f"halves_{k} = Transpose <perm = [0, 2, 1, 3]> (Y_{k})",  # (T, D, B, H) to (T, B, D, H)
            f"x_{k + 1} = Reshape (halves_{k}, joined)",  # (T, B, D*H)
        ]
    leave = "Transpose <perm = [1, 0, 2]>" if rnn.batch_first else "Identity"
    nodes.append(f"y = {leave} (x_{L})")
    if lengths:
        nodes += [
            "zero = Constant <value_int = 0> ()",
            "is_empty = Equal (lengths, zero)",
            "axis_1 = Constant <value_ints = [1]> ()",
            "is_empty_row = Unsqueeze (is_empty, axis_1)",  # (B, 1)
        ]
    for letter, name in names.items():
        finals = ", ".join(f"{letter}_T_{k}" for k in range(L))
        nodes.append(f"{letter}_T = Concat <axis = 0> ({finals})")
        # onnxruntime gives 0 for a sequence of length 0; here its state is the initial one.
        last = f"Where (is_empty_row, {name}, {letter}_T)" if lengths else f"Identity ({letter}_T)"
        nodes.append(f"final_{name} = {last}")
    return nodes


def _operator(rnn: Layer) -> str:
    """Return the name and the attributes of the node that is a layer."""
    dialect = dialects.of_layer(rnn)
    direction = "bidirectional" if rnn.bidirectional else "forward"
    options = [f"hidden_size = {rnn.hidden_size}", f'direction = "{direction}"']
    if isinstance(rnn, RNN):
        activations = ", ".join([f'"{rnn.nonlinearity.capitalize()}"'] * rnn.num_directions)
        options.append(f"activations = [{activations}]")
    options += [dialect.onnx_options] if dialect.onnx_options else []
    return f"{dialect.layer.__name__} <{', '.join(options)}>"


def _result_nodes(layer: Layer | SequenceModel, lengths: bool) -> list[str]:
    """Return the nodes from y and the final state to the first output."""
    if not isinstance(layer, SequenceModel):
        return ["output = Identity (y)"]
    pool = _pool_nodes(layer, lengths) if isinstance(layer, SequenceClassifier) else []
    tied = isinstance(layer, LanguageModel) and layer.tie_weights
    return [
        *pool,
        *(["W_readout = Transpose <perm = [1, 0]> (W_embedding)"] if tied else []),
        f"product = MatMul ({'pooled' if pool else 'y'}, W_readout)",
        f"{_result_name(layer)} = Add (product, b_readout)",
    ]


def _pool_nodes(model: SequenceClassifier, lengths: bool) -> list[str]:
    """Return the nodes from y and the final state to what a classifier reads out, (B, D*H)."""
    if model.pool == "last":
        h = _state_names(model.rnn)["h"]
        top = range(model.rnn.num_layers * model.rnn.num_directions)[-model.rnn.num_directions :]
        return [
            f"top = Constant <value_ints = {list(top)}> ()",
            f"top_state = Gather <axis = 0> (final_{h}, top)",  # (D, B, H)
            "top_rows = Transpose <perm = [1, 0, 2]> (top_state)",  # (B, D, H)
            "pooled = Flatten (top_rows)",
        ]
    time_axis = "time_axis = Constant <value_ints = [0]> ()"
    if not lengths:
        return [time_axis, "pooled = ReduceMean <keepdims = 0> (y, time_axis)"]
    return [
        time_axis,
        "total = ReduceSum <keepdims = 0> (y, time_axis)",  # y is 0 beyond the lengths
        "one = Constant <value_int = 1> ()",
        "num_valid = Max (lengths, one)",
        "num_valid_row = Unsqueeze (num_valid, axis_1)",  # (B, 1)
        "divisor = CastLike (num_valid_row, total)",
        "pooled = Div (total, divisor)",
    ]


def _graph_weights(layer: Layer | SequenceModel, rnn: Layer) -> Params:
    """Return W (D, G*H, in), R (D, G*H, H), B (D, 2*G*H) of every layer, and a model's others."""
    dialect = dialects.of_layer(rnn)
    arrays: Params = {}

    def stacked(kind: str, k: int) -> Array:
        places = [f"l{k}", f"l{k}_reverse"][: rnn.num_directions]
        directions = np.stack([rnn.params[f"{kind}_{at}"] for at in places])
        return dialects.reordered(directions, dialect.gates, dialect.onnx_gates, axis=1)

    for k in range(rnn.num_layers):
        arrays |= {f"W_{k}": stacked("weight_ih", k), f"R_{k}": stacked("weight_hh", k)}
        if rnn.bias:
            biases = stacked("bias_ih", k), stacked("bias_hh", k)
            arrays[f"B_{k}"] = np.concatenate(biases, axis=1)
    if isinstance(layer, LanguageModel) and layer.embedding_size:
        arrays["W_embedding"] = layer.params["embedding.weight"]
    if isinstance(layer, SequenceModel):
        if "readout.weight" in layer.params:  # else it is the embedding's
            arrays["W_readout"] = np.ascontiguousarray(layer.params["readout.weight"].T)
        arrays["b_readout"] = layer.params["readout.bias"]
    return arrays
