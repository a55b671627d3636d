"""Train a character network on a text file, and let it write.

    python examples/train_text.py [FILE]

Without FILE it learns from English that every Python carries, so that nothing is downloaded.
Progress goes to standard error, the results and the text to standard output.
"""

import argparse
import itertools
import lzma
import math
import os
import sys
import time
import zlib

# Before NumPy is loaded. Products as small as these gain from a second thread on an idle machine,
# and wait for it on a busy one; with one they take the same time on both. Set it yourself for more.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import nprnn

BUDGET = 5_000_000  # characters to train on by default, so that small and large texts take alike
MOST_EPOCHS = 100  # however small the text is
WARM_UP = 100  # steps over which the learning rate rises to its peak
HELD_OUT = 0.1  # part of the text that is kept for validation, ...
MOST_HELD_OUT = 100_000  # ... and the most of it, in characters

# What makes an optimizer over parameters, and the peak learning rate that suits it.
OPTIMIZERS = {
    "sgd": (lambda params: nprnn.SGD(params, 0.0, momentum=0.9), 0.3),
    "adagrad": (nprnn.Adagrad, 0.02),
    "rmsprop": (nprnn.RMSprop, 0.002),
    "adam": (nprnn.Adam, 0.003),
    "adamw": (nprnn.AdamW, 0.003),
}
# From the peak learning rate and the number of steps.
SCHEDULES = {
    "cosine": nprnn.schedules.cosine,
    "constant": lambda lr, steps: nprnn.schedules.constant(lr),
    "step": lambda lr, steps: nprnn.schedules.step_decay(lr, steps // 3 + 1),
    "exponential": lambda lr, steps: nprnn.schedules.exponential(lr, 0.01 ** (1 / steps)),
}


def main(arguments=None):
    """Run the job; return the exit status."""
    options = parse(arguments)
    try:
        text = nprnn.read_text(options.file)
        vocabulary = nprnn.Vocabulary(text)
        tokens = vocabulary.encode(text)
        training, validation = split(tokens)
        prefix = encode_prefix(options.prefix, vocabulary)
    except (OSError, ValueError) as error:
        return complain(str(error))
    fit_batches(options, len(training))
    model = nprnn.LanguageModel(
        len(vocabulary),
        options.hidden_size,
        num_layers=options.num_layers,
        cell=options.cell,
        dropout=options.dropout,
        recurrent_init="orthogonal",
        rng=options.seed,
    )
    introduce(options, vocabulary, training, validation, model)
    try:
        loss = fit(options, model, training, validation)
    except nprnn.NonFiniteError as error:
        return complain(f"training diverged, try a lower --lr than {options.lr:g}: {error}")
    compare(loss, text[-len(validation) :], len(vocabulary))
    write(options, model, vocabulary, prefix)
    return 0


def parse(arguments):
    """Return the options, checked."""
    parser = argparse.ArgumentParser(
        description="Train a character network on a text file, and let it write.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "file",
        metavar="FILE",
        nargs="?",
        default=argparse.SUPPRESS,
        help="a text in UTF-8; without it, Python's own manual (pydoc_data.topics)",
    )
    add("--cell", choices=["rnn", "gru", "lstm"], default="rnn", help="kind of layer")
    add("--hidden-size", metavar="H", type=whole(1), default=256, help="units in a layer")
    add("--num-layers", metavar="L", type=whole(1), default=1, help="layers")
    add("--dropout", metavar="P", type=part, default=0.0, help="part of each layer's output")
    add("--batch-size", metavar="B", type=whole(1), default=16, help="sequences in a batch")
    add("--num-steps", metavar="T", type=whole(1), default=64, help="characters in a window")
    add("--optimizer", choices=list(OPTIMIZERS), default="adam", help="how steps are taken")
    rates = ", ".join(f"{name} {rate:g}" for name, (_, rate) in OPTIMIZERS.items())
    add(
        "--lr",
        type=above_zero,
        default=argparse.SUPPRESS,
        help=f"peak learning rate (default: {rates})",
    )
    add("--schedule", choices=list(SCHEDULES), default="cosine", help="how the rate falls")
    add("--max-norm", type=above_zero, default=1.0, help="gradients are clipped to this norm")
    add(
        "--epochs",
        type=whole(1),
        default=argparse.SUPPRESS,
        help=f"passes over the text (default: those that make {BUDGET:,} characters)",
    )
    add("--max-seconds", type=above_zero, default=75.0, help="stop training after this time")
    add("--seed", type=whole(0), default=0, help="of weights, batches and text")
    add("--prefix", default="", help="what the text at the end begins with")
    add("--length", type=whole(0), default=500, help="characters to write at the end")
    add("--temperature", type=at_least_zero, default=0.7, help="0 always takes the likeliest")
    options = parser.parse_args(arguments, argparse.Namespace(file=None))
    if "lr" not in options:
        _, options.lr = OPTIMIZERS[options.optimizer]
    return options


def whole(minimum):
    """Return a reader of whole numbers for argparse."""

    def read(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return read


def at_least_zero(text):
    """Read a finite number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text}")
    return value


def above_zero(text):
    """Read a finite number above 0."""
    value = at_least_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0, got 0")
    return value


def part(text):
    """Read a number in [0, 1)."""
    value = at_least_zero(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be below 1, got {text}")
    return value


def split(tokens):
    """Return what to train on and, from the end of the text, what to validate with."""
    held_out = min(int(len(tokens) * HELD_OUT), MOST_HELD_OUT)
    if held_out < 2:
        raise ValueError(
            f"the text is too short: {len(tokens)} characters, where at least 20 are needed "
            "(and some 100,000 to learn to write)"
        )
    return tokens[:-held_out], tokens[-held_out : len(tokens)]


def encode_prefix(prefix, vocabulary):
    """Return the ids of the prefix, or say which of its characters the text does not have."""
    unknown = sorted(set(prefix) - set(vocabulary.tokens))
    if unknown:
        raise ValueError(
            f"--prefix has characters that the text does not: {', '.join(map(repr, unknown))}"
        )
    return vocabulary.encode(prefix)


def fit_batches(options, num_tokens):
    """Make the batches small enough for the text, and say so; settle the number of steps."""
    if num_tokens < 50_000:
        note(
            f"warning: {num_tokens} characters to train on are few; what it writes will hardly be "
            "words (some 100,000 make words, a million sentences)"
        )
    steps = min(options.num_steps, max(1, (num_tokens - 1) // 4))
    # At least a few steps an epoch, or the epochs pass without anything being learned.
    batch = max(1, min(options.batch_size, (num_tokens - 1) // (4 * steps)))
    if (batch, steps) != (options.batch_size, options.num_steps):
        note(
            f"warning: too short for --batch-size {options.batch_size} times --num-steps "
            f"{options.num_steps}; using {batch} times {steps}"
        )
    options.batch_size, options.num_steps = batch, steps
    # What is left after the longest random offset, but there is always one.
    steps_an_epoch = max(1, (num_tokens - steps) // (batch * steps))
    if "epochs" in options:
        options.total_steps = options.epochs * steps_an_epoch
    else:
        budget = min(BUDGET // (batch * steps), MOST_EPOCHS * steps_an_epoch)
        options.total_steps = max(1, budget)
        options.epochs = math.ceil(options.total_steps / steps_an_epoch)


def introduce(options, vocabulary, training, validation, model):
    """Say what is going to happen."""
    size = sum(value.size for value in model.params.values())
    note(
        f"{options.file or 'pydoc_data.topics'}: {len(training)} characters to train on, "
        f"{len(validation)} held out, {len(vocabulary)} different"
    )
    note(
        f"{options.cell}, {options.num_layers} x {options.hidden_size} units, {size} parameters; "
        f"{options.total_steps} steps of {options.batch_size} x {options.num_steps} characters, "
        f"up to {options.epochs} epochs or {options.max_seconds:g} s"
    )


def fit(options, model, training, validation):
    """Train to the end, or to Ctrl-C; leave the best weights in the model, return their loss."""
    total = options.total_steps
    make_optimizer, _ = OPTIMIZERS[options.optimizer]
    schedule = SCHEDULES[options.schedule](options.lr, total)
    records = nprnn.train(
        model,
        training,
        batch_size=options.batch_size,
        num_steps=options.num_steps,
        epochs=options.epochs,
        max_steps=total,
        max_seconds=options.max_seconds,
        optimizer=make_optimizer(model.params),
        lr=nprnn.schedules.warm_up(schedule, min(WARM_UP, total // 10 + 1)),
        max_norm=options.max_norm,
        validation=validation,
        per="step",
        rng=options.seed,
    )
    progress, best = Progress(total, options.max_seconds), Best(model)
    epoch, loss = 1, None
    try:
        for record in records:
            progress.show(record)
            epoch, loss = record.epoch, record.validation_loss
            if loss is not None:
                best.consider(epoch, loss)
        progress.flush()
        if record.step < total:
            note(f"the {options.max_seconds:g} s are over")
    except KeyboardInterrupt:
        note("\nstopped; going on with what has been learned")
        best.consider(epoch, nprnn.evaluate(model, validation))
    if best.epoch < epoch:
        note(f"going back to the weights after epoch {best.epoch}, the best on the held-out text")
    return best.restore()


class Best:
    """The weights with the lowest validation loss: a small text is soon known by heart."""

    def __init__(self, model):
        self.model = model
        self.epoch, self.loss, self.params = 0, math.inf, {}

    def consider(self, epoch, loss):
        """Keep a copy of the weights if they are the best so far, or the first."""
        if loss < self.loss or not self.params:
            self.epoch, self.loss = epoch, loss
            self.params = {name: value.copy() for name, value in self.model.params.items()}

    def restore(self):
        """Put the best weights back; return their loss."""
        for name, value in self.params.items():
            self.model.params[name][...] = value
        return self.loss


class Progress:
    """One line on a terminal, kept up to date; elsewhere plain lines, one in 1 to 10 seconds."""

    def __init__(self, total, max_seconds):
        self.total, self.max_seconds = total, max_seconds
        self.is_terminal = sys.stderr.isatty()
        self.start = time.perf_counter()
        self.last_shown = -math.inf
        self.pending = None
        self.losses = []  # of this epoch

    def show(self, record):
        """Take a step's record, and show it if it is time to."""
        self.losses.append(record.loss)
        ends_epoch = record.validation_loss is not None
        patience = 0.1 if self.is_terminal else 1.0 if ends_epoch else 10.0
        due = time.perf_counter() - self.last_shown > patience
        self.pending = self.line(record) if ends_epoch or due else None
        if due or (ends_epoch and self.is_terminal):
            self.flush(keep=ends_epoch)
        if ends_epoch:
            self.losses.clear()

    def line(self, record):
        """Say where training stands."""
        spent = time.perf_counter() - self.start
        left = spent / record.step * (self.total - record.step)
        loss = sum(self.losses) / len(self.losses)
        facts = [
            f"epoch {record.epoch} ({record.step / self.total:.0%})",
            f"perplexity {nprnn.training.perplexity(loss):.4g}",
            f"{record.tokens_per_second:,.0f} char/s",
            f"{min(left, max(0, self.max_seconds - spent)):.0f} s left",
        ]
        if record.validation_loss is not None:
            facts.insert(2, f"validation {record.validation_perplexity:.4g}")
        else:
            facts.insert(2, f"gradient {record.grad_norm:.2f}")
        return ", ".join(facts)

    def flush(self, keep=True):
        """Print the pending line: over the last one, and to be printed over, on a terminal."""
        if self.pending is None:
            return
        if self.is_terminal:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            note("\r" + self.pending[:width].ljust(width), end="\n" if keep else "")
        else:
            note(self.pending)
        self.pending, self.last_shown = None, time.perf_counter()


def compare(loss, text, vocab_size):
    """Print what the network needs for a character of the held-out text, and what packers need."""
    if loss > math.log(vocab_size):
        note("warning: that is worse than guessing; try a lower --lr, or a longer text")
    data = text.encode("utf-8", "surrogatepass")
    rows = [
        ("this network", loss / math.log(2)),
        ("zlib", 8 * len(zlib.compress(data, 9)) / len(text)),
        ("lzma", 8 * len(lzma.compress(data, preset=9)) / len(text)),
    ]
    perplexity = nprnn.training.perplexity(loss)
    print(f"held-out text, {len(text)} characters: perplexity {perplexity:.3g}")
    # The packers see this text alone; the network has read the rest of it before.
    print("bits per character: " + ", ".join(f"{name} {bits:.3g}" for name, bits in rows))


def write(options, model, vocabulary, prefix):
    """Print the prefix and what the network makes of it, character by character."""
    ids = model.generate(prefix, rng=options.seed, temperature=options.temperature)
    print("\n" + options.prefix, end="")
    for token in itertools.islice(ids, options.length):
        print(vocabulary.tokens[token], end="", flush=True)
    print()


def note(message, end="\n"):
    """Print to standard error."""
    print(message, end=end, file=sys.stderr, flush=True)


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
