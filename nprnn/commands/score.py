"""``nprnn score``: how well a trained network predicts a text, and where it does not."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..encoding import read_text
from ..training import perplexity
from .characters import encode
from .console import beginning, ending, has_colours, one_line, write
from .options import ERRORS, UNKNOWN, Option, add, whole
from .sample import add_checkpoint, opened

if TYPE_CHECKING:
    from .._validation import Array
    from ..models import LanguageModel

PASSAGES = Option("--passages", 5, whole(0), "surprising passages to show")
WIDTH = 12  # characters of a surprising passage
CONTEXT = 20  # columns shown on either side of it
WINDOW = 512  # steps computed at a time
BLOCK = 10_000  # numbers written at a time


class Passage(NamedTuple):
    """A surprising passage: where it begins, and the bits that each of its characters takes."""

    position: int
    line: int
    bits: float


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn score [CHECKPOINT] FILE [options]"
    add_checkpoint(parser)
    parser.add_argument("file", metavar="FILE", help="a text in UTF-8")
    add(parser, UNKNOWN, ERRORS, PASSAGES)
    parser.add_argument(
        "--json", action="store_true", help="as JSON, with the log-probability of each character"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score; return the exit status."""
    path, checkpoint = opened(options.checkpoint)
    unknown = getattr(options, "unknown", UNKNOWN.default)
    given = read_text(options.file, errors=getattr(options, "errors", ERRORS.default))
    text, ids = encode(checkpoint.vocabulary, given, unknown, options.file)
    if len(ids) < 2:
        raise ValueError(f"{options.file}: at least two characters are needed, got {len(ids)}")
    scores = log_probabilities(checkpoint.model, ids)
    number = getattr(options, "passages", PASSAGES.default)
    passages = surprising(text, scores, number) if len(text) == len(ids) else []
    if options.json:
        _write_json(str(path), text, scores, passages)
    else:
        _write(options.file, text, scores, passages)
    return 0


def log_probabilities(model: LanguageModel, ids: Array) -> Array:
    """Return the log-probability of every token but the first, given those before it.

    Parameters
    ----------
    model : LanguageModel
    ids : ndarray of int, shape (N,)

    Returns
    -------
    ndarray of shape (N-1,)
        In nats.
    """
    scores, state = np.empty(len(ids) - 1), None
    for start in range(0, len(scores), WINDOW):
        window = ids[start : start + WINDOW + 1]
        logits, state = model(window[:-1], state)  # (T, V)
        logits = logits.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        totals = np.log(np.exp(logits).sum(axis=1))
        scores[start : start + WINDOW] = logits[np.arange(len(logits)), window[1:]] - totals
    return scores


def surprising(text: str, scores: Array, number: int) -> list[Passage]:
    """Return the passages that took the most bits a character, without overlaps."""
    width = min(WIDTH, len(scores))
    sums = np.cumsum(np.concatenate([[0.0], -scores / math.log(2)]))
    means = (sums[width:] - sums[:-width]) / width  # of the passage that begins at each place
    found: list[Passage] = []
    for _ in range(number):
        place = int(means.argmax())
        if means[place] == -math.inf:
            break
        position = place + 1  # the first character has no score
        line = text.count("\n", 0, position) + 1
        found.append(Passage(position, line, float(means[place])))
        means[max(0, place - width + 1) : place + width] = -math.inf
    return found


def _write(name: str, text: str, scores: Array, passages: list[Passage]) -> None:
    mean = -float(scores.mean())
    write(f"{name}: {len(scores) + 1} characters, the first of which is given")
    write(f"log-probability {float(scores.sum()):.6g} nats, {-mean:.4f} per character")
    write(f"{mean / math.log(2):.4f} bits per character, perplexity {perplexity(mean):.4g}")
    if passages:
        write("\nmost surprising, with the bits that a character took:")
    before, after = ("\x1b[7m", "\x1b[0m") if has_colours(sys.stdout) else ("[", "]")
    for position, line, bits in passages:
        end = position + WIDTH
        lead = ending(one_line(text[max(0, position - CONTEXT) : position]), CONTEXT)
        rest = beginning(one_line(text[end : end + CONTEXT]), CONTEXT)
        marked = one_line(text[position:end])
        write(f"{bits:5.1f}  line {line:<6} {lead}{before}{marked}{after}{rest}")


def _write_json(path: str, text: str, scores: Array, passages: list[Passage]) -> None:
    """Write the report, the long list at its end in parts."""
    mean = -float(scores.mean())
    report: dict[str, Any] = {
        "checkpoint": path,
        "characters": len(scores) + 1,
        "log_probability": float(scores.sum()),
        "log_probability_per_character": -mean,
        "bits_per_character": mean / math.log(2),
        "perplexity": perplexity(mean),
        "passages": [
            {**passage._asdict(), "text": text[passage.position : passage.position + WIDTH]}
            for passage in passages
        ],
    }
    write(json.dumps(report, ensure_ascii=False)[:-1] + ', "log_probabilities": [', end="")
    for start in range(0, len(scores), BLOCK):
        numbers = ", ".join(f"{score:.5g}" for score in scores[start : start + BLOCK])
        write((", " if start else "") + numbers, end="")
    write("]}")
