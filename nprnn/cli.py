"""The command ``nprnn``: the only room that writes to the console."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__


def main() -> None:
    """Run the command, and end with its exit status."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 if all is well, 1 if not, 2 for wrong use."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow console shows ?, and does not crash
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; keep the interpreter from complaining while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _note("stopped")
        return 130
    except (ImportError, OSError, ValueError) as error:
        _note(f"nprnn: error: {_sentence(error)}")
        return 2
    return status


def _sentence(error: Exception) -> str:
    """Return an error's message, without the number that the system gives it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nprnn", description="Recurrent networks in pure NumPy.")
    parser.add_argument("--version", action="version", version=f"nprnn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (summary, define) in COMMANDS.items():
        define(
            commands.add_parser(
                name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
            )
        )
    return parser


def _exercise(parser: argparse.ArgumentParser) -> None:
    """Define ``nprnn exercise``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, summary: str, run: Callable[[Any], int]) -> argparse.ArgumentParser:
        added = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        added.set_defaults(run=run)
        return added

    action("list", "list the exercises, in order", _list)
    start = action("start", "write an exercise's file, to be filled in", _start)
    start.add_argument("name", metavar="NAME", help="of the exercise")
    start.add_argument("folder", metavar="DIR", nargs="?", default=".", help="default: here")
    check = action("check", "check the exercises that a file defines", _check)
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=_seconds,
        default=20.0,
        help="for each exercise (default: 20)",
    )
    check.add_argument("--json", action="store_true", help="write the report as one JSON object")
    solution = action("solution", "show an exercise's solution", _solution)
    solution.add_argument("name", metavar="NAME", help="of the exercise")


# The subcommands: what each is for, and what defines its arguments and what it runs.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "exercise": ("write backpropagation through time yourself, and have it checked", _exercise),
}


def _list(options: Any) -> int:
    from .course.catalogue import EXERCISES

    for each in EXERCISES:
        _write(f"{each.name:21}  {each.title}")
    _write("\nnprnn exercise start NAME DIR writes one to be filled in.")
    return 0


def _start(options: Any) -> int:
    from . import course

    path = course.start(options.name, options.folder)
    _write(f"{path} is written; fill it in, then\n\nnprnn exercise check {path}")
    return 0


def _check(options: Any) -> int:
    from . import course

    report = course.check(options.file, time_limit=options.time_limit)
    _write(report.to_json() if options.json else str(report))
    return 0 if report.passed else 1


def _solution(options: Any) -> int:
    from . import course

    _write(course.solution(options.name).rstrip("\n"))
    return 0


def _seconds(text: str) -> float:
    """Read a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
