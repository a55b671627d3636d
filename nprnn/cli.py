"""The command ``nprnn``; what its subcommands do stands in `nprnn.commands`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .commands import exercise, inspect, plot, sample, score, serve, train
from .commands.console import harmless, note, sentence
from .commands.options import Formatter
from .commands.together import Parser, one_voice


def main() -> None:
    """Run the command, and end with its exit status."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0 if all is well, 1 if not, 2 for wrong use."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a narrow console shows ?, and does not crash
    with one_voice():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; keep the interpreter from complaining while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        note("stopped")
        return 130
    except (ImportError, MemoryError, OSError, OverflowError, ValueError) as error:
        note(f"nprnn: error: {harmless(sentence(error))}")
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nprnn", description="Recurrent networks in pure NumPy.")
    parser.add_argument("--version", action="version", version=f"nprnn {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (summary, define) in COMMANDS.items():
        described = f"{summary[0].upper()}{summary[1:]}."
        define(
            commands.add_parser(
                name, help=summary, description=described, formatter_class=Formatter
            )
        )
    return parser


# The subcommands: what each is for, and what defines its arguments and what it runs.
COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "train": ("train a network on a text file", train.define),
    "sample": ("let a trained network write", sample.define),
    "score": ("tell how well a trained network predicts a text", score.define),
    "plot": ("draw pictures of a training and of what was learnt", plot.define),
    "inspect": ("show what a checkpoint holds", inspect.define),
    "serve": ("open a page to play with a trained network", serve.define),
    "exercise": (
        "write backpropagation through time yourself, and have it checked",
        exercise.define,
    ),
}


if __name__ == "__main__":
    main()
