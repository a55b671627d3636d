"""How parameters are drawn before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check
from .layout import on_cache_lines

if TYPE_CHECKING:
    from ._validation import Array, Params

BLOCK = 1 << 16  # numbers drawn at a time


def uniform_params(shapes: Mapping[str, tuple[int, ...]], fan: int, dtype: Any, rng: Any) -> Params:
    """Draw every parameter from U(-1/√fan, 1/√fan), in the order of the keys.

    Drawn in double precision and rounded, so that float32 and float64 give the same network.
    """
    kind = check.float_dtype("dtype", dtype)
    rng = check.generator(rng)
    bound = 1 / math.sqrt(fan)
    return {
        key: drawn(lambda n: rng.uniform(-bound, bound, n), size, kind)
        for key, size in shapes.items()
    }


def drawn(draw: Callable[[int], Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of what `draw` gives, a block after the other: all would take thrice as much.

    The numbers are those of a single draw.
    """
    array = on_cache_lines(shape, dtype)
    numbers = array.reshape(-1)
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        block[...] = draw(len(block))
    return array


def uniform(H: int, rng: np.random.Generator) -> Array:
    """Draw from U(-1/√H, 1/√H), as PyTorch does."""
    return rng.uniform(-1 / math.sqrt(H), 1 / math.sqrt(H), (H, H))


def orthogonal(H: int, rng: np.random.Generator) -> Array:
    """Draw a rotation: all singular values are 1 (Saxe, McClelland and Ganguli 2014).

    Uniformly: Q of a QR decomposition of a normal matrix, R's diagonal made positive.
    """
    q, r = np.linalg.qr(rng.standard_normal((H, H)))
    rotation: Array = q * np.sign(np.diag(r))
    return rotation


def identity(H: int, rng: np.random.Generator) -> Array:
    """Return the identity, for ReLU units: the state stays (Le, Jaitly and Hinton 2015)."""
    return np.eye(H)


def xavier(H: int, rng: np.random.Generator) -> Array:
    """Draw from U(-√(3/H), √(3/H)), which keeps the variance (Glorot and Bengio 2010)."""
    return rng.uniform(-math.sqrt(3 / H), math.sqrt(3 / H), (H, H))


# By name, for the recurrent matrix: it decides how far back a network can learn.
RECURRENT = {
    "uniform": uniform,
    "orthogonal": orthogonal,
    "identity": identity,
    "xavier": xavier,
}
