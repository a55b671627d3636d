"""``nprnn exercise``: exercises in backpropagation through time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from .console import write


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
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


def _list(options: Any) -> int:
    from ..course.catalogue import EXERCISES

    for each in EXERCISES:
        write(f"{each.name:21}  {each.title}")
    write("\nnprnn exercise start NAME DIR writes one to be filled in.")
    return 0


def _start(options: Any) -> int:
    from .. import course

    path = course.start(options.name, options.folder)
    write(f"{path} is written; fill it in, then\n\nnprnn exercise check {path}")
    return 0


def _check(options: Any) -> int:
    from .. import course

    report = course.check(options.file, time_limit=options.time_limit)
    write(report.to_json() if options.json else str(report))
    return 0 if report.passed else 1


def _solution(options: Any) -> int:
    from .. import course

    write(course.solution(options.name).rstrip("\n"))
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
