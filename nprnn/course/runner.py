"""The child process: loads a learner's file and checks one exercise in it.

python -m nprnn.course.runner EXERCISE FILE FOLDER SECONDS

It writes to two files in FOLDER: `results`, the word "loaded" and then one JSON object a line for
each function, as soon as it is known; and `stack`, where it was when the time was over.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .exercises import exercise
from .grading import describe, grade, prepare
from .report import Result

_MODULE = "nprnn_learner"


def main(name: str, file: str, folder: str, seconds: str) -> None:
    """Check, write the results, and end."""
    prepare()  # so that the time is the learner's alone, and modules are found before theirs
    with (
        Path(folder, "results").open("w", encoding="utf-8") as results,
        Path(folder, "stack").open("w", encoding="utf-8") as stack,
    ):

        def write(line: str) -> None:
            results.write(line + "\n")
            results.flush()

        faulthandler.dump_traceback_later(float(seconds), exit=True, file=stack)
        _run(name, file, write)
    # Not sys.exit: threads and handlers that the learner's file has started may not end.
    os._exit(0)


def _run(name: str, file: str, write: Callable[[str], None]) -> None:
    chosen = exercise(name)
    try:
        module = _load(file)
    except (Exception, SystemExit) as error:
        status, message = describe(error, file)
        if status == "not_written":
            status, message = "error", "the file raises NotImplementedError when it is loaded"
        for function in chosen.functions:
            result = Result(name, function.name, status, f"cannot load the file: {message}")
            write(json.dumps(result._asdict()))
        return
    write("loaded")
    functions = {f.name: getattr(module, f.name, None) for f in chosen.functions}
    for result in grade(chosen, functions, file):
        write(json.dumps(result._asdict()))


def _load(file: str) -> Any:
    """Run a learner's file as a module, without leaving compiled files beside it."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(file))
    sys.argv[:] = [file]
    spec = importlib.util.spec_from_file_location(_MODULE, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} does not end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
