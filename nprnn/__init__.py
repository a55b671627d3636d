"""Recurrent neural networks in pure NumPy, with every gradient derived by hand and proved."""

import importlib
from typing import Any

from . import _threads, gradcheck, schedules  # noqa: F401  _threads before NumPy
from ._validation import NonFiniteError
from .batching import random_batches, sequential_batches
from .embedding import Embedding
from .encoding import Vocabulary, encode_file, one_hot, read_text
from .linear import Linear
from .losses import mean_squared_error, softmax_cross_entropy
from .models import LanguageModel, SequenceClassifier, SequenceRegressor, SequenceTagger
from .optim import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialMovingAverage,
    GradientAccumulator,
    RMSprop,
    clip_grad_norm,
    clip_grad_value,
)
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .sequences import last_output, pad_sequences, unpad_sequences
from .stack import Recurrent
from .training import Record, evaluate, train

__version__ = "0.1.0.dev0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Embedding",
    "ExponentialMovingAverage",
    "GRUCell",
    "GradientAccumulator",
    "LSTMCell",
    "LanguageModel",
    "Linear",
    "NonFiniteError",
    "RMSprop",
    "RNNCell",
    "Record",
    "Recurrent",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTagger",
    "Vocabulary",
    "clip_grad_norm",
    "clip_grad_value",
    "diagnose",
    "encode_file",
    "evaluate",
    "gradcheck",
    "last_output",
    "mean_squared_error",
    "one_hot",
    "pad_sequences",
    "random_batches",
    "read_text",
    "schedules",
    "sequential_batches",
    "softmax_cross_entropy",
    "train",
    "unpad_sequences",
    "worked_example",
]


# What few programs need is loaded when it is first asked for: functions by the module they are in.
_ON_REQUEST = {"diagnose": "diagnosis", "worked_example": "worked"}
_MODULES_ON_REQUEST = (
    "checkpoint",
    "course",
    "distributed",
    "insight",
    "interop",
    "plot",
    "serve",
    "testing",
    "weights",
)


def __getattr__(name: str) -> Any:
    """Load what few programs need when it is first asked for."""
    if name in _ON_REQUEST:
        return getattr(importlib.import_module(f"{__name__}.{_ON_REQUEST[name]}"), name)
    if name in _MODULES_ON_REQUEST:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
