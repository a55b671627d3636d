"""Train a character network on a text file, and let it write.

    python examples/train_text.py [FILE]

Without FILE it learns from English that every Python carries, so that nothing is downloaded. All is
kept in memory: `nprnn train` does the same and writes checkpoints. Progress goes to standard error,
the results and the text to standard output.
"""

import argparse
import lzma
import math
import os
import sys
import zlib

# Before NumPy is loaded. Products as small as these gain from a second thread on an idle machine,
# and wait for it on a busy one; with one they take the same time on both. Set it yourself for more.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import nprnn
from nprnn.commands import options, text_run
from nprnn.commands.characters import encode
from nprnn.commands.console import Progress, note, warn, write
from nprnn.commands.sample import PREFIX, continuation

MAX_SECONDS = options.Option(
    "--max-seconds", 75.0, options.above_zero, "stop training after this time", "S"
)
OPTIONS = (
    *options.SETTINGS,
    options.EPOCHS,
    MAX_SECONDS,
    PREFIX,
    options.UNKNOWN,
    options.LENGTH,
    options.TEMPERATURE,
)


def main(arguments=None):
    """Run the job; return the exit status."""
    chosen = parse(arguments)
    try:
        text = nprnn.read_text(chosen["file"])
        run = text_run.begin(text_run.read(text, chosen["file"] or "pydoc_data.topics"), chosen)
        vocabulary = run.checkpoint.vocabulary
        prefix, _ = encode(vocabulary, chosen["prefix"], chosen["unknown"], "--prefix")
    except (OSError, ValueError) as error:
        return complain(str(error))
    for line in text_run.introduction(run):
        note(line)
    for sentence in text_run.warnings(run):
        warn(sentence)
    try:
        loss = fit(run, chosen["max_seconds"])
    except nprnn.NonFiniteError as error:
        return complain(f"training diverged, try a lower --lr: {error}")
    compare(loss, run.held_out_text, len(vocabulary))
    write("\n" + prefix, end="")
    for char in continuation(
        run.checkpoint,
        prefix,
        rng=run.checkpoint.run["seed"],
        length=chosen["length"],
        temperature=chosen["temperature"],
    ):
        write(char, end="")
    write("")
    return 0


def parse(arguments):
    """Return the options by name, checked, with their defaults."""
    parser = argparse.ArgumentParser(
        description="Train a character network on a text file, and let it write.",
        formatter_class=options.Formatter,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="a text in UTF-8; without it, Python's own manual (pydoc_data.topics)",
    )
    options.add(parser, *OPTIONS)
    given = vars(parser.parse_args(arguments))
    return options.defaults(OPTIONS) | given


def fit(run, max_seconds):
    """Train to the end, or to Ctrl-C; leave the best weights in the model, return their loss."""
    params, best = run.checkpoint.model.params, {}
    progress, loss = Progress(0, run.total_steps, max_seconds), None
    try:
        for record in run.records():
            progress.show(record)
            loss = record.validation_loss
            if loss is not None and loss == run.checkpoint.best_loss:
                best = {name: value.copy() for name, value in params.items()}
            if progress.seconds >= max_seconds:
                note(f"the {max_seconds:g} s are over")
                break
    except KeyboardInterrupt:
        note("\nstopped; going on with what has been learned")
        loss = None
    finally:
        progress.close()
    if loss is None:
        loss = run.evaluate()
    lowest = run.checkpoint.best_loss  # a small text is soon known by heart
    if not best or loss <= lowest:
        return loss
    perplexity = nprnn.training.perplexity(lowest)
    note(f"going back to the weights with perplexity {perplexity:.4g} on held-out text")
    for name, value in best.items():
        params[name][...] = value
    return lowest


def compare(loss, text, vocab_size):
    """Print what the network needs for a character of the held-out text, and what packers need."""
    if loss > math.log(vocab_size):
        warn("that is worse than guessing; try a lower --lr, or a longer text")
    data = text.encode("utf-8", "surrogatepass")
    rows = [
        ("this network", loss / math.log(2)),
        ("zlib", 8 * len(zlib.compress(data, 9)) / len(text)),
        ("lzma", 8 * len(lzma.compress(data, preset=9)) / len(text)),
    ]
    perplexity = nprnn.training.perplexity(loss)
    write(f"held-out text, {len(text)} characters: perplexity {perplexity:.3g}")
    # The packers see this text alone; the network has read the rest of it before.
    write("bits per character: " + ", ".join(f"{name} {bits:.3g}" for name, bits in rows))


def complain(message):
    """Print an error; return the exit status for bad input."""
    note(f"{os.path.basename(sys.argv[0])}: error: {message}")
    return 2


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a narrow console shows ?, and does not crash
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        note("\nstopped")
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone; keep the interpreter from complaining while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
