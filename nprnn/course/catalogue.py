"""The exercises: what each asks for, in which shapes, and what it is tried on."""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import _validation as check

Sizes = Mapping[str, int]
Inputs = dict[str, Any]


class Function(NamedTuple):
    """A function of an exercise, and what it returns.

    `results` maps the name of each result to its shape, in letters ("T, B, H"); to a dict of such
    for a dict of arrays; or to None for what may be anything. `in_place` names the argument that
    counts as the first result, if that is not returned.
    """

    name: str
    arguments: tuple[str, ...]
    results: dict[str, str | dict[str, str] | None]
    in_place: str | None = None


class Exercise(NamedTuple):
    """Functions that belong together.

    `sizes` maps letters to the values that are tried, the smallest first. `generic` are sizes at
    which mistakes differ from each other: groups of cases, the simpler mistakes' first.
    """

    name: str
    functions: tuple[Function, ...]
    sizes: dict[str, tuple[int, ...]]
    generic: tuple[tuple[dict[str, int], ...], ...]
    inputs: Callable[[np.random.Generator, Sizes], Inputs]

    @property
    def title(self) -> str:
        """The first line of the description, without the full stop."""
        docstring = ast.get_docstring(ast.parse(solution(self.name))) or ""
        return docstring.partition("\n")[0].removesuffix(".")


def shape(letters: str, sizes: Sizes) -> tuple[int, ...]:
    """Return the shape that letters stand for: "3*H, I" for example."""
    factors = [part.strip().rpartition("*") for part in letters.split(",") if part]
    return tuple(int(factor or 1) * sizes[letter] for factor, _, letter in factors)


def case(name: str, *, seed: int = 0, **sizes: int) -> Inputs:
    """Return the arguments that an exercise's functions are tried on.

    Parameters
    ----------
    name : str
        Of the exercise.
    seed : int, default 0
    **sizes : int
        By letter, all that the exercise has; a report gives them.

    Returns
    -------
    dict
        Arguments and upstream gradients by name.

    Examples
    --------
    >>> case("rnn", T=2, B=1, I=1, H=3)["d_h"].shape
    (2, 1, 3)
    """
    chosen = exercise(name)
    if set(sizes) != set(chosen.sizes):
        raise ValueError(f"{name} has the sizes {', '.join(chosen.sizes)}; got {', '.join(sizes)}")
    sizes = {letter: check.integer(letter, size) for letter, size in sizes.items()}
    return chosen.inputs(check.generator(seed, "seed"), sizes)


def _normal(rng: np.random.Generator, sizes: Sizes, **letters: str) -> Inputs:
    """Draw arrays; never 0 or 1, which hide what is missing."""
    return {name: rng.normal(0, 0.8, shape(of, sizes)) for name, of in letters.items()}


def _one_hot(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    V = sizes["V"]
    return {"indices": rng.integers(0, V, (sizes["T"], sizes["B"])), "num_classes": V}


def _rnn_step(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    return _normal(rng, sizes, x="B, I", h_prev="B, H", **_WEIGHTS, d_h_next="B, H")


def _rnn(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    return _normal(rng, sizes, x="T, B, I", h_0="B, H", **_WEIGHTS, d_h="T, B, H")


def _softmax(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    logits = sizes["scale"] * rng.uniform(-1, 1, shape("T, B, V", sizes))
    return {"logits": logits, "targets": rng.integers(0, sizes["V"], (sizes["T"], sizes["B"]))}


def _clip(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    grads = _normal(rng, sizes, **_WEIGHTS)
    norm = rng.uniform(2, 5)
    factor = norm / np.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
    grads = {name: gradient * factor for name, gradient in grads.items()}
    # Percent: sizes are whole numbers.
    return {"grads": grads, "max_norm": float(norm * 100 / sizes["norm_percent"])}


def _sgd(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    params, grads = (_normal(rng, sizes, **_WEIGHTS) for _ in range(2))
    return {"params": params, "grads": grads, "lr": float(rng.uniform(0.05, 0.5))}


def _truncated(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    return {**_rnn(rng, sizes), "num_steps": sizes["num_steps"]}


def _gru_step(rng: np.random.Generator, sizes: Sizes) -> Inputs:
    return _normal(rng, sizes, x="B, I", h_prev="B, H", **_GATES, d_h_next="B, H")


_WEIGHTS = {"W_ih": "H, I", "W_hh": "H, H", "b": "H"}
_GATES = {"W_ih": "3*H, I", "W_hh": "3*H, H", "b_ih": "3*H", "b_hh": "3*H"}
_T, _B, _I, _H, _V = (1, 2, 3, 4), (1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3, 4)


def _gradients(**letters: str) -> dict[str, str | dict[str, str] | None]:
    return {f"d_{name}": of for name, of in letters.items()}


EXERCISES = (
    Exercise(
        "one_hot",
        (Function("one_hot", ("indices", "num_classes"), {"vectors": "T, B, V"}),),
        {"T": _T, "B": _B, "V": _V},
        (({"T": 4, "B": 3, "V": 5}, {"T": 5, "B": 2, "V": 7}),),
        _one_hot,
    ),
    Exercise(
        "rnn_step",
        (
            Function(
                "rnn_step_forward",
                ("x", "h_prev", *_WEIGHTS),
                {"h_next": "B, H", "cache": None},
            ),
            Function(
                "rnn_step_backward",
                ("d_h_next", "cache"),
                _gradients(x="B, I", h_prev="B, H", **_WEIGHTS),
            ),
        ),
        {"B": _B, "I": _I, "H": _H},
        (({"B": 3, "I": 2, "H": 5}, {"B": 4, "I": 3, "H": 2}),),
        _rnn_step,
    ),
    Exercise(
        "rnn",
        (
            Function("rnn_forward", ("x", "h_0", *_WEIGHTS), {"h": "T, B, H", "cache": None}),
            Function(
                "rnn_backward", ("d_h", "cache"), _gradients(x="T, B, I", h_0="B, H", **_WEIGHTS)
            ),
        ),
        {"T": _T, "B": _B, "I": _I, "H": _H},
        (
            (
                {"T": 4, "B": 3, "I": 2, "H": 5},
                {"T": 3, "B": 4, "I": 5, "H": 2},
                {"T": 5, "B": 2, "I": 4, "H": 3},
            ),
        ),
        _rnn,
    ),
    Exercise(
        "softmax_cross_entropy",
        (
            Function(
                "softmax_cross_entropy",
                ("logits", "targets"),
                {"loss": "", "d_logits": "T, B, V"},
            ),
        ),
        {"T": _T, "B": _B, "V": _V, "scale": (1, 1000)},
        (
            ({"T": 4, "B": 3, "V": 5, "scale": 2}, {"T": 3, "B": 5, "V": 4, "scale": 2}),
            ({"T": 4, "B": 3, "V": 5, "scale": 1000}, {"T": 3, "B": 5, "V": 4, "scale": 1000}),
        ),
        _softmax,
    ),
    Exercise(
        "clip_grad_norm",
        (
            Function(
                "clip_grad_norm",
                ("grads", "max_norm"),
                {"grads": _WEIGHTS, "norm": ""},
                "grads",
            ),
        ),
        {"I": _I, "H": _H, "norm_percent": (50, 200, 1000)},
        (
            ({"I": 2, "H": 3, "norm_percent": 200}, {"I": 4, "H": 2, "norm_percent": 1000}),
            ({"I": 2, "H": 3, "norm_percent": 50}, {"I": 4, "H": 2, "norm_percent": 20}),
        ),
        _clip,
    ),
    Exercise(
        "sgd",
        (Function("sgd_step", ("params", "grads", "lr"), {"params": _WEIGHTS}, "params"),),
        {"I": _I, "H": _H},
        (({"I": 2, "H": 3}, {"I": 4, "H": 2}),),
        _sgd,
    ),
    Exercise(
        "truncated_bptt",
        (
            Function(
                "truncated_bptt",
                ("x", "h_0", "d_h", "num_steps", *_WEIGHTS),
                {**_gradients(**_WEIGHTS), "h_T": "B, H"},
            ),
        ),
        {"T": (*_T, 5, 6), "B": _B, "I": _I, "H": _H, "num_steps": (1, 2, 3, 4)},
        (
            (
                {"T": 4, "B": 3, "I": 2, "H": 5, "num_steps": 4},
                {"T": 3, "B": 4, "I": 5, "H": 2, "num_steps": 7},
            ),
            (
                {"T": 7, "B": 3, "I": 2, "H": 5, "num_steps": 3},
                {"T": 8, "B": 2, "I": 4, "H": 3, "num_steps": 3},
            ),
        ),
        _truncated,
    ),
    Exercise(
        "gru_step",
        (
            Function(
                "gru_step_forward",
                ("x", "h_prev", *_GATES),
                {"h_next": "B, H", "cache": None},
            ),
            Function(
                "gru_step_backward",
                ("d_h_next", "cache"),
                _gradients(x="B, I", h_prev="B, H", **_GATES),
            ),
        ),
        {"B": _B, "I": _I, "H": _H},
        (({"B": 3, "I": 2, "H": 5}, {"B": 4, "I": 3, "H": 2}),),
        _gru_step,
    ),
)


def exercises() -> tuple[str, ...]:
    """Return the names of the exercises, in the order in which they build on each other.

    Examples
    --------
    >>> exercises()[:3]
    ('one_hot', 'rnn_step', 'rnn')
    """
    return tuple(each.name for each in EXERCISES)


def exercise(name: str) -> Exercise:
    """Return an exercise by its name."""
    found = next((each for each in EXERCISES if each.name == name), None)
    if found is None:
        raise ValueError(f"there is no exercise {name!r}; there are {', '.join(exercises())}")
    return found


def solution(name: str) -> str:
    """Return the source of an exercise's solution.

    Parameters
    ----------
    name : str
        One of `exercises()`.
    """
    found = resources.files(__package__) / "solutions" / f"{exercise(name).name}.py"
    return found.read_text("utf-8")


def template(name: str) -> str:
    """Return what a learner starts from: the solution's file without its code.

    The description, the signatures and their docstrings stay.
    """
    source = solution(name)
    lines, tree = source.splitlines(), ast.parse(source)
    (description, *rest) = tree.body
    parts = ["\n".join(lines[: description.end_lineno]), "\nimport numpy as np"]
    for node in rest:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            head = lines[node.lineno - 1 : node.body[0].end_lineno]  # with the docstring
            parts.append("\n".join(["", "", *head, "    raise NotImplementedError"]))
    return "\n".join(parts) + "\n"


def start(name: str, folder: str | Path = ".") -> Path:
    """Write an exercise's file, to be filled in.

    Parameters
    ----------
    name : str
        One of `exercises()`.
    folder : str or Path, default "."
        Where; it is made if there is none.

    Returns
    -------
    Path
        Of the file, `folder/name.py`.

    Raises
    ------
    FileExistsError
        If there is such a file already: it is never overwritten.
    """
    text, path = template(name), Path(folder) / f"{name}.py"
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is a file, not a folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(
            f"{path} is there already and was left as it is; move it away to start again"
        ) from None
    return path


class UnusableError(Exception):
    """What a function returned cannot be taken apart into its results."""


def answer(
    chosen: Exercise, function: Function, functions: Mapping[str, Any], inputs: Inputs
) -> Inputs:
    """Call functions of an exercise in order, up to one of them; return its results by name.

    Every function may change its arguments, and what the caller holds stays as it is.
    """
    known = copy.deepcopy(inputs)
    for each in chosen.functions[: chosen.functions.index(function) + 1]:
        returned = functions[each.name](*(known[argument] for argument in each.arguments))
        results = _by_name(each, returned, known)
        known |= results
    wanted = {name: results[name] for name, of in function.results.items() if of is not None}
    # Later calls may write into the same buffers again; what cannot be copied is no array.
    with contextlib.suppress(TypeError):
        wanted = copy.deepcopy(wanted)
    return wanted


def _by_name(function: Function, returned: Any, known: Inputs) -> Inputs:
    """Give the results their names."""
    names = list(function.results)
    if function.in_place and not isinstance(returned, dict | tuple | list):
        rest = [returned] if returned is not None else []
        if len(rest) == len(names) - 1:
            returned = (known[function.in_place], *rest) if rest else known[function.in_place]
    expected = ", ".join(names)
    if returned is None:
        raise UnusableError(f"returns None, expected {expected}: is a return missing?")
    if len(names) == 1:
        return {names[0]: returned}
    if not isinstance(returned, tuple | list):
        kind = type(returned).__name__
        raise UnusableError(f"returns one {kind}, expected {len(names)} results: {expected}")
    if len(returned) != len(names):
        count = f"{len(returned)} result{'s' * (len(returned) != 1)}"
        raise UnusableError(f"returns {count}, expected {len(names)}: {expected}")
    return dict(zip(names, returned, strict=True))


def flat(results: Inputs) -> Inputs:
    """Give the arrays of a dict names like those of the other arrays."""
    flat: Inputs = {}
    for name, value in results.items():
        if isinstance(value, dict):
            flat |= {f'{name}["{key}"]': array for key, array in value.items()}
        else:
            flat[name] = value
    return flat
