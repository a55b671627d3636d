"""Layers and models as ONNX graphs, written in ONNX's own notation."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check
from .models import LanguageModel, SequenceClassifier, SequenceModel, SequenceRegressor
from .recurrent import RNN

if TYPE_CHECKING:
    from ._validation import Params


def to_onnx(
    layer: RNN | SequenceModel, path: str | os.PathLike[str], *, lengths: bool = False
) -> None:
    """Write a layer or a model as an ONNX graph, which onnxruntime and others run.

    One RNN node a layer (ONNX operator set 22), with free T and B. Inputs:

    - ``ids``, int64 (T, B), for a `LanguageModel`; a runtime may not notice ids beyond V-1. Or
      ``x``, float32 (T, B, I), for everything else; with `batch_first` (B, T, I).
    - ``state``, float32 (L*D, B, H); zeros to begin with.
    - ``lengths``, int64 (B,), if asked for.

    Outputs:

    - ``output``, float32 (T, B, D*H), of an `RNN`, with `batch_first` (B, T, D*H); (T, B, V) of a
      `SequenceRegressor`. Or ``logits``, float32 (T, B, V), of the other models, of a
      `SequenceClassifier` (B, V).
    - ``final_state``, float32 (L*D, B, H).

    For instance::

        to_onnx(model, "model.onnx")
        session = onnxruntime.InferenceSession("model.onnx")
        logits, state = session.run(None, {"ids": ids, "state": state})

    Parameters
    ----------
    layer : RNN or model
        With float32 parameters: onnxruntime has no RNN node of another type.
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


def _exported_layer(layer: RNN | SequenceModel) -> RNN:
    """Return the recurrent layers of a layer or a model, if they can be exported."""
    rnn = layer.rnn if isinstance(layer, SequenceModel) else layer
    if not isinstance(rnn, RNN):
        raise TypeError(f"layer must be an RNN, or a model with one; got {type(rnn).__name__}")
    check.choice("nonlinearity", rnn.nonlinearity, ("tanh", "relu"))
    dtype = rnn.params["weight_hh_l0"].dtype
    if dtype != np.float32:
        raise TypeError(
            f"layer must have float32 parameters, got {dtype}: convert it with layer.with_params("
            "{key: value.astype('float32') for key, value in layer.params.items()})"
        )
    return rnn


def _graph(layer: RNN | SequenceModel, rnn: RNN, lengths: bool) -> str:
    """Return the graph in ONNX's own notation; the weights are known by name only."""
    steps = "B, T" if rnn.batch_first else "T, B"
    state = f"float[{rnn.num_layers * rnn.num_directions}, B, {rnn.hidden_size}]"
    x = f"float[{steps}, {rnn.input_size}] x"
    result = f"float[{steps}, {rnn.num_directions * rnn.hidden_size}] output"
    if isinstance(layer, SequenceModel):
        x = f"int64[{steps}] ids" if isinstance(layer, LanguageModel) else x
        axes = "B" if isinstance(layer, SequenceClassifier) else steps
        result = f"float[{axes}, {layer.readout.out_features}] {_result_name(layer)}"
    inputs = ", ".join([x, f"{state} state", *(["int64[B] lengths"] if lengths else [])])
    nodes = [*_input_nodes(layer, rnn), *_layer_nodes(rnn, lengths), *_result_nodes(layer, lengths)]
    header = '<ir_version: 10, opset_import: ["": 22], producer_name: "nprnn">'
    body = "\n".join(nodes)
    return f"{header} nprnn ({inputs}) => ({result}, {state} final_state) {{\n{body}\n}}"


def _result_name(layer: RNN | SequenceModel) -> str:
    return "output" if isinstance(layer, RNN | SequenceRegressor) else "logits"


def _input_nodes(layer: RNN | SequenceModel, rnn: RNN) -> list[str]:
    """Return the nodes from the input to x_0, (T, B, I)."""
    if isinstance(layer, LanguageModel):
        return [
            f"num_classes = Constant <value_int = {rnn.input_size}> ()",
            "off_on = Constant <value_floats = [0.0, 1.0]> ()",
            "x_0 = OneHot (ids, num_classes, off_on)",
        ]
    return ["x_0 = Transpose <perm = [1, 0, 2]> (x)" if rnn.batch_first else "x_0 = Identity (x)"]


def _layer_nodes(rnn: RNN, lengths: bool) -> list[str]:
    """Return the nodes from x_0 and state to y, laid out like the input, and final_state."""
    L, D, H = rnn.num_layers, rnn.num_directions, rnn.hidden_size
    initials, finals = (", ".join(f"{h}_{k}" for k in range(L)) for h in ("h_0", "h_T"))
    activations = ", ".join([f'"{rnn.nonlinearity.capitalize()}"'] * D)
    direction = "bidirectional" if rnn.bidirectional else "forward"
    options = f'hidden_size = {H}, direction = "{direction}", activations = [{activations}]'
    nodes = [
        f"{initials} = Split <axis = 0, num_outputs = {L}> (state)",
        f"joined = Constant <value_ints = [0, 0, {D * H}]> ()",  # 0 keeps T and B
        *(["valid = Cast <to = 6> (lengths)"] if lengths else []),  # to int32
    ]
    for k in range(L):
        B, valid = f"B_{k}" if rnn.bias else "", "valid" if lengths else ""
        nodes += [
            f"Y_{k}, h_T_{k} = RNN <{options}> (x_{k}, W_{k}, R_{k}, {B}, {valid}, h_0_{k})",
            f"halves_{k} = Transpose <perm = [0, 2, 1, 3]> (Y_{k})",  # (T, D, B, H) to (T, B, D, H)
            f"x_{k + 1} = Reshape (halves_{k}, joined)",  # (T, B, D*H)
        ]
    leave = "Transpose <perm = [1, 0, 2]>" if rnn.batch_first else "Identity"
    nodes += [f"y = {leave} (x_{L})", f"h_T = Concat <axis = 0> ({finals})"]
    if not lengths:
        return [*nodes, "final_state = Identity (h_T)"]
    return [  # onnxruntime gives 0 for a sequence of length 0; here its state is the initial one
        *nodes,
        "zero = Constant <value_int = 0> ()",
        "is_empty = Equal (lengths, zero)",
        "axis_1 = Constant <value_ints = [1]> ()",
        "is_empty_row = Unsqueeze (is_empty, axis_1)",  # (B, 1)
        "final_state = Where (is_empty_row, state, h_T)",
    ]


def _result_nodes(layer: RNN | SequenceModel, lengths: bool) -> list[str]:
    """Return the nodes from y and final_state to the first output."""
    if not isinstance(layer, SequenceModel):
        return ["output = Identity (y)"]
    pool = _pool_nodes(layer, lengths) if isinstance(layer, SequenceClassifier) else []
    features = "pooled" if pool else "y"
    return [
        *pool,
        f"product = MatMul ({features}, W_readout)",
        f"{_result_name(layer)} = Add (product, b_readout)",
    ]


def _pool_nodes(model: SequenceClassifier, lengths: bool) -> list[str]:
    """Return the nodes from y and final_state to what a classifier reads out, (B, D*H)."""
    if model.pool == "last":
        top = range(model.rnn.num_layers * model.rnn.num_directions)[-model.rnn.num_directions :]
        return [
            f"top = Constant <value_ints = {list(top)}> ()",
            "top_state = Gather <axis = 0> (final_state, top)",  # (D, B, H)
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


def _graph_weights(layer: RNN | SequenceModel, rnn: RNN) -> Params:
    """Return W (D, H, in), R (D, H, H) and B (D, 2*H) of every layer, and those of the read-out."""
    arrays: Params = {}
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if rnn.bias else [])]
    for k in range(rnn.num_layers):
        places = [f"l{k}", f"l{k}_reverse"][: rnn.num_directions]
        W, R, *biases = (np.stack([rnn.params[f"{kind}_{at}"] for at in places]) for kind in kinds)
        arrays |= {f"W_{k}": W, f"R_{k}": R}
        if biases:
            arrays[f"B_{k}"] = np.concatenate(biases, axis=1)
    if isinstance(layer, SequenceModel):
        readout = layer.readout.params
        arrays |= {
            "W_readout": np.ascontiguousarray(readout["weight"].T),
            "b_readout": readout["bias"],
        }
    return arrays
