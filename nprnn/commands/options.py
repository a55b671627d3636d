"""The options that several commands have, and how they are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option with a value: its name, default, reader, and what ``--help`` says of it."""

    flag: str
    default: Any
    read: Callable[[str], Any]
    help: str
    metavar: str = "N"
    choices: tuple[str, ...] | None = None
    shown: str = ""  # the default in words

    @property
    def name(self) -> str:
        """The option's name in Python."""
        return self.flag.lstrip("-").replace("-", "_")

    def fits(self, value: Any) -> bool:
        """Whether a value is one that could have been given, or the default."""
        if value is None:
            return self.default is None
        try:
            return bool(self.read(str(value)) == value) and value in (self.choices or (value,))
        except argparse.ArgumentTypeError:
            return False


def whole(minimum: int) -> Callable[[str], int]:
    """Return a reader of whole numbers."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return read


def at_least_zero(text: str) -> float:
    """Read a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def above_zero(text: str) -> float:
    """Read a finite number above 0."""
    value = at_least_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0, got 0")
    return value


def part(text: str) -> float:
    """Read a number in [0, 1)."""
    value = at_least_zero(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, got {text}")
    return value


def share(text: str) -> float:
    """Read a number in (0, 1]."""
    value = above_zero(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, got {text}")
    return value


def not_empty(text: str) -> str:
    """Read a text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


CELLS = ("rnn", "gru", "lstm")
LEARNING_RATES = {"sgd": 0.3, "adagrad": 0.02, "rmsprop": 0.002, "adam": 0.006, "adamw": 0.006}
SCHEDULES = ("cosine", "constant", "step", "exponential")
ORDERS = ("sequential", "random")
BUDGET = 5_000_000  # characters to train on by default, so that small and large texts take alike


def _listed(choices: Iterable[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}"


BATCH_SIZE = Option("--batch-size", 16, whole(1), "sequences in a batch", "B")
# What decides the weights that come out; `nprnn train --resume` takes it from the checkpoint.
SETTINGS = (
    Option("--cell", "gru", str, _listed(CELLS), "CELL", CELLS),
    Option("--hidden-size", 128, whole(1), "units in a layer", "H"),
    Option("--num-layers", 1, whole(1), "layers", "L"),
    Option("--dropout", 0.0, part, "part of each layer's output left out", "P"),
    BATCH_SIZE,
    Option("--num-steps", 64, whole(1), "characters in a window", "T"),
    Option("--order", "sequential", str, "sequential carries the state on, or random",
           "ORDER", ORDERS),
    Option("--optimizer", "adam", str, _listed(LEARNING_RATES), "NAME", tuple(LEARNING_RATES)),
    Option("--lr", None, above_zero, "peak learning rate", "RATE",
           shown=", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items())),
    Option("--schedule", "cosine", str, _listed(SCHEDULES), "NAME", SCHEDULES),
    Option("--max-norm", 1.0, above_zero, "gradients are clipped to this norm", "NORM"),
    Option("--seed", 0, whole(0), "of weights and batches"),
)  # fmt: skip
EPOCHS = Option(
    "--epochs", None, whole(1), "passes over the text",
    shown=f"such that {BUDGET:,} characters are read",
)  # fmt: skip
# What is done with characters that the network does not know, and with bytes that are none.
UNKNOWN = Option(
    "--unknown", "error", str, "unseen characters: error, skip, nearest",
    "HOW", ("error", "skip", "nearest"),
)  # fmt: skip
ERRORS = Option(
    "--errors", "strict", str, "bytes not UTF-8: strict or replace", "HOW", ("strict", "replace")
)
# What is done where a loss or a gradient is not finite: an error; or the step before is taken back
# and taken again with half the learning rate.
ON_NONFINITE = Option(
    "--on-nonfinite", "raise", str, "at NaN or infinity: raise or rollback",
    "HOW", ("raise", "rollback"),
)  # fmt: skip
MAX_ROLLBACKS = Option("--max-rollbacks", 10, whole(1), "steps to take back, at most")
THREADS = Option("--threads", 1, whole(1), "threads for a batch, if large enough")
LENGTH = Option("--length", 500, whole(0), "characters to write")
TEMPERATURE = Option(
    "--temperature", 0.7, at_least_zero, "0 takes the likeliest, above 1 the unlikely too", "X"
)


def add(parser: Any, *options: Option) -> None:
    """Add options to a parser or a group; what is not given is left out of the result."""
    for option in options:
        default = option.shown or option.default
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            option.flag,
            metavar=option.metavar,
            type=option.read,
            choices=option.choices,
            default=argparse.SUPPRESS,
            help=option.help + shown,
        )


def defaults(options: Iterable[Option]) -> dict[str, Any]:
    """Return the default of each option, by its name in Python."""
    return {option.name: option.default for option in options}


class Formatter(argparse.HelpFormatter):
    """Help in 80 columns, most options on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=24, width=80)
