"""Weights in and out: PyTorch's names, weights files, Keras, the textbook's arrays, and ONNX.

No bit changes on the way: arrays keep their dtype, and what comes in and goes out again is equal to
the last bit. Every function copies, so that no two networks share memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from . import _validation as check
from . import dialects, weights
from .linear import Linear
from .models import LanguageModel, SequenceModel
from .onnx_export import to_onnx
from .recurrent import GRU, LSTM, RNN

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike

    from ._validation import Array, Params
    from .dialects import Dialects

__all__ = [
    "from_chapter",
    "from_keras",
    "from_state_dict",
    "linear_from_state_dict",
    "load_params",
    "save_params",
    "to_chapter",
    "to_keras",
    "to_onnx",
    "to_state_dict",
]

_NAME = re.compile("(?P<kind>weight|bias)_(ih|hh)_l(?P<layer>[0-9]+)(?P<reverse>_reverse)?")


class _Parametrised(Protocol):
    """A layer or a model of this package."""

    params: Params

    def with_params(self, params: Mapping[str, ArrayLike]) -> Self:
        """Return the same over other arrays."""


AnyParametrised = TypeVar("AnyParametrised", bound=_Parametrised)


def from_state_dict(
    state_dict: Mapping[str, ArrayLike],
    *,
    prefix: str | None = None,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dropout: float = 0.0,
) -> RNN | GRU | LSTM:
    """Build a layer from the `state_dict` of a `torch.nn.RNN`, `GRU` or `LSTM`.

    Or from that of a module that has one. The cell, sizes, layers, directions and bias follow from
    the names and shapes. The other arguments leave no trace in the arrays: pass them as they were.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        ``weight_ih_l0`` (G*H, I), ``weight_hh_l0`` (G*H, H), ``bias_ih_l0`` (G*H,) and so on, G
        being 1 for an RNN, 3 for a GRU and 4 for an LSTM, of float32 or float64: arrays, or tensors
        on the CPU. From a file: ``nprnn.weights.load(path)[0]``.
    prefix : str, optional
        What stands in front of the names, such as ``"rnn."``. Found, if one key only ends in
        ``weight_ih_l0``. Keys without it are not looked at.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        Of an RNN; the others have none to choose.
    batch_first, dropout
        As for `RNN`.

    Returns
    -------
    RNN, GRU or LSTM
        Over copies, of the same dtype.

    Raises
    ------
    ValueError
        If there is no such layer, or several, or it is an LSTM with projections. One message lists
        every missing, unexpected and mis-shaped key.
    TypeError
        If an array is of another dtype, such as float16 or bfloat16.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> state_dict = {
    ...     "encoder.weight_ih_l0": rng.normal(size=(4, 3)),
    ...     "encoder.weight_hh_l0": rng.normal(size=(4, 4)),
    ...     "decoder.weight": rng.normal(size=(2, 4)),
    ...     "decoder.bias": rng.normal(size=2),
    ... }
    >>> from_state_dict(state_dict)
    RNN(3, 4, bias=False, dtype='float64')
    >>> gru = {"weight_ih_l0": np.ones((12, 3)), "weight_hh_l0": np.ones((12, 4))}
    >>> from_state_dict(gru)
    GRU(3, 4, bias=False, dtype='float64')
    >>> linear_from_state_dict(state_dict, prefix="decoder.")
    Linear(4, 2)
    """
    prefix = _prefix(state_dict, prefix, "weight_ih_l0")
    found = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    names = [name for key in found if (name := _NAME.fullmatch(key, len(prefix)))]
    matrix, recurrent = f"{prefix}weight_ih_l0", f"{prefix}weight_hh_l0"
    rows, input_size = _matrix(matrix, found[matrix])
    _refuse_projections(found, prefix)
    # Without the second matrix, which is then named as missing, the simplest cell is assumed.
    gate_rows, H = _matrix(recurrent, found[recurrent]) if recurrent in found else (rows, rows)
    dialect = _dialect(recurrent, "rows", gate_rows, H)
    # Born with one unit, then given its size: no numbers are drawn that nobody needs, and a damaged
    # dict asks for no memory.
    layer = dialect.layer(
        1,
        1,
        num_layers=len({name["layer"] for name in names}),
        bias=any(name["kind"] == "bias" for name in names),
        batch_first=batch_first,
        dropout=dropout,
        bidirectional=any(name["reverse"] for name in names),
        rng=0,
        **_nonlinearity(dialect, nonlinearity),
    )
    layer.input_size, layer.hidden_size = input_size, H
    shapes = {prefix + key: shape for key, shape in layer._shapes().items()}
    return layer.with_params(_without(prefix, _strict("the arrays of state_dict", found, shapes)))


def linear_from_state_dict(state_dict: Mapping[str, ArrayLike], *, prefix: str) -> Linear:
    """Build a read-out from the `state_dict` of a module that has a `torch.nn.Linear`.

    Parameters
    ----------
    state_dict : mapping of str to array_like
        Has the prefix + ``weight`` (V, H) and, if there is a bias, the prefix + ``bias`` (V,).
    prefix : str
        Such as ``"decoder."``, dot included.

    Returns
    -------
    Linear
        Over copies, of the same dtype.

    Raises
    ------
    TypeError, ValueError
        As `from_state_dict`, which has an example.
    """
    prefix = _prefix(state_dict, prefix, "weight")
    found = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
    V, H = _matrix(f"{prefix}weight", found[f"{prefix}weight"])
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}weight": (V, H)}
    if f"{prefix}bias" in found:
        shapes[f"{prefix}bias"] = (V,)
    params = _without(prefix, _strict("the arrays of state_dict", found, shapes))
    return Linear(H, V, bias="bias" in params, rng=0).with_params(params)


def to_state_dict(layer: _Parametrised, *, prefix: str = "") -> Params:
    """Return copies of the parameters, named as PyTorch names them.

    In PyTorch: ``module.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})``.

    Parameters
    ----------
    layer : layer or model
    prefix : str, default ""
        Put in front of each name.

    Returns
    -------
    dict of str to ndarray
        C-contiguous.

    Examples
    --------
    >>> {key: array.shape for key, array in to_state_dict(Linear(3, 2), prefix="fc.").items()}
    {'fc.weight': (2, 3), 'fc.bias': (2,)}
    """
    return {prefix + key: np.array(value, order="C") for key, value in _params(layer).items()}


def save_params(path: str | os.PathLike[str], layer: _Parametrised) -> None:
    """Write the parameters of a layer or a model to a safetensors file.

    The file is replaced as a whole; `nprnn.weights.save` says more, and names the errors.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> model = LanguageModel(vocab_size=5, hidden_size=8)
    >>> with TemporaryDirectory() as folder:
    ...     save_params(f"{folder}/model.safetensors", model)
    ...     loaded = load_params(f"{folder}/model.safetensors", LanguageModel(5, 8))
    >>> bool((loaded.params["readout.weight"] == model.params["readout.weight"]).all())
    True
    """
    weights.save(path, _params(layer))


def load_params(path: str | os.PathLike[str], layer: AnyParametrised) -> AnyParametrised:
    """Return the same layer or model over the arrays of a safetensors file.

    Parameters
    ----------
    path : str or path-like
        Of `save_params`, or of ``safetensors.torch.save_file(module.state_dict(), path)`` if the
        names are the same. Of a layer whose sizes are unknown: see `from_state_dict`.
    layer : layer or model
        Says which keys and shapes are expected. It is not changed.

    Returns
    -------
    layer or model
        With the dtype of the file.

    Raises
    ------
    ValueError
        If the arrays do not fit; one message lists every missing, unexpected and mis-shaped key.
    TypeError
        If an array is neither float32 nor float64.
    WeightsFileError
        If the file is damaged, or of another kind.
    OSError
        If it cannot be read.
    """
    shapes = {key: value.shape for key, value in _params(layer).items()}
    arrays, _ = weights.load(path)
    return layer.with_params(_strict(f"the arrays of {os.fspath(path)}", arrays, shapes))


def from_keras(arrays: Sequence[ArrayLike], *, nonlinearity: str = "tanh") -> RNN | GRU | LSTM:
    """Build a layer from what `get_weights()` of a Keras `SimpleRNN`, `GRU` or `LSTM` returns.

    The cell follows from the shapes. Of a `GRU` and an `LSTM` the activations must be the default
    ones.

    Parameters
    ----------
    arrays : sequence of array_like
        kernel (I, G*H), recurrent_kernel (H, G*H) and, unless it was built with ``use_bias=False``,
        bias (G*H,), for a `GRU` (2, 3*H). G is 1 for a `SimpleRNN`, 3 for a `GRU` and 4 for an
        `LSTM`.
    nonlinearity : {"tanh", "relu"}, default "tanh"
        What a `SimpleRNN` calls activation; the others have none to choose.

    Returns
    -------
    RNN, GRU or LSTM
        ``weight_ih_l0`` and ``weight_hh_l0`` are the kernels transposed, for a `GRU` in another
        order of the gates. ``bias_ih_l0`` is the bias and ``bias_hh_l0`` is 0; those of a `GRU` are
        the two rows.

    Raises
    ------
    TypeError, ValueError
        If number, shapes or dtypes of the arrays do not fit, or a bias shows that a `GRU` was built
        with ``reset_after=False``, which computes something else.

    Notes
    -----
    Without a bias nothing shows how a `GRU` was built: it is taken for one of the default,
    ``reset_after=True``.

    Examples
    --------
    >>> layer = from_keras([np.ones((3, 2)), np.eye(2), np.array([-0.5, 0.25])])
    >>> layer, to_keras(layer)[2]
    (RNN(3, 2, dtype='float64'), array([-0.5 ,  0.25]))
    >>> from_keras([np.ones((3, 6)), np.ones((2, 6)), np.zeros((2, 6))])
    GRU(3, 2, dtype='float64')
    """
    given = list(arrays)
    if len(given) not in (2, 3):
        raise ValueError(
            "arrays must be kernel, recurrent_kernel and maybe bias, of one layer of one "
            f"direction; got {len(given)} arrays"
        )
    named = dict(zip(("kernel", "recurrent_kernel", "bias"), given, strict=False))
    I, _ = _matrix("kernel", named["kernel"])  # noqa: E741
    H, columns = _matrix("recurrent_kernel", named["recurrent_kernel"])
    dialect = _dialect("recurrent_kernel", "columns", columns, H)
    one_bias = dialect.keras_biases == 1
    if not one_bias and np.shape(named.get("bias", ())) == (columns,):
        raise ValueError(
            f"bias must have shape (2, 3*H = {columns}), got ({columns},): that is of a GRU with "
            "reset_after=False, which computes something else and is not supported"
        )
    shapes = {
        "kernel": (I, columns),
        "recurrent_kernel": (H, columns),
        "bias": (columns,) if one_bias else (dialect.keras_biases, columns),
    }
    checked = _strict("arrays", named, {key: shapes[key] for key in named})
    options = _nonlinearity(dialect, nonlinearity)
    layer = dialect.layer(1, 1, bias="bias" in named, rng=0, **options)
    layer.input_size, layer.hidden_size = I, H
    params = _from_columns(*checked.values())
    return layer.with_params(
        {
            key: dialects.reordered(value, dialect.keras_gates, dialect.gates)
            for key, value in params.items()
        }
    )


def to_keras(layer: RNN | GRU | LSTM) -> list[Array]:
    """Return what `set_weights` of a Keras `SimpleRNN`, `GRU` or `LSTM` takes.

    Parameters
    ----------
    layer : RNN, GRU or LSTM
        Of one layer and one direction.

    Returns
    -------
    list of ndarray
        kernel (I, G*H), recurrent_kernel (H, G*H) and, if the layer has biases, their sum (G*H,),
        of a `GRU` both, (2, 3*H).

    Raises
    ------
    TypeError, ValueError
        If it is another kind of layer, or has more layers or directions.
    """
    dialect = dialects.of_layer(layer)
    params = {
        key: dialects.reordered(value, dialect.gates, dialect.keras_gates)
        for key, value in layer.params.items()
    }
    return _to_columns(layer, params, dialect.keras_biases)


def from_chapter(
    W_xh: ArrayLike, W_hh: ArrayLike, b_h: ArrayLike, W_hq: ArrayLike, b_q: ArrayLike
) -> LanguageModel:
    """Build a model from the arrays of the textbook's network.

    Zhang et al., "Dive into Deep Learning", section 9.5: H_t = tanh(X_t W_xh + H_(t-1) W_hh + b_h),
    O_t = H_t W_hq + b_q.

    Parameters
    ----------
    W_xh : array_like of float, shape (V, H)
    W_hh : array_like of float, shape (H, H)
    b_h : array_like of float, shape (H,)
    W_hq : array_like of float, shape (H, V)
    b_q : array_like of float, shape (V,)

    Returns
    -------
    LanguageModel
        The matrices transposed; ``rnn.bias_ih_l0`` is b_h, ``rnn.bias_hh_l0`` is 0.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit; one message lists every fault.

    Examples
    --------
    >>> V, H = 5, 3
    >>> arrays = {"W_xh": np.ones((V, H)), "W_hh": np.eye(H), "b_h": np.zeros(H)}
    >>> arrays |= {"W_hq": np.ones((H, V)), "b_q": np.arange(5.0)}
    >>> model = from_chapter(**arrays)
    >>> model.vocab_size, model.rnn, to_chapter(model)["b_q"]
    (5, RNN(5, 3, dtype='float64'), array([0., 1., 2., 3., 4.]))
    """
    V, H = _matrix("W_xh", W_xh)
    given = {"W_xh": W_xh, "W_hh": W_hh, "b_h": b_h, "W_hq": W_hq, "b_q": b_q}
    shapes = {"W_xh": (V, H), "W_hh": (H, H), "b_h": (H,), "W_hq": (H, V), "b_q": (V,)}
    arrays = _strict("the chapter's arrays", given, shapes)
    layer = _from_columns(arrays["W_xh"], arrays["W_hh"], arrays["b_h"])
    readout = {"readout.weight": _transposed(arrays["W_hq"]), "readout.bias": arrays["b_q"]}
    model = LanguageModel(V, H, rng=0)
    return model.with_params({f"rnn.{key}": value for key, value in layer.items()} | readout)


def to_chapter(model: SequenceModel) -> Params:
    """Return the five arrays of the textbook's network; `from_chapter` has their shapes.

    Parameters
    ----------
    model : LanguageModel or another model
        With ``cell="rnn"``, one layer, one direction, tanh, and no embedding.

    Returns
    -------
    dict of str to ndarray
        ``W_xh, W_hh, b_h, W_hq, b_q``; b_h is the sum of both biases.

    Raises
    ------
    TypeError, ValueError
        If the model is not of that form.
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(f"model must be a model, such as LanguageModel; got {type(model).__name__}")
    rnn = model.rnn
    if not isinstance(rnn, RNN) or rnn.nonlinearity != "tanh":
        raise ValueError(f"model must have cell 'rnn' and nonlinearity 'tanh'; got {rnn!r}")
    if "embedding.weight" in model.params:
        raise ValueError("model must read one-hot vectors; got one with an embedding")
    W_xh, W_hh, b_h = _to_columns(rnn, rnn.params, num_biases=1)
    readout = model.readout.params
    W_hq, b_q = _transposed(readout["weight"]), readout["bias"].copy()
    return {"W_xh": W_xh, "W_hh": W_hh, "b_h": b_h, "W_hq": W_hq, "b_q": b_q}


def _prefix(state_dict: Mapping[str, Any], prefix: str | None, name: str) -> str:
    """Return the prefix of the layer that has this name, given or found."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise TypeError(
            f"state_dict must map names to arrays, got {type(state_dict).__name__}: pass "
            "module.state_dict(), or nprnn.weights.load(path)[0]"
        )
    found = [key.removesuffix(name) for key in state_dict if key.endswith(name)]
    if prefix is None and len(found) == 1:
        return found[0]
    if prefix is not None and prefix in found:
        return prefix
    if not found:
        keys = _listed(state_dict)
        raise ValueError(f"state_dict has no key that ends in {name}; its keys are: {keys}")
    problem = "has several layers" if prefix is None else f"has no key '{prefix}{name}'"
    raise ValueError(f"state_dict {problem}: pass as prefix one of {_listed(map(repr, found))}")


def _listed(names: Iterable[str]) -> str:
    """Join names to a text; of many, the first ones."""
    every = list(names)
    return ", ".join(every[:20]) + (f" and {len(every) - 20} more" if len(every) > 20 else "")


def _without(prefix: str, arrays: Params) -> Params:
    return {key.removeprefix(prefix): value for key, value in arrays.items()}


def _params(layer: Any) -> Params:
    """Return the parameters of a layer or a model, or say that it is neither."""
    if not isinstance(getattr(layer, "params", None), dict):
        raise TypeError(f"layer must be a layer or a model, got {type(layer).__name__}")
    params: Params = layer.params
    return params


def _strict(
    name: str, given: Mapping[str, ArrayLike], shapes: Mapping[str, tuple[int, ...]]
) -> Params:
    """Return copies of exactly the arrays that are expected, float32 or float64."""
    known = {key: _copy(key, value) if key in shapes else value for key, value in given.items()}
    return check.params(name, known, shapes)


def _copy(name: str, value: ArrayLike) -> Array:
    """Return a contiguous copy of an array, or of what can be read as one, such as a tensor."""
    hint = "convert it, in PyTorch with .detach().cpu().float(), in NumPy with .astype('float32')"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # the last for a tensor with a gradient
        raise TypeError(f"{name} cannot be read as an array ({error}): {hint}") from None
    if array.dtype.char not in "fd":
        raise TypeError(f"{name} must be of float32 or float64, got dtype {array.dtype}: {hint}")
    return np.array(array, order="C")


def _matrix(name: str, value: ArrayLike) -> tuple[int, int]:
    """Return the shape of a matrix, from which the sizes of a layer follow."""
    shape = tuple(np.shape(value))
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{name} must be a matrix of at least one row and column; got {shape}")
    return shape


def _dialect(name: str, side: str, gate_rows: int, hidden_size: int) -> Dialects:
    """Return what is known of the cell whose recurrent matrix has these sizes."""
    dialect = dialects.of_sizes(gate_rows, hidden_size)
    if dialect is None:
        known = ", ".join(f"{len(row.gates)}*H for {row.name}" for row in dialects.TABLE)
        raise ValueError(
            f"{name} has {gate_rows} {side}, the hidden size H is {hidden_size}: there must be "
            f"{known}"
        )
    return dialect


def _refuse_projections(found: Iterable[str], prefix: str) -> None:
    """Refuse an LSTM whose h is smaller than its c: the shapes alone would not say what it is."""
    for key in found:
        if key.startswith(f"{prefix}weight_hr_l"):
            raise ValueError(f"state_dict has {key}: an LSTM with projections is not supported")


def _nonlinearity(dialect: Dialects, nonlinearity: str) -> dict[str, Any]:
    """Return the option that only an RNN has, or refuse it."""
    if dialect.layer is RNN:
        return {"nonlinearity": nonlinearity}
    if nonlinearity != "tanh":
        raise ValueError(
            f"nonlinearity belongs to an RNN, the arrays to {dialect.name}: leave it out, got "
            f"{nonlinearity!r}"
        )
    return {}


def _transposed(matrix: Array) -> Array:
    return np.array(matrix.T, order="C")


def _from_columns(kernel: Array, recurrent: Array, bias: Array | None = None) -> Params:
    """Return the parameters of a layer, from x_t kernel + h_(t-1) recurrent + bias.

    The bias is the sum (G*H,) of b_ih and b_hh, or both, (2, G*H).
    """
    params = {"weight_ih_l0": _transposed(kernel), "weight_hh_l0": _transposed(recurrent)}
    if bias is None:
        return params
    # The negative zero is the one that changes no bit in a sum, the sign of another zero included.
    b_ih, b_hh = (bias, np.full_like(bias, -0.0)) if bias.ndim == 1 else bias
    return params | {"bias_ih_l0": b_ih, "bias_hh_l0": b_hh}


def _to_columns(layer: RNN | GRU | LSTM, params: Params, num_biases: int) -> list[Array]:
    """Return kernel, recurrent and, if there is one, bias: the other way round."""
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError(f"only one layer of one direction can be converted; got {layer!r}")
    kernels = [_transposed(params["weight_ih_l0"]), _transposed(params["weight_hh_l0"])]
    if not layer.bias:
        return kernels
    biases = params["bias_ih_l0"], params["bias_hh_l0"]
    return [*kernels, biases[0] + biases[1] if num_biases == 1 else np.stack(biases)]
