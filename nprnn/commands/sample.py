"""``nprnn sample``: let a trained network write."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validation
from ..checkpoint import BEST, Checkpoint, is_of_characters, latest, load
from ..weights import WeightsFileError
from .characters import encode
from .console import harmless, note, write, write_json
from .options import LENGTH, TEMPERATURE, UNKNOWN, Option, add, defaults, not_empty, share, whole

if TYPE_CHECKING:
    from .._validation import RandomSource
    from ..models import LanguageModel

PREFIX = Option("--prefix", "", str, "what the text begins with", "TEXT", shown="nothing")
TOP_K = Option("--top-k", None, whole(1), "draw among the K likeliest", "K", shown="all")
TOP_P = Option("--top-p", None, share, "draw among the likeliest that make up P", "P", shown="1")
SEED = Option("--seed", None, whole(0), "for the same text again", shown="another each time")
SAMPLES = Option("--samples", 1, whole(1), "texts to write")
STOP = Option("--stop", None, not_empty, "end a text before this", "TEXT", shown="nothing")
OPTIONS = (PREFIX, LENGTH, TEMPERATURE, TOP_K, TOP_P, SEED, SAMPLES, STOP, UNKNOWN)


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn sample [CHECKPOINT] [options]"
    add_checkpoint(parser)
    add(parser, *OPTIONS)
    parser.add_argument(
        "--interactive", action="store_true", help="go on with each line that is typed"
    )
    parser.add_argument("--json", action="store_true", help="write the texts as JSON")
    parser.set_defaults(run=run)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a checkpoint."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="file or folder (default: the newest here)",
    )


def opened(named: str | None) -> tuple[Path, Checkpoint]:
    """Return the checkpoint that is meant, and say which it is, and whether there is a better."""
    path = latest(named)
    try:
        checkpoint = load(path)
    except WeightsFileError as error:
        raise ValueError(f"not a checkpoint: {error}") from None
    note(f"{path}, step {checkpoint.position.step}")
    best = path.with_name(BEST)
    if checkpoint.is_past_its_best and best.exists():
        note(f"on held-out text {best} was better")
    return path, checkpoint


def run(options: argparse.Namespace) -> int:
    """Write; return the exit status."""
    path, checkpoint = opened(options.checkpoint)
    chosen = defaults(OPTIONS) | vars(options)
    rng = _validation.generator(chosen["seed"])
    if options.interactive:
        _converse(checkpoint, chosen, rng)
        return 0
    prefix, _ = encode(checkpoint.vocabulary, chosen["prefix"], chosen["unknown"], "--prefix")
    if options.json:
        texts = ["".join(_text(checkpoint, prefix, chosen, rng)) for _ in range(chosen["samples"])]
        write_json({"checkpoint": str(path), "prefix": prefix, "texts": texts})
    else:
        for number in range(chosen["samples"]):
            if number:
                write("-" * 20)
            _stream(prefix, _text(checkpoint, prefix, chosen, rng))
    return 0


def continuation(
    checkpoint: Checkpoint,
    prefix: str,
    *,
    rng: RandomSource = None,
    length: int = LENGTH.default,
    temperature: float = TEMPERATURE.default,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | None = None,
) -> Iterator[str]:
    """Yield what the network writes after a prefix, token by token, never the unknown one.

    Parameters
    ----------
    checkpoint : Checkpoint
    prefix : str
        An empty one stands for the end of a line, which the network has seen texts go on after, and
        hardly ever the first character of one.
    rng, temperature, top_k, top_p
        As for `LanguageModel.generate`.
    length : int
        Tokens to draw.
    stop : str, optional
        The text ends before this, if it comes.
    """
    vocabulary = checkpoint.vocabulary
    model = _without(checkpoint.model, vocabulary.unknown_id)
    before = prefix or ("\n" if "\n" in vocabulary else "")
    ids = model.generate(
        vocabulary.encode(before), rng=rng, temperature=temperature, top_k=top_k, top_p=top_p
    )
    space = "" if is_of_characters(vocabulary) else " "
    tokens = (space + vocabulary.tokens[token] for token in itertools.islice(ids, length))
    return tokens if stop is None else until(tokens, stop)


def until(parts: Iterable[str], stop: str) -> Iterator[str]:
    """Yield the characters of a text that come before `stop`, each as soon as that is certain."""
    held = ""  # may be the beginning of stop
    for char in itertools.chain.from_iterable(parts):
        held += char
        if held == stop:
            return
        while not stop.startswith(held):
            yield held[0]
            held = held[1:]
    yield from held


def _without(model: LanguageModel, token: int | None) -> LanguageModel:
    """Return the model with one token impossible: its logit is -inf."""
    if token is None:
        return model
    bias = model.params["readout.bias"].copy()
    bias[token] = -math.inf
    return model.with_params(model.params | {"readout.bias": bias})


def _text(
    checkpoint: Checkpoint, prefix: str, chosen: dict[str, Any], rng: np.random.Generator
) -> Iterator[str]:
    return continuation(
        checkpoint,
        prefix,
        rng=rng,
        length=chosen["length"],
        temperature=chosen["temperature"],
        top_k=chosen["top_k"],
        top_p=chosen["top_p"],
        stop=chosen["stop"],
    )


def _stream(prefix: str, characters: Iterable[str]) -> None:
    """Write a text as it comes; to a terminal nothing that it would take for a command."""
    shown = harmless if sys.stdout.isatty() else str
    write(shown(prefix), end="")
    for char in characters:
        write(shown(char), end="")
    write("")


def _converse(checkpoint: Checkpoint, chosen: dict[str, Any], rng: np.random.Generator) -> None:
    """Go on with each line of standard input, until it ends."""
    note("type a beginning and press Enter; Ctrl-C stops a text, Ctrl-D ends")
    while True:
        sys.stderr.write("> " if sys.stdin.isatty() else "")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        try:
            prefix, _ = encode(
                checkpoint.vocabulary, line.rstrip("\n"), chosen["unknown"], "the beginning"
            )
            _stream(prefix, _text(checkpoint, prefix, chosen, rng))
        except ValueError as error:
            note(str(error))
        except KeyboardInterrupt:
            write("")
