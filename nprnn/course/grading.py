"""Whether functions answer as they should: on generic cases, then on the smallest that fails."""

from __future__ import annotations

import contextlib
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import hypothesis
import numpy as np
from hypothesis import strategies as st

from .catalogue import Exercise, Function, Inputs, Sizes, UnusableError, answer, flat, shape
from .mistakes import explanations
from .report import Result

# _RTOL is of an array's largest entry. A learner may compute in single precision, where numbers
# near 1 cancel to no better than _ATOL, or add 1e-6 to a norm.
_RTOL = 1e-5
_ATOL = 2e-6
_EXAMPLES = 100
_MOST_SEED = 999
_LONGEST = 400  # characters of a learner's error message

Functions = Mapping[str, Any]
Case = tuple[dict[str, int], int]  # sizes and seed


class Finding(NamedTuple):
    """What is wrong with a function's answer to one case."""

    status: str
    message: str
    got: Inputs | None = None  # if all of it are arrays


def grade(exercise: Exercise, functions: Functions, file: str = "") -> Iterator[Result]:
    """Check the functions of an exercise one after the other.

    Parameters
    ----------
    exercise : Exercise
    functions : dict
        The functions by name; None for one that is missing.
    file : str
        Where they come from, for the numbers of lines.

    Yields
    ------
    Result
    """
    waits_for = None
    for function in exercise.functions:
        if functions[function.name] is None:
            result = Result(exercise.name, function.name, "missing")
        elif waits_for:
            stub = _is_stub(functions[function.name])
            message = "" if stub else f"{waits_for} comes first"
            result = Result(
                exercise.name, function.name, "not_written" if stub else "skipped", message
            )
        else:
            result = _judge(exercise, function, functions, file)
        yield result
        if result.status != "passed":
            waits_for = function.name


def _is_stub(function: Any) -> bool:
    """Whether a function is as the template has it, by the only name that its code uses."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_names == ("NotImplementedError",)


def _judge(exercise: Exercise, function: Function, functions: Functions, file: str) -> Result:
    """Check one function: on generic cases, and on many small ones."""
    trial = Trial(exercise, function, functions, file)
    generic = [each for group in exercise.generic for each in _cases(group)]
    found = [(each, trial.run(*each, times=2)) for each in generic]
    failing = [(each, finding) for each, finding in found if finding is not None]
    # There is no smallest case of what is not there, or of what changes from call to call.
    for case, finding in failing:
        if finding.status in ("not_written", "fickle"):
            return trial.result(finding, case)
    smallest = _smallest(exercise, lambda sizes, seed: trial.run(sizes, seed) is not None)
    if smallest is None and not failing:
        return Result(exercise.name, function.name, "passed")
    case = smallest or failing[0][0]
    return trial.result(trial.run(*case) or failing[0][1], case, _explain(trial, failing))


class Trial(NamedTuple):
    """A function that is tried on cases; `file` is where it comes from."""

    exercise: Exercise
    function: Function
    functions: Functions
    file: str

    def inputs(self, sizes: Sizes, seed: int) -> Inputs:
        """Return the arguments of a case."""
        return self.exercise.inputs(np.random.default_rng(seed), sizes)

    def right(self, inputs: Inputs) -> Inputs:
        """Return the right results."""
        return answer(self.exercise, self.function, _solutions(self.exercise), inputs)

    def run(self, sizes: Sizes, seed: int, times: int = 1) -> Finding | None:
        """Try a case, more than once to see whether the function keeps something."""
        inputs = self.inputs(sizes, seed)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            right = self.right(inputs)
            try:
                answers = [
                    answer(self.exercise, self.function, self.functions, inputs)
                    for _ in range(times)
                ]
            except UnusableError as error:
                return Finding("failed", str(error))
            except BaseException as error:
                return Finding(*describe(error, self.file, self.function))
            return _compare(self.function, answers, right, sizes)

    def result(self, finding: Finding, case: Case, why: tuple[tuple[str, str], ...] = ()) -> Result:
        """Tell what was found in a case."""
        name, function, (sizes, seed) = self.exercise.name, self.function.name, case
        if finding.status == "not_written":
            return Result(name, function, "not_written")
        status = "failed" if finding.status == "fickle" else finding.status
        return Result(name, function, status, finding.message, {**sizes, "seed": seed}, why)


def _solutions(exercise: Exercise) -> Functions:
    module = importlib.import_module(f"{__package__}.solutions.{exercise.name}")
    return {function.name: getattr(module, function.name) for function in exercise.functions}


def _smallest(exercise: Exercise, fails: Callable[[Sizes, int], bool]) -> Case | None:
    """Return the smallest case that fails, sizes and seed, or None if none does."""
    sizes = {letter: st.sampled_from(values) for letter, values in exercise.sizes.items()}
    settings = hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=_EXAMPLES,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    strategy = st.tuples(st.fixed_dictionaries(sizes), st.integers(0, _MOST_SEED))
    # Not found, or not found twice: a function that answers differently each time.
    with contextlib.suppress(hypothesis.errors.HypothesisException):
        return hypothesis.find(strategy, lambda drawn: fails(*drawn), settings=settings)
    return None


def _compare(
    function: Function, answers: list[Inputs], right: Inputs, sizes: Sizes
) -> Finding | None:
    """Say what is wrong with the answers to one case, which should all be the same."""
    got, problems = _arrays(function, answers[0], sizes)
    for other in answers[1:]:
        again, _ = _arrays(function, other, sizes)
        if got.keys() == again.keys() and any(_differ(got[k], again[k]) for k in got):
            return Finding(
                "fickle",
                "gives different answers to the same input: does it keep something from "
                "call to call, or draw random numbers?",
            )
    known = flat(right)
    problems = problems or _not_finite(got) or _wrong(got, known)
    complete = got if got.keys() == known.keys() else None
    return Finding("failed", "\n".join(problems), complete) if problems else None


def describe(error: BaseException, file: str, function: Function | None = None) -> tuple[str, str]:
    """Return the status and the sentence for what a learner's code has raised."""
    if isinstance(error, NotImplementedError):
        return "not_written", ""
    lines, traceback = [], error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    place = f" in line {lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        return "error", f"ends the program{place} (sys.exit or quit): leave that out"
    said = "".join(letter if letter.isprintable() else " " for letter in str(error)[:_LONGEST])
    text = f"{type(error).__name__}{place}: {said}".removesuffix(": ")
    if not lines and function is not None:
        text += f"\nit is called as {function.name}({', '.join(function.arguments)})"
    return "error", text


def _arrays(function: Function, results: Inputs, sizes: Sizes) -> tuple[Inputs, list[str]]:
    """Return results as arrays, and sentences about those that are none or have other shapes."""
    got: Inputs = {}
    problems = []
    for name, letters in function.results.items():
        value = results.get(name)
        if isinstance(letters, dict) and (
            not isinstance(value, dict) or value.keys() != letters.keys()
        ):
            kind = f"keys {list(value)}" if isinstance(value, dict) else type(value).__name__
            problems.append(f"{name} must be a dict with keys {', '.join(letters)}; got {kind}")
        if isinstance(letters, str) and isinstance(value, dict):
            problems.append(f"{name} is a dict, expected {_expected(letters, sizes)}")
    if problems:
        return got, problems
    letters = flat({name: of for name, of in function.results.items() if of is not None})
    for name, value in flat(results).items():
        array = _numbers(value)
        if array is None:
            problems.append(f"{name} is {_kind(value)}, expected {_expected(letters[name], sizes)}")
            continue
        got[name] = array
        if array.shape != shape(letters[name], sizes):
            expected = _expected(letters[name], sizes)
            problems.append(f"{name} has shape {array.shape}, expected {expected}")
    return got, problems


def _numbers(value: Any) -> Any:
    """Return a value as an array of float64, or None if it is none of real numbers."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None  # lists of different lengths
    return array.astype(np.float64) if array.dtype.kind in "fiub" else None


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return "None" if value is None else f"a {type(value).__name__}"


def _expected(letters: str, sizes: Sizes) -> str:
    """Tell a shape in letters and numbers."""
    if not letters:
        return "a single number, shape ()"
    parts = [part.strip() for part in letters.split(",")]
    told = [f"{part}={size}" for part, size in zip(parts, shape(letters, sizes), strict=True)]
    return f"({', '.join(told)}{',' * (len(told) == 1)})"


def _not_finite(got: Inputs) -> list[str]:
    problems = []
    for name, array in got.items():
        bad = ~np.isfinite(array)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f": {bad.sum()} of {bad.size} entries, first at {place}" if place else ""
            problems.append(f"{name} is {_spell(array[place])}{where}")
    return problems


def _spell(value: float) -> str:
    return "NaN (not a number)" if math.isnan(value) else "infinite"


def _differ(one: Any, other: Any) -> bool:
    """Whether two arrays are not the same, to rounding of their largest entry."""
    if one.shape != other.shape:
        return True
    largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
    atol = _ATOL + _RTOL * largest
    return not np.allclose(one, other, rtol=0, atol=atol, equal_nan=True)


def _wrong(got: Inputs, right: Inputs) -> list[str]:
    """Return a sentence for each array that is not right."""
    problems = []
    for name, array in got.items():
        expected = np.asarray(right[name], np.float64)
        if not _differ(array, expected):
            continue
        error = np.abs(array - expected)
        place = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        count = int((error > _ATOL + _RTOL * np.abs(expected).max()).sum())
        pair = _pair(float(array[place]), float(expected[place]))
        if not place:
            problems.append(f"{name} is wrong: {pair}")
        else:
            entries = f"{count} of {error.size} entries wrong, worst at {place}"
            problems.append(f"{name}: {entries}: {pair}")
    return problems


def _pair(yours: float, right: float) -> str:
    """Show two numbers, with as many digits as it takes to tell them apart."""
    for digits in (4, 8, 17):
        if f"{yours:.{digits}g}" != f"{right:.{digits}g}":
            break
    return f"yours {yours:.{digits}g}, right {right:.{digits}g}"


def _explain(trial: Trial, failing: list[tuple[Case, Finding]]) -> tuple[tuple[str, str], ...]:
    """Return the mistakes that lead to every wrong answer of the first group that has any.

    If some of these also lead to all other answers, wrong and right, the rest is left out.
    """
    answers = {str(case): found.got for case, found in failing}
    fits: list[tuple[str, str]] = []
    for group in trial.exercise.generic:
        wrong = [each for each in _cases(group) if str(each) in answers]
        if wrong:
            names = [_explain_one(trial, each, answers[str(each)]) for each in wrong]
            fits = [name for name in names[0] if all(name in others for others in names)]
            break
    if len(fits) < 2:
        return tuple(fits)
    rest = [each for group in trial.exercise.generic for each in _cases(group)]
    names = [_explain_one(trial, each, answers.get(str(each), {})) for each in rest]
    return tuple(name for name in fits if all(name in others for others in names)) or tuple(fits)


def _cases(group: tuple[dict[str, int], ...]) -> list[Case]:
    """Give each of the sizes a seed."""
    return [(sizes, seed) for seed, sizes in enumerate(group)]


def _explain_one(trial: Trial, case: Case, got: Inputs | None) -> list[tuple[str, str]]:
    """Return the mistakes that lead to an answer: None is none at all, {} the right one."""
    if got is None:
        return []
    inputs = trial.inputs(*case)
    right = flat(trial.right(inputs))
    return explanations(trial.exercise, trial.function, inputs, got or right, right)
