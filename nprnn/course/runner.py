"""The child process: loads a learner's file and checks one exercise in it.

python -m nprnn.course.runner EXERCISE FILE FOLDER SECONDS

It writes to two files in FOLDER: `results`, the word "loaded" and then one JSON object a line for
each function, as soon as it is known; and `stack`, where it was when the time was over.
"""

from __future__ import annotations

import faulthandler
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .catalogue import exercise
from .grading import describe, grade
from .report import Result

_MODULE = "nprnn_learner"
_MEMORY = 4 * 2**30  # bytes that a learner's file may ask for


def main(name: str, file: str, folder: str, seconds: str) -> None:
    """Check, write the results, and end."""
    with (
        Path(folder, "results").open("w", encoding="utf-8") as results,
        Path(folder, "stack").open("w", encoding="utf-8") as stack,
    ):

        def write(line: str) -> None:
            results.write(line + "\n")
            results.flush()

        _limit_memory()
        sys.argv[:] = [file]
        sys.path.insert(0, os.path.dirname(file))
        # Compiled files are neither left beside the learner's, nor taken from there: one that is
        # changed within a second, and stays as long, would be taken for the one before.
        sys.pycache_prefix = folder
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=stack)
        _run(name, file, write)
    # Not sys.exit: threads and handlers that the learner's file has started may not end.
    os._exit(0)


def _run(name: str, file: str, write: Callable[[str], None]) -> None:
    chosen, originals, failure = exercise(name), _originals(), ""
    try:
        module = _load(file)
    except BaseException as error:
        status, message = describe(error, file)
        if status == "not_written":
            message = "it raises NotImplementedError outside of a function"
        failure = f"cannot load the file: {message}"
    failure = failure or _replaced(originals)
    if failure:
        for function in chosen.functions:
            write(json.dumps(Result(name, function.name, "error", failure)._asdict()))
        return
    write("loaded")
    functions = {f.name: getattr(module, f.name, None) for f in chosen.functions}
    for result in grade(chosen, functions, file):
        failure = _replaced(originals)
        if failure:
            result = Result(name, result.function, "error", failure)
        write(json.dumps(result._asdict()))


def _load(file: str) -> Any:
    """Run a learner's file as a module; any file, whatever it is called."""
    loader = importlib.machinery.SourceFileLoader(_MODULE, file)
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(_MODULE, loader))
    module.__file__ = file
    sys.modules[_MODULE] = module
    loader.exec_module(module)
    return module


def _originals() -> dict[str, dict[str, Any]]:
    """Return what the modules hold that the check relies on."""
    # For a learner who tries things out; who wants to deceive the check finds a way.
    names = [name for name in sys.modules if name.startswith("nprnn.")]
    return {name: dict(vars(sys.modules[name])) for name in ("numpy", "numpy.linalg", *names)}


def _replaced(originals: dict[str, dict[str, Any]]) -> str:
    """Return a sentence if something is not what it was, else nothing."""
    for module, names in originals.items():
        for name, value in names.items():
            if getattr(sys.modules[module], name, None) is not value:
                return f"the file replaces {module}.{name}, which checking needs: leave that out"
    return ""


def _limit_memory() -> None:
    """Let what asks for too much get a MemoryError, before everything else has to wait."""
    used = Path("/proc/self/statm")  # elsewhere the limit is not kept, or not known
    if used.exists():
        import resource

        pages = int(used.read_text().split()[0])
        limit = pages * resource.getpagesize() + _MEMORY
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main(*sys.argv[1:])
