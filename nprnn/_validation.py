"""What the public functions ask of their arguments, and the sentences they answer with.

Every check runs once, where a value enters the package. A message names the argument, says what
was expected in symbols and numbers, what came, and where it helps, what to do.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Params = dict[str, NDArray[Any]]
    RandomSource = np.random.Generator | int | None


class NonFiniteError(FloatingPointError, ValueError):
    """A NaN or an infinity where only finite numbers can be used."""


def integer(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`; floats and bools are refused."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def real(name: str, value: Any, interval: str) -> float:
    """Return `value` as a float inside `interval`, written as "[0, 1)"; NaN is never inside."""
    if isinstance(value, bool | np.bool_ | str | bytes | complex | np.complexfloating):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None
    low, high = _ends(interval)
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(f"{name} must be a number in {interval}, got {number:g}")
    return number


@functools.cache
def _ends(interval: str) -> tuple[float, ...]:
    return tuple(float(end) for end in interval[1:-1].split(","))


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, options: tuple[str, ...]) -> str:
    """Return `value` if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}")
    return str(value)


def generator(rng: Any, name: str = "rng") -> np.random.Generator:
    """Return a Generator: `rng` itself, one seeded with the int `rng`, or a fresh one for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        return np.random.default_rng(integer(name, rng, minimum=0))
    raise TypeError(
        f"{name} must be a numpy.random.Generator or a seed (an int), got {type(rng).__name__}: "
        "make one with numpy.random.default_rng(0)"
    )


def float_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype if it is float32 or float64."""
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be numpy.float32 or numpy.float64, got {dtype!r}") from None
    if result not in (np.float32, np.float64):
        raise TypeError(f"{name} must be numpy.float32 or numpy.float64, got {result}")
    return result


def array(name: str, value: Any) -> Array:
    """Return `value` as an ndarray, or say that it is not one (a ragged list, an object)."""
    try:
        result = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} must be an array, got {type(value).__name__}: {error}") from None
    if result.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be an array of numbers, got dtype {result.dtype}")
    return result


def float_array(name: str, value: Any) -> Array:
    """Return `value` as an array of single or double precision, real or complex.

    Complex numbers are let in on purpose: the complex step runs through the same code.
    """
    result = array(name, value)
    if result.dtype.char not in "fdFD":
        raise TypeError(
            f"{name} must be an array of float32 or float64, got dtype {result.dtype}: "
            f"convert it with {name}.astype(numpy.float32)"
        )
    return result


def index_array(name: str, value: Any, size: int, size_name: str) -> Array:
    """Return `value` as an array of integers in 0 .. size-1."""
    result = array(name, value)
    if result.size == 0 and not isinstance(value, np.ndarray):
        result = result.astype(np.intp)  # NumPy calls the empty list a float array
    if result.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of integers, got dtype {result.dtype}")
    if result.size:
        low, high = int(result.min()), int(result.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"{name} must be integers in 0 .. {size_name}-1 = {size - 1}, "
                f"got {low if low < 0 else high}"
            )
    return result


def lengths(name: str, value: Any, T: int, B: int) -> Array:
    """Return `value` as B integers in 0 .. T."""
    given = array(name, value)
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"{name} must be integers, got dtype {given.dtype}")
    shape(name, given, f"(B={B},)", given.shape == (B,))
    if B and (given.min() < 0 or given.max() > T):
        raise ValueError(f"{name} must be in 0 .. T={T}, got {given.min()} to {given.max()}")
    return given.astype(np.intp)


def same_precision(name: str, value: Array, dtype: np.dtype[Any]) -> None:
    """Refuse an array whose real precision is not that of `dtype`: nothing upcasts silently."""
    if value.dtype.char.lower() != dtype.char.lower():
        to_theirs, to_ours = (
            "float64" if char in "dD" else "float32" for char in (dtype.char, value.dtype.char)
        )
        raise TypeError(
            f"{name} has dtype {value.dtype}, the parameters {dtype}: convert it with "
            f"{name}.astype(numpy.{to_theirs}), or build with dtype=numpy.{to_ours}"
        )


def shape(name: str, value: Array, expected: str, ok: bool, hint: str = "") -> None:
    """Refuse an array of another shape than `expected`, written in the legend's letters."""
    if not ok:
        raise ValueError(f"{name} must have shape {expected}; got {value.shape}{hint}")


def params(name: str, given: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> Params:
    """Return `given` as a dict of float arrays with exactly the expected keys and shapes.

    Every missing, unexpected and mis-shaped key is listed in one message.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict of arrays, got {type(given).__name__}")
    faults = [f"missing {key} {size}" for key, size in expected.items() if key not in given]
    faults += [f"unexpected {key}" for key in given if key not in expected]
    result = {}
    for key, size in expected.items():
        if key in given:
            result[key] = float_array(f"{name}[{key!r}]", given[key])
            if result[key].shape != size:
                faults.append(f"{key} has shape {result[key].shape}, expected {size}")
    if len({value.dtype.char.lower() for value in result.values()}) > 1:
        faults.append("float32 and float64 are mixed: convert all to one of them")
    if faults:
        raise ValueError(f"{name} do not fit: " + "; ".join(faults))
    common = np.result_type(*result.values())  # one complex array makes all of them complex
    return {key: value.astype(common, copy=False) for key, value in result.items()}
