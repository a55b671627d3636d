"""``nprnn plot``: pictures of a training, and of what the network has learnt."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import insight, plot
from ..checkpoint import Checkpoint
from ..encoding import read_text
from .characters import encode
from .console import note, write
from .options import ERRORS, UNKNOWN, Option, add, defaults, whole
from .sample import add_checkpoint, opened

if TYPE_CHECKING:
    from .._validation import Array

FOLDER = "pictures"
FORMATS = ("png", "svg", "both")
TEXT = Option("--text", None, str, "a text in UTF-8 to read", "FILE", shown="that of the training")
OUTPUT = Option(
    "--output", None, str, "folder for the pictures", "DIR", shown=f"{FOLDER}, beside CHECKPOINT"
)
FORMAT = Option("--format", "png", str, "png, svg or both", "FORMAT", FORMATS)
START = Option("--start", None, whole(0), "character to begin at", shown="after nine tenths")
STEPS = Option("--num-steps", 100, whole(2), "steps that the gradient is followed back")
OPTIONS = (TEXT, START, STEPS, OUTPUT, FORMAT, UNKNOWN, ERRORS)

SEQUENCES = 16  # that the gradient flow is the mean of
SHOWN = 121  # characters whose predictions are drawn
READ = 4000  # characters that units are judged by, and coloured on


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn plot [CHECKPOINT] [options]"
    parser.epilog = "It needs Matplotlib: pip install 'nprnn[plot]'."
    add_checkpoint(parser)
    add(parser, *OPTIONS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draw; return the exit status."""
    chosen = defaults(OPTIONS) | vars(options)
    path, checkpoint = opened(options.checkpoint)
    ids = _tokens(checkpoint, chosen)
    folder = Path(chosen["output"] or path.parent / FOLDER)
    plot.need_matplotlib()
    pictures = _pictures(checkpoint, ids, chosen["num_steps"])
    formats = ("png", "svg") if chosen["format"] == "both" else (chosen["format"],)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in pictures:
        picture = draw()
        if isinstance(picture, str):
            target = folder / f"{name}.html"
            target.write_text(picture, "utf-8", errors="replace")
            write(str(target))
            continue
        for kind in formats:
            target = folder / f"{name}.{kind}"
            picture.savefig(target)
            write(str(target))
    return 0


def _tokens(checkpoint: Checkpoint, chosen: dict[str, Any]) -> Array | None:
    """Return the passage that is read; None, with a note, if the text of the training is gone."""
    file, known = chosen["text"], checkpoint.text
    if file is None:
        file = known["name"]
        if not os.path.isfile(file):
            note(
                f"{file}, which the network was trained on, is not here: only what needs no text "
                "is drawn; name one with --text FILE"
            )
            return None
    text = read_text(file, errors=chosen["errors"])
    start = chosen["start"]
    if start is None:  # where the network was validated, if this is its text
        start = len(text) * 9 // 10 if len(text) * 9 // 10 + SHOWN <= len(text) else 0
    passage = text[start : start + max(READ, SEQUENCES * (chosen["num_steps"] + 1))]
    passage, ids = encode(checkpoint.vocabulary, passage, chosen["unknown"], file)
    if len(ids) < 3:
        raise ValueError(
            f"{file}: at least 3 characters are needed from --start {start} on, got {len(ids)} "
            f"(the text has {len(text)})"
        )
    return ids


def _pictures(
    checkpoint: Checkpoint, ids: Array | None, num_steps: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each picture, and what draws it."""
    model, vocabulary = checkpoint.model, checkpoint.vocabulary
    if any(point.loss is not None for point in checkpoint.history):
        yield "training", lambda: plot.training_curves(checkpoint.history)
    yield "recurrent-matrices", lambda: plot.spectra(model)
    if ids is None:
        return
    windows = insight.windows(ids, num_steps, SEQUENCES)
    yield "gradient-flow", lambda: plot.gradient_flow(model, windows)
    yield "activations", lambda: plot.activations(model, ids[:READ], vocabulary)
    yield "predictions", lambda: plot.predictions(model, ids[:SHOWN], vocabulary)
    yield "units", lambda: plot.coloured_text(model, ids[:READ], vocabulary)
