"""Checkpoints: a training written to one safetensors file, and read back to go on from there.

The tensors are the weights under their own names, what the optimizer keeps as ``optimizer.…``, and
the carried state as ``state.0`` and, for an LSTM, ``state.1``. Everything else stands in the
header as strings, each of them JSON. So any program that reads safetensors reads the weights, and
nothing in the file is ever run. No clock is written: the same training gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.random  # now: reading a file imports nothing

from . import optim, weights
from ._validation import integer
from .encoding import Vocabulary
from .models import LanguageModel
from .recurrent import LAYERS
from .training import Position
from .weights import WeightsFileError

if TYPE_CHECKING:
    from ._validation import Array, Params
    from .stack import State

    Scalar = str | int | float | bool | None
    Shapes = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

FORMAT = "nprnn checkpoint"
FORMAT_VERSION = 1
OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    kind.__name__: kind
    for kind in (optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW)
}
BEST = "best.safetensors"
_NUMBERED = re.compile(r"step-(\d{8,})\.safetensors")
_LEFT_OVER = re.compile(r"\.weights-[0-9a-f]{16}\.tmp")  # what an interrupted save leaves behind
_LONGEST_REASON = 600  # characters
_LARGEST = 2**31 - 1  # of sizes in the configuration, so that their products stay small


class Point(NamedTuple):
    """What a stretch of training came to.

    Attributes
    ----------
    epoch, step : int
        At its end.
    loss, grad_norm : float
        Means over its steps: nats a token, and the norm of the gradients before clipping.
    validation_loss : float or None
        Where it was measured, at the end.
    """

    epoch: int
    step: int
    loss: float
    grad_norm: float
    validation_loss: float | None = None


@dataclass
class Checkpoint:
    """A training between two steps.

    Attributes
    ----------
    model : LanguageModel
    vocabulary : Vocabulary
        Of strings.
    optimizer : Optimizer
        One of `nprnn.optim`, over the parameters of `model`.
    position : Position
    text : dict
        What was trained on: its ``name``, its number of ``characters`` and its ``sha256``.
    run : dict of str to str, int, float, bool or None
        The other settings of the training, resolved.
    history : list of Point
    unfinished : tuple of (float, float, int)
        Sums of loss and gradient norm over the steps since the last point, and their number.
    best_loss : float or None
        Lowest validation loss, nats a token.
    versions : dict of str to str
        Of what wrote the file.
    """

    model: LanguageModel
    vocabulary: Vocabulary
    optimizer: optim.Optimizer
    position: Position
    text: dict[str, Any]
    run: dict[str, Scalar] = field(default_factory=dict)
    history: list[Point] = field(default_factory=list)
    unfinished: tuple[float, float, int] = (0.0, 0.0, 0)
    best_loss: float | None = None
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    @property
    def is_past_its_best(self) -> bool:
        """Whether an earlier step predicted the held-out text better than the last that did."""
        losses = [p.validation_loss for p in self.history if p.validation_loss is not None]
        return bool(losses) and self.best_loss is not None and losses[-1] > self.best_loss


def save(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, as a whole or not at all; see `nprnn.weights.save`.

    Parameters
    ----------
    path : str or path-like
        By custom it ends in ``.safetensors``.
    checkpoint : Checkpoint

    Raises
    ------
    TypeError, ValueError
        If something in it cannot be written, such as a token that is no `str`.
    OSError
        If the file cannot be written; what was there before is untouched.
    """
    tensors = _tensors(checkpoint)
    header = {
        name: json.dumps(value, allow_nan=False) for name, value in _header(checkpoint).items()
    }
    header["data_sha256"] = _data_hash(tensors)
    header["header_sha256"] = _header_hash(header)
    weights.save(path, tensors, header)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, strictly: it is returned as it was written, or refused.

    Which tensors there must be, of which shapes and dtypes, follows from the configuration in the
    header and is compared exactly. All numbers must be finite, and the hashes right.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    WeightsFileError
        If anything does not fit; the message names the file, the place and the reason.
    OSError
        If there is no such file, or it cannot be read.
    """
    tensors, header = weights.load(path)
    try:
        return _assembled(tensors, _parsed(tensors, header))
    except (ValueError, TypeError, OverflowError) as error:
        # A hostile value that some check quotes must not make a message of megabytes.
        raise WeightsFileError(f"{os.fspath(path)}: {str(error)[:_LONGEST_REASON]}") from None


# Writing


def _versions() -> dict[str, str]:
    from . import __version__

    python = platform.python_version()
    return {"nprnn": __version__, "numpy": np.__version__, "python": python}


def _tensors(checkpoint: Checkpoint) -> dict[str, Array]:
    model, state = checkpoint.model, checkpoint.position.state
    kept = checkpoint.optimizer.state_dict()
    return {
        **model.params,
        **{f"optimizer.{name}": array for name, array in kept.items()},
        **{f"state.{i}": array for i, array in enumerate(_state_parts(state))},
    }


def _state_parts(state: State) -> tuple[Array, ...]:
    if state is None:
        return ()
    return state if isinstance(state, tuple) else (state,)


def _header(checkpoint: Checkpoint) -> dict[str, Any]:
    position, optimizer = checkpoint.position, checkpoint.optimizer
    parts = _state_parts(position.state)
    name = type(optimizer).__name__
    if OPTIMIZERS.get(name) is not type(optimizer):
        raise TypeError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": _configuration(checkpoint.model),
        "vocabulary": _vocabulary_fields(checkpoint.vocabulary),
        "optimizer": {"name": name} | {key: getattr(optimizer, key) for key in optimizer.settings},
        "position": {
            "epoch": position.epoch,
            "batch": position.batch,
            "step": position.step,
            "sequences": parts[0].shape[1] if parts else None,  # of the carried state
            "rollbacks": position.rollbacks,
        },
        "generator": {
            "epoch": _generator_state("generator", position.epoch_rng),
            "now": _generator_state("generator", position.rng),
        },
        "run": checkpoint.run,
        "history": [_writable(point) for point in checkpoint.history],
        "unfinished": _writable(checkpoint.unfinished),
        "best_loss": checkpoint.best_loss,
        "text": checkpoint.text,
        "versions": checkpoint.versions,
    }


def _configuration(model: LanguageModel) -> dict[str, Any]:
    """Return the arguments that make a model of the same parameters, however they were drawn."""
    rnn = model.rnn
    cell = next(name for name, kind in LAYERS.items() if type(rnn) is kind)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": rnn.hidden_size,
        "num_layers": rnn.num_layers,
        "cell": cell,
        "nonlinearity": getattr(rnn, "nonlinearity", "tanh"),
        "dropout": model.dropout,
        "embedding_size": model.embedding_size,
        "tie_weights": model.tie_weights,
        "dtype": model.params["readout.bias"].dtype.name,
    }


def is_of_characters(vocabulary: Vocabulary) -> bool:
    """Whether the tokens join to a text without spaces between them."""
    joined: bool = vocabulary.decode([0, 0]) == 2 * vocabulary.tokens[0]
    return joined


def _vocabulary_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    if not all(isinstance(token, str) for token in vocabulary.tokens):
        raise TypeError("vocabulary must have tokens that are all of type str, to be written")
    kind = "characters" if is_of_characters(vocabulary) else "words"
    return {"kind": kind, "unknown": vocabulary.unknown, "tokens": vocabulary.tokens}


def _writable(numbers: tuple[Any, ...]) -> list[Any]:
    """Return a list in which what JSON has no number for, such as an infinite loss, is a string."""
    return [
        repr(float(number)) if isinstance(number, float) and not math.isfinite(number) else number
        for number in numbers
    ]


def _data_hash(tensors: Mapping[str, Array]) -> str:
    """Return the sha256 of the numbers in the order of the file: the widest first, then by name."""
    digest = hashlib.sha256()
    for _, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _header_hash(header: Mapping[str, str]) -> str:
    """Return the sha256 of all strings of the header but this one."""
    others = [item for item in sorted(header.items()) if item[0] != "header_sha256"]
    return hashlib.sha256(json.dumps(others).encode()).hexdigest()


# Reading


def _parsed(tensors: Mapping[str, Array], header: Mapping[str, str]) -> dict[str, Any]:
    """Return the header's values, once both hashes are right."""
    if "format" not in header:
        raise ValueError(
            "header: no checkpoint of nprnn, but tensors alone: nprnn.weights.load reads them"
        )
    for name, right in (
        ("header_sha256", _header_hash(header)),
        ("data_sha256", _data_hash(tensors)),
    ):
        if header.get(name) != right:
            raise ValueError(f"{name}: does not fit what the file holds: it was damaged")
    fields = {
        name: _json(name, text) for name, text in header.items() if not name.endswith("_sha256")
    }
    if (fields["format"], fields.get("format_version")) != (FORMAT, FORMAT_VERSION):
        version, name = weights.shown(fields.get("format_version")), weights.shown(fields["format"])
        raise ValueError(
            f"format_version: {version} of {name}; this nprnn reads "
            f"{FORMAT_VERSION} of {FORMAT!r}: a newer one may read it"
        )
    return fields


def _json(name: str, text: str) -> Any:
    try:
        return weights.strict_json(text)
    except ValueError as error:
        raise ValueError(f"header, {name}: not strict JSON: {error}") from None


def _assembled(tensors: dict[str, Array], fields: dict[str, Any]) -> Checkpoint:
    """Build what was saved from the tensors and the header."""
    _same_keys("header", fields, _FIELDS)
    value = {name: check(name, fields[name]) for name, check in _FIELDS.items()}
    model, position = value["model"], value["position"]
    make_optimizer = _optimizer_maker(value["optimizer"])
    _compare(tensors, _expected(model, position, make_optimizer, len(tensors)))
    _check_position(position, value["generator"])
    network = LanguageModel(**model, rng=0)
    for name, array in network.params.items():
        array[...] = tensors[name]
    optimizer = make_optimizer(network.params)
    optimizer.load_state_dict(_without_prefix(tensors, "optimizer."))
    state = tuple(_without_prefix(tensors, "state.").values())
    return Checkpoint(
        network,
        _vocabulary(value["vocabulary"], model["vocab_size"]),
        optimizer,
        Position(
            position["epoch"],
            position["batch"],
            position["step"],
            state if len(state) > 1 else state[0] if state else None,
            value["generator"]["epoch"],
            value["generator"]["now"],
            position["rollbacks"],
        ),
        value["text"],
        value["run"],
        [Point(*row) for row in value["history"]],
        value["unfinished"],
        value["best_loss"],
        value["versions"],
    )


def parameter_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a model's parameters from its arguments alone.

    A file may claim any size: nothing is made before it has been compared.
    """
    V, H, E = model["vocab_size"], model["hidden_size"], model["embedding_size"]
    GH = {"rnn": 1, "gru": 3, "lstm": 4}[model["cell"]] * H
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)} if E else {}
    for k in range(model["num_layers"]):
        width = H if k else E or V
        shapes[f"rnn.weight_ih_l{k}"] = (GH, width)
        shapes[f"rnn.weight_hh_l{k}"] = (GH, H)
        shapes[f"rnn.bias_ih_l{k}"] = shapes[f"rnn.bias_hh_l{k}"] = (GH,)
    if not model["tie_weights"]:
        shapes["readout.weight"] = (V, H)
    return shapes | {"readout.bias": (V,)}


def _expected(
    model: dict[str, Any],
    position: dict[str, Any],
    make_optimizer: Callable[[Params], optim.Optimizer],
    num_tensors: int,
) -> Shapes:
    """Return the shape and dtype of each tensor that the configuration asks for."""
    if model["num_layers"] > num_tensors:
        raise ValueError(f"header, model: {model['num_layers']} layers, in {num_tensors} tensors")
    own, dtype = parameter_shapes(model), np.dtype(model["dtype"])
    shapes: Shapes = {name: (shape, dtype) for name, shape in own.items()}
    for buffer in make_optimizer({"": np.zeros(0, dtype)}).state:
        shapes |= {f"optimizer.{buffer}.{name}": (shape, dtype) for name, shape in own.items()}
    shapes["optimizer.step"] = (), np.dtype(np.int64)
    if position["sequences"] is not None:
        state = model["num_layers"], position["sequences"], model["hidden_size"]
        parts = 2 if model["cell"] == "lstm" else 1
        shapes |= {f"state.{i}": (state, dtype) for i in range(parts)}
    return shapes


def _compare(tensors: Mapping[str, Array], expected: Shapes) -> None:
    """Refuse tensors of other names, shapes or dtypes, or that are not finite."""
    faults = [f"missing {name} {shape}" for name, (shape, _) in expected.items()
              if name not in tensors]  # fmt: skip
    faults += [f"unexpected {name!r}" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        (shape, dtype), array = expected[name], tensors[name]
        if (array.shape, array.dtype) != (shape, dtype):
            faults.append(f"{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError("tensors do not fit the header: " + "; ".join(sorted(faults)[:5]) + more)
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ValueError(f"tensor {name}: holds NaN or infinity")


def _check_position(position: dict[str, Any], generator: dict[str, Any]) -> None:
    within = position["batch"] > 0
    if within != (generator["epoch"] is not None) or (position["sequences"] and not within):
        raise ValueError(
            "header, position: a carried state, and the Generator's at the beginning of the epoch, "
            "belong to the middle of an epoch"
        )
    if not 0 <= position["batch"] <= position["step"]:
        raise ValueError(f"header, position: batch {position['batch']}, step {position['step']}")


def _optimizer_maker(settings: dict[str, Any]) -> Callable[[Params], optim.Optimizer]:
    """Return what makes the optimizer over parameters, and refuses settings that it has not."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in OPTIMIZERS:
        raise ValueError(f"header, optimizer: name must be one of {', '.join(OPTIMIZERS)}")
    kind = OPTIMIZERS[name]
    _same_keys("optimizer", settings, ("name", *kind.settings))
    others: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
        if key != "name"
    }
    return lambda params: kind(params, **others)


def _vocabulary(fields: dict[str, Any], size: int) -> Vocabulary:
    tokens, unknown = fields["tokens"], fields["unknown"]
    if len(tokens) != size or (unknown is not None and unknown != tokens[0]):
        raise ValueError(f"header, vocabulary: {len(tokens)} tokens for vocab_size {size}")
    nothing: Any = "" if fields["kind"] == "characters" else []
    if unknown is None:
        return Vocabulary(nothing, reserved=tokens)
    return Vocabulary(nothing, unknown=unknown, reserved=tokens[1:])


def _without_prefix(tensors: Mapping[str, Array], prefix: str) -> Params:
    names = sorted(name for name in tensors if name.startswith(prefix))
    return {name.removeprefix(prefix): tensors[name] for name in names}


# What each value of the header must be: functions of its name and value that return or refuse it.

Check = Callable[[str, Any], Any]


def _refuse(name: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"header, {name}: expected {expected}, got {weights.shown(value)}")


def _whole(minimum: int, maximum: int = 2**63 - 1) -> Check:
    def check(name: str, value: Any) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise _refuse(name, value, f"a whole number in {minimum} .. {maximum}")
        return value

    return check


def _number(name: str, value: Any) -> float:
    """Return a float; one that JSON has no number for comes as a string."""
    if type(value) is float and math.isfinite(value):
        return value
    if value in ("nan", "inf", "-inf"):
        return float(value)
    raise _refuse(name, value, "a number with a decimal point")


def _finite(name: str, value: Any) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise _refuse(name, value, "a finite number with a decimal point")
    return value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(name, value, "a string")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "true or false")
    return value


def _scalar(name: str, value: Any) -> Scalar:
    plain = value is None or type(value) in (str, int, bool)
    if not (plain or (type(value) is float and math.isfinite(value))):
        raise _refuse(name, value, "a string, a number, true, false or null")
    result: Scalar = value
    return result


def _one_of(*options: Any) -> Check:
    def check(name: str, value: Any) -> Any:
        if not any(type(value) is type(option) and value == option for option in options):
            raise _refuse(name, value, f"one of {', '.join(map(repr, options))}")
        return value

    return check


def _or_null(inner: Check) -> Check:
    return lambda name, value: None if value is None else inner(name, value)


def _list_of(inner: Check) -> Check:
    def check(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _refuse(name, value, "a list")
        return [inner(name, item) for item in value]

    return check


def _row(*columns: Check) -> Check:
    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(columns):
            raise _refuse(name, value, f"a list of {len(columns)}")
        return tuple(column(name, item) for column, item in zip(columns, value, strict=True))

    return check


def _object(**members: Check) -> Check:
    def check(name: str, value: Any) -> dict[str, Any]:
        _same_keys(name, value, members)
        return {key: inner(f"{name}.{key}", value[key]) for key, inner in members.items()}

    return check


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(name, value, "an object")
    return value


def _scalars(name: str, value: Any) -> dict[str, Any]:
    return {key: _scalar(f"{name}.{key}", item) for key, item in _mapping(name, value).items()}


def _same_keys(name: str, value: Any, expected: Iterable[str]) -> None:
    missing = [key for key in expected if key not in _mapping(name, value)]
    unexpected = [key for key in value if key not in expected]
    if missing or unexpected:
        raise ValueError(
            f"header, {name}: missing {', '.join(missing) or 'nothing'}, "
            f"unexpected {weights.shown(unexpected)}"
        )


_size = _whole(1, _LARGEST)
_WORD = _whole(0, 2**32 - 1)
_LONG = _whole(0, 2**128 - 1)
_generator_state = _or_null(
    _object(
        bit_generator=_one_of("PCG64"),  # that of numpy.random.default_rng
        state=_object(state=_LONG, inc=_LONG),
        has_uint32=_whole(0, 1),
        uinteger=_WORD,
    )
)
_FIELDS: dict[str, Check] = {
    "format": _one_of(FORMAT),
    "format_version": _one_of(FORMAT_VERSION),
    "model": _object(
        vocab_size=_size,
        hidden_size=_size,
        num_layers=_size,
        cell=_one_of(*LAYERS),
        nonlinearity=_one_of("tanh", "relu"),
        dropout=_finite,
        embedding_size=_or_null(_size),
        tie_weights=_flag,
        dtype=_one_of("float32", "float64"),
    ),
    "vocabulary": _object(
        kind=_one_of("characters", "words"), unknown=_or_null(_string), tokens=_list_of(_string)
    ),
    "optimizer": _mapping,
    "position": _object(
        epoch=_whole(1),
        batch=_whole(0),
        step=_whole(0),
        sequences=_or_null(_size),
        rollbacks=_whole(0, 1000),
    ),
    "generator": _object(epoch=_generator_state, now=_generator_state),
    "run": _scalars,
    "history": _list_of(_row(_whole(1), _whole(0), _number, _number, _or_null(_number))),
    "unfinished": _row(_number, _number, _whole(0)),
    "best_loss": _or_null(_finite),
    "text": _object(name=_string, characters=_whole(0), sha256=_string),
    "versions": _object(nprnn=_string, numpy=_string, python=_string),
}


# Folders


def number(path: str | os.PathLike[str]) -> int | None:
    """Return the step in the name of a numbered checkpoint; None for any other file."""
    match = _NUMBERED.fullmatch(os.path.basename(path))
    return int(match[1]) if match else None


def numbered(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the numbered checkpoints of a folder, the newest last; none if there is no folder."""
    try:
        paths = [Path(folder, name) for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        (path for path in paths if number(path) is not None), key=lambda p: number(p) or 0
    )


def latest(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the checkpoint that is meant.

    Parameters
    ----------
    path : path, optional
        A file is returned as it is, and of a folder its checkpoint of the highest step. Without it
        the folder is that in the current one, or the current one itself, which was written to last.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if path is None:
        here = [Path(), *(Path(entry) for entry in sorted(os.listdir()) if os.path.isdir(entry))]
        newest = [paths[-1] for paths in map(numbered, here) if paths]
        if not newest:
            raise FileNotFoundError(
                "there is no checkpoint here: make one with nprnn train FILE, or name one"
            )
        return max(newest, key=lambda found: found.stat().st_mtime_ns)
    if not os.path.isdir(path):
        return Path(path)
    found = numbered(path)
    if not found and os.path.exists(best := Path(path, BEST)):
        return best
    if not found:
        raise FileNotFoundError(f"{os.fspath(path)}: the folder holds no checkpoint")
    return found[-1]


class Folder:
    """A folder that checkpoints are written to.

    Parameters
    ----------
    path : path
        Made, if there is none. What saves that were interrupted left behind in it is removed.
    keep : int, default 1
        How many checkpoints to keep beside the newest.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int = 1) -> None:
        self.path, self.keep = Path(path), integer("keep", keep, minimum=0)
        self.path.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(self.path):
            if _LEFT_OVER.fullmatch(name):
                (self.path / name).unlink(missing_ok=True)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint under its step; then remove what is older than those to keep."""
        step = checkpoint.position.step
        path = self.path / f"step-{step:08}.safetensors"
        save(path, checkpoint)
        older = [other for other in numbered(self.path) if (number(other) or 0) < step]
        for other in older[: max(0, len(older) - self.keep)]:
            other.unlink(missing_ok=True)
        return path

    def save_best(self, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint as the one of the lowest validation loss."""
        path = self.path / BEST
        save(path, checkpoint)
        return path
