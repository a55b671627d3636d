"""Checking a learner's file: each exercise in a process of its own, with a time limit.

The file is read here and run there, so that a loop without end, or a process that dies, spoils
nothing but the exercise that it is in.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _validation as validate
from .catalogue import EXERCISES, Exercise
from .report import Report, Result

_GRACE = 10.0  # seconds beyond the limit in which the process should have ended by itself


def check(path: str | Path, *, time_limit: float = 20.0) -> Report:
    """Check every exercise of which a file defines a function.

    Parameters
    ----------
    path : str or Path
        A Python file. It is run in processes of its own, from its own folder for imports.
    time_limit : float, default 20.0
        Seconds for each exercise.

    Returns
    -------
    Report
        `passed` says whether all is right, `str` what is wrong, `to_dict` and `to_json` the same
        for programs. A file that cannot be read or checked gives a report too, with `error`.

    Raises
    ------
    ImportError
        If Hypothesis is not installed, which draws the cases.
    """
    limit = validate.real("time_limit", time_limit, "(0, inf)")
    if importlib.util.find_spec("hypothesis") is None:
        raise ImportError("checking needs the package hypothesis: pip install hypothesis")
    file = str(path)
    try:
        names = _defined(Path(path).read_bytes(), file)
    except OSError as error:
        return Report(file, error=f"{file}: {error.strerror}")
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        return Report(file, error=f"{file}, {line}{error.msg}")
    except ValueError as error:
        return Report(file, error=f"{file} {error}")
    found = [each for each in EXERCISES if any(f.name in names for f in each.functions)]
    if not found:
        functions = ", ".join(f.name for each in EXERCISES for f in each.functions)
        return Report(file, error=f"{file} defines none of the exercises' functions: {functions}")
    return Report(file, tuple(r for each in found for r in _examine(each, Path(path), limit)))


def _defined(source: bytes, file: str) -> set[str]:
    """Return the names that a file gives to functions, or to anything, at its top level."""
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text (line {line}): save it as UTF-8") from None
    if b"\0" in source:
        raise ValueError("is not a Python file: it holds null bytes")
    names = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash in a docstring, for example
        tree = ast.parse(source, file)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            inner = [part for target in targets for part in ast.walk(target)]
            names |= {part.id for part in inner if isinstance(part, ast.Name)}
    return names


def _examine(exercise: Exercise, path: Path, limit: float) -> list[Result]:
    """Run an exercise's checks in a child, and say what became of each function."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # The child finds modules where this process does, and leaves nothing where the learner is.
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path),
            "PYTHONSAFEPATH": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": folder,
        }
        command = [sys.executable, "-m", "nprnn.course.runner", exercise.name]
        command += [str(path.resolve()), folder, str(limit)]
        quiet: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            status = subprocess.run(
                command, env=environment, timeout=limit + _GRACE, check=False, **quiet
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        lines = _read(Path(folder, "results")).splitlines()
        stack = _read(Path(folder, "stack"))
    loaded = "loaded" in lines
    results = [_result(line) for line in lines if line.startswith("{")]
    late = status is None or bool(stack)
    end = _too_late(path, stack, limit, loaded) if late else _died(status, loaded)
    return [*results, *_remaining(exercise, len(results), "timeout" if late else "died", end)]


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


def _result(line: str) -> Result:
    """Read what the child has written."""
    fields = json.loads(line)
    pairs = tuple((name, mathematics) for name, mathematics in fields.pop("diagnosis"))
    return Result(**fields, diagnosis=pairs)


def _remaining(exercise: Exercise, known: int, status: str, message: str) -> Iterator[Result]:
    """Yield results for the functions that the child did not come to: it ended in the first."""
    for function in exercise.functions[known:]:
        yield Result(exercise.name, function.name, status, message)
        status, message = "skipped", "the process ended before"


def _too_late(path: Path, stack: str, limit: float, loaded: bool) -> str:
    """Say that it took too long, and where it was when the time was over."""
    frame = re.search(rf'File "{re.escape(str(path.resolve()))}", line (\d+)', stack)
    place = f", in line {frame[1]}" if frame else ""
    where = "still running" if loaded else "still loading the file"
    return f"{where} after {limit:g} s{place}: does a loop never end?"


def _died(status: int | None, loaded: bool) -> str:
    """Say how the process ended that should have reported."""
    when = "" if loaded else " while the file was loaded"
    if status is not None and status < 0:
        return f"the process was killed{when}, by signal {-status}"
    return f"the process ended{when}, with status {status}: is there an os._exit?"
