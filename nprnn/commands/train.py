"""``nprnn train``: from a text file to a folder of checkpoints."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validation
from ..alone import Alone
from ..checkpoint import BEST, Checkpoint, Folder, latest, load, numbered
from ..training import perplexity
from . import text_run
from .console import Progress, note, one_line, sentence, warn, write, write_json
from .options import (
    BATCH_SIZE,
    EPOCHS,
    ERRORS,
    MAX_ROLLBACKS,
    ON_NONFINITE,
    SETTINGS,
    THREADS,
    UNKNOWN,
    Option,
    above_zero,
    add,
    whole,
)
from .sample import continuation
from .together import ends, together

if TYPE_CHECKING:
    from ..training import Record
    from .text_run import Corpus, Run

STEPS = Option("--steps", None, whole(1), "stop at this step", shown="at the end")
MAX_SECONDS = Option(
    "--max-seconds", None, above_zero, "stop after this time", "S", shown="no limit"
)
EVERY = Option(
    "--checkpoint-every", None, whole(1), "steps between two checkpoints",
    shown="at each validation, and after a minute",
)  # fmt: skip
KEEP = Option("--keep", 1, whole(0), "older checkpoints to keep")
MINUTE = 60.0  # seconds between checkpoints, where no number of steps is given
SAMPLE_EVERY = 10.0  # seconds between two samples during training, at least
SAMPLE_LENGTH = 72
TOKENS = ".tokens.tmp"  # in the folder, while several ranks open it


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn train FILE [options]"
    parser.add_argument("file", metavar="FILE", nargs="?", help="a text in UTF-8")
    add(parser, *SETTINGS, EPOCHS, STEPS, MAX_SECONDS)
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="folder for checkpoints (default: named after FILE)"
    )
    add(parser, EVERY, KEEP)
    parser.add_argument(
        "--resume", action="store_true", help="go on with the newest checkpoint in that folder"
    )
    parser.add_argument(
        "--init-from", metavar="FILE", help="take the weights of this checkpoint, and no more"
    )
    add(parser, UNKNOWN, ERRORS, ON_NONFINITE, MAX_ROLLBACKS, THREADS)
    parser.add_argument("--json", action="store_true", help="write the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="write no progress")
    parser.set_defaults(run=run)


# What overflows is found where the gradients are clipped, and told in a sentence.
@np.errstate(over="ignore", invalid="ignore")
def run(options: argparse.Namespace) -> int:
    """Train, maybe together with other ranks; return the exit status."""
    with together(sentence) as ranks:
        return _run(options, ranks)


def _run(options: argparse.Namespace, ranks: Alone) -> int:
    given = vars(options)
    if options.resume and options.init_from:
        raise ValueError("--resume takes everything from the checkpoint, --init-from the weights")
    if not options.resume and options.file is None:
        raise ValueError("which text? nprnn train FILE")
    said = {name: value for name, value in given.items() if name != "run"}
    ranks.check_same("options", repr(sorted(said.items())))
    training, folder, command = (_resumed if options.resume else _begun)(given, ranks)
    run = training.checkpoint.run
    end = min(training.total_steps, int(run["steps"] or training.total_steps))
    if ranks.rank == 0 and not options.quiet:  # it takes a walk through the whole text
        for line in text_run.introduction(training):
            note(one_line(line))
    for warning in text_run.warnings(training):
        warn(warning)
    # Before the time is spent: can it be written? And older ones that an interrupted save left go.
    _save(folder.save, training)
    if training.checkpoint.position.step >= end:
        note(
            f"nothing is left to do: step {end} is reached; to go on, give a larger "
            "--epochs or --steps"
        )
        stopped = None
    else:
        stopped = _train(training, folder, end, options)
    ranks.wait()
    if ranks.rank == 0:
        _conclude(training, folder, stopped, options, command)
    return 128 + stopped if isinstance(stopped, signal.Signals) else 0


def _begun(given: Mapping[str, Any], ranks: Alone) -> tuple[Run, Folder, str]:
    """Return a new training, its folder, and the command to go on with it."""
    file = given["file"]
    ranks.columns(given.get("batch_size", BATCH_SIZE.default))
    source = load(latest(given["init_from"])) if given["init_from"] else None
    path = Path(_of_the_first(ranks, lambda: _free_folder(file, given["checkpoint"])))
    training = text_run.begin(
        _read(
            file,
            path,
            ranks,
            vocabulary=None if source is None else source.vocabulary,
            unknown=given.get("unknown", UNKNOWN.default),
            errors=given.get("errors", ERRORS.default),
        ),
        given,
        source=source,
        ranks=ranks,
    )
    command = f"nprnn train {shlex.quote(file)} --resume"
    if given["checkpoint"] or path != Path(Path(file).stem):
        command += f" --checkpoint {shlex.quote(str(path))}"
    keep = given.get("keep", KEEP.default)
    training.checkpoint.run |= {"keep": keep, "checkpoint_every": given.get("checkpoint_every")}
    return training, _folder(path, keep, ranks), command


def _read(file: str, folder: Path, ranks: Alone, **options: Any) -> Corpus:
    """Return the text as the network reads it; several ranks share its tokens in the folder."""
    if ranks.size == 1:
        return text_run.read_file(file, **options)
    ranks.check_same("text", ends(file))
    if ranks.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    return text_run.read_together(file, str(folder / TOKENS), ranks, **options)


def _folder(path: Path, keep: int, ranks: Alone) -> Folder:
    """Return the folder, once no rank takes what another writes for something left over."""
    folder = Folder(path, keep)
    ranks.wait()
    return folder


def _of_the_first(ranks: Alone, path: Callable[[], Path]) -> str:
    """Return what the first rank finds: the others would look while it already writes."""
    return ranks.share(os.fsencode(path()) if ranks.rank == 0 else b"").decode()


def _free_folder(file: str, wanted: str | None) -> Path:
    """Return the folder to write to; none in which another training already is."""
    if wanted is not None:
        if numbered(wanted):
            raise ValueError(
                f"{wanted}: the folder holds checkpoints already: go on with --resume, or name "
                "another with --checkpoint"
            )
        return Path(wanted)
    for path in _folders(file):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return path
    raise AssertionError("the names do not end")


def _folders(file: str) -> Iterator[Path]:
    """Yield the folders for the trainings on a file, in their order."""
    stem = Path(file).stem
    yield Path(stem)
    number = 2
    while True:
        yield Path(f"{stem}-{number}")
        number += 1


def _resumed(given: Mapping[str, Any], ranks: Alone) -> tuple[Run, Folder, str]:
    """Return the training of a folder, to go on; the folder, and the command to go on again."""
    path = Path(_of_the_first(ranks, lambda: latest(_used_folder(given))))
    if path.name == BEST or not numbered(path.parent):
        raise ValueError(f"{path}: --resume needs a folder with checkpoints of nprnn train")
    checkpoint = load(path)
    if ranks.size > 1:
        ranks.check_same("checkpoint", path.read_bytes())
    file, known = given["file"] or checkpoint.text["name"], checkpoint.run
    keep = given.get("keep", known.get("keep", KEEP.default))
    every = given.get("checkpoint_every", known.get("checkpoint_every"))
    if not (KEEP.fits(keep) and EVERY.fits(every)):
        raise ValueError(f"{path}: the checkpoint was not made by nprnn train")
    text_run.check_run(known)
    corpus = _read(
        file,
        path.parent,
        ranks,
        vocabulary=checkpoint.vocabulary,
        unknown=str(known["unknown"]),
        errors=str(known["errors"]),
        expected=checkpoint.text,
    )
    training = text_run.resume(checkpoint, corpus, given, ranks=ranks)
    checkpoint.text["name"] = file
    checkpoint.run |= {"keep": keep, "checkpoint_every": every}
    note(f"going on with {path}")
    command = (
        f"nprnn train {shlex.quote(file)} --resume --checkpoint {shlex.quote(str(path.parent))}"
    )
    return training, _folder(path.parent, keep, ranks), command


def _used_folder(given: Mapping[str, Any]) -> Path | str | None:
    """Return the folder to resume from: as named, or that of the file that was written to last."""
    if given["checkpoint"] is not None or given["file"] is None:
        wanted: str | None = given["checkpoint"]
        return wanted
    used = []
    for path in _folders(given["file"]):
        if not path.exists():
            break
        if found := numbered(path):
            used.append((found[-1].stat().st_mtime_ns, path))
    if not used:
        raise ValueError(
            f"there is no checkpoint in {Path(given['file']).stem}: leave --resume out to begin, "
            "or name the folder with --checkpoint"
        )
    return max(used)[1]


def _train(
    training: Run, folder: Folder, end: int, options: argparse.Namespace
) -> signal.Signals | str | None:
    """Train and save; return the signal that stopped it, or what limit it reached, if any did."""
    checkpoint = training.checkpoint
    every = checkpoint.run["checkpoint_every"]
    max_seconds = getattr(options, "max_seconds", math.inf)
    progress = Progress(checkpoint.position.step, end, max_seconds, options.quiet)
    saved = sampled = 0.0  # when, in seconds since the beginning
    try:
        with _caught_signals() as signals:
            for record in training.records():
                progress.show(record)
                if record.rollbacks:
                    warn(_rolled_back(record, checkpoint))
                # What any rank was told, and the clock that is furthest, count for all.
                told, now = training.ranks.highest(signals[0] if signals else 0, progress.seconds)
                if record.validation_loss is not None and now - sampled > SAMPLE_EVERY:
                    progress.say(_sample(checkpoint))
                    sampled = now
                stop: signal.Signals | str | None = signal.Signals(int(told)) if told else None
                if stop is None and now >= max_seconds:
                    stop = f"{max_seconds:g} s"
                if stop is None and record.step == end < training.total_steps:
                    stop = f"step {end}"
                validated = record.validation_loss is not None
                if validated and record.validation_loss == checkpoint.best_loss:
                    # First: who goes on from an older step comes by here again, from this one not.
                    _save(partial(_save_best, folder), training)
                due = record.step % int(every) == 0 if every else validated or now - saved > MINUTE
                if due or stop is not None or record.step == end:
                    _save(folder.save, training)
                    saved = now
                if stop is not None:
                    return stop
    except _validation.NonFiniteError as error:
        raise ValueError(
            f"training diverged, try a lower --lr than {checkpoint.run['lr']:g}, or --on-nonfinite "
            f"rollback: {error}; the last checkpoint is {latest(folder.path)}"
        ) from None
    except OSError as error:
        if error.filename is None:  # of the console
            raise
        raise ValueError(
            f"{error.filename}: {error.strerror}; once it can be written, --resume goes on from "
            f"{latest(folder.path)}"
        ) from None
    finally:
        progress.close()
    return None


def _save(write: Callable[[Checkpoint], Any], training: Run) -> None:
    """Save the training, with the states of all ranks; the first one writes."""
    position, ranks = training.checkpoint.position, training.ranks
    own = position.state
    position.state = ranks.whole_state(own)
    try:
        if ranks.rank == 0:
            write(training.checkpoint)
    finally:
        position.state = own


def _save_best(folder: Folder, checkpoint: Checkpoint) -> None:
    # Nobody goes on from this one, so where to stop is none of its matters.
    folder.save_best(replace(checkpoint, run=checkpoint.run | {"steps": None}))


def _rolled_back(record: Record, checkpoint: Checkpoint) -> str:
    times = "once" if record.rollbacks == 1 else f"{record.rollbacks} times"
    return (
        f"step {record.step} led to a loss or a gradient that is no finite number, was taken back "
        f"{times} and taken again; the learning rate is by now divided by "
        f"{2**checkpoint.position.rollbacks}"
    )


@contextmanager
def _caught_signals() -> Iterator[list[signal.Signals]]:
    """Collect the signals that ask to stop; the second one stops at once."""
    caught: list[signal.Signals] = []

    def catch(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number))

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sample(checkpoint: Checkpoint) -> str:
    """Return a line of what the network writes by now."""
    characters = continuation(checkpoint, "", rng=0, length=SAMPLE_LENGTH)
    return "  | " + one_line("".join(characters))


def _conclude(
    training: Run,
    folder: Folder,
    stopped: signal.Signals | str | None,
    options: argparse.Namespace,
    command: str,
) -> None:
    """Say how it ended, where the checkpoint is, and what to do with it."""
    checkpoint, path = training.checkpoint, latest(folder.path)
    best, step = checkpoint.best_loss, checkpoint.position.step
    best_path = folder.path / BEST if best is not None else None
    if options.json:
        write_json(_report(training, path, best_path, stopped))
    else:
        loss = training.evaluate() if best is None else best
        write(
            f"{'best ' if best is not None else ''}on held-out text: loss {loss:.4f}, perplexity "
            f"{perplexity(loss):.4g}, {loss / math.log(2):.3f} bits per character"
        )
        worse = not loss <= math.log(len(checkpoint.vocabulary))  # or not a number
        if worse and (best is not None or not math.isfinite(loss)):
            warn("that is worse than guessing; try a lower --lr, or a longer text")
        write(f"checkpoint: {path}")
    if stopped is not None:
        name = stopped.name if isinstance(stopped, signal.Signals) else stopped
        note(
            f"stopped after step {step} of {training.total_steps} ({name}); to go on:\n  {command}"
        )
    last = checkpoint.history[-1] if checkpoint.history else None
    is_last = last is not None and (last.step, last.validation_loss) == (step, best)
    chosen = best_path if best_path and not is_last else folder.path
    if not options.quiet:
        note(f"to let it write:\n  nprnn sample {shlex.quote(os.fspath(chosen))}")


def _report(
    training: Run, path: Path, best_path: Path | None, stopped: signal.Signals | str | None
) -> dict[str, Any]:
    """Return what ``--json`` writes."""
    checkpoint = training.checkpoint
    best = checkpoint.best_loss
    return {
        "checkpoint": str(path),
        "best_checkpoint": None if best_path is None else str(best_path),
        "step": checkpoint.position.step,
        "total_steps": training.total_steps,
        "stopped": stopped.name if isinstance(stopped, signal.Signals) else stopped,
        "best_validation_loss": best,
        "best_perplexity": None if best is None else perplexity(best),
        "best_bits_per_character": None if best is None else best / math.log(2),
        "perplexity_of_guessing": text_run.guesses(training),
        "characters": {"training": len(training.training), "held_out": len(training.validation)},
        "vocabulary": len(checkpoint.vocabulary),
        "parameters": text_run.num_parameters(training),
        "history": [point._asdict() for point in checkpoint.history],
    }
