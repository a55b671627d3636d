"""What a time of training buys: validation loss on a text, and PyTorch's beside it.

    python benchmarks/train_text.py FILE --cell lstm --num-layers 2 --seconds 600 --threads 2

The first 90 % of the text train, the rest validates: every character of it is scored, the state
carried from its beginning to its end. The learning rate falls along a cosine over the time given,
so the time is used up whatever the machine. With --torch the same model is then trained by
PyTorch: from the same weights, on the same batches, with the same optimizer and rates.
"""

import argparse
import math
import os
import sys
import time

parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
)
add = parser.add_argument
add("file", metavar="FILE")
add("--cell", choices=["rnn", "gru", "lstm"], default="rnn")
add("--hidden-size", type=int, default=256)
add("--num-layers", type=int, default=1)
add("--dropout", type=float, default=0.0, help="of each layer's output")
add("--batch-size", type=int, default=32)
add("--num-steps", type=int, default=64)
add("--optimizer", choices=["adam", "sgd"], default="adam", help="sgd with momentum 0.9")
add("--lr", type=float, default=0.005, help="peak")
add("--seconds", type=float, default=60.0, help="of training, validation not counted")
add("--threads", type=int, default=2)
add("--seed", type=int, default=0)
add("--torch", action="store_true", help="train with PyTorch as well")
options = parser.parse_args()

# The number of threads is read when the libraries are loaded.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np

import nprnn

WARM_UP = 100  # steps
MAX_NORM = 1.0


class Clock:
    """The learning rate as a function of the time that training took."""

    def __init__(self):
        self.start = time.perf_counter()
        self.steps = 0

    @property
    def part(self):
        """How much of the time has passed, from 0 to 1."""
        return min(1.0, (time.perf_counter() - self.start) / options.seconds)

    def rate(self, _step=None):
        """Rise over the first steps, then fall to 0 along a cosine."""
        self.steps += 1
        fall = 0.5 * (1 + math.cos(math.pi * self.part))
        return options.lr * min(1.0, self.steps / WARM_UP) * fall


def build(vocab_size):
    """Return the model before training."""
    return nprnn.LanguageModel(
        vocab_size,
        options.hidden_size,
        num_layers=options.num_layers,
        cell=options.cell,
        dropout=options.dropout,
        recurrent_init="orthogonal",
        rng=options.seed,
    )


def ours(vocab_size, training, validation):
    """Train with this package; return the steps taken and the loss."""
    model, clock = build(vocab_size), Clock()
    if options.optimizer == "adam":
        optimizer = nprnn.Adam(model.params, 0.0)
    else:
        optimizer = nprnn.SGD(model.params, 0.0, momentum=0.9)
    records = nprnn.train(
        model,
        training,
        batch_size=options.batch_size,
        num_steps=options.num_steps,
        epochs=10**6,
        max_seconds=options.seconds,
        optimizer=optimizer,
        lr=clock.rate,
        max_norm=MAX_NORM,
        threads=options.threads,
        per="step",
        rng=options.seed,
    )
    for record in records:
        if sys.stderr.isatty() and record.step % 50 == 0:
            print(f"\r{clock.part:.0%} {record.loss:.3f} ", end="", file=sys.stderr)
    return record.step, nprnn.evaluate(model, validation)


def torchs(vocab_size, training, validation):
    """Train with PyTorch; return the steps taken and the loss."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sizes = options.hidden_size, options.num_layers
    between = options.dropout if options.num_layers > 1 else 0.0
    layer = getattr(torch.nn, options.cell.upper())(vocab_size, *sizes, dropout=between)
    drop = torch.nn.Dropout(options.dropout)
    model = torch.nn.ModuleDict(
        {"rnn": layer, "readout": torch.nn.Linear(options.hidden_size, vocab_size)}
    )
    start = build(vocab_size).params
    model.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
    if options.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)

    def loss_of(inputs, targets, state):
        vectors = torch.nn.functional.one_hot(torch.from_numpy(inputs), vocab_size).float()
        hidden, state = model["rnn"](vectors, state)
        logits = model["readout"](drop(hidden)).reshape(-1, vocab_size)
        flat = torch.from_numpy(targets).reshape(-1)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        return torch.nn.functional.cross_entropy(logits, flat), state

    clock, rng, steps = Clock(), np.random.default_rng(options.seed), 0
    while clock.part < 1:
        state = None
        for inputs, targets in nprnn.sequential_batches(
            training, options.batch_size, options.num_steps, rng=rng
        ):
            for group in optimizer.param_groups:
                group["lr"] = clock.rate()
            optimizer.zero_grad()
            loss, state = loss_of(inputs.astype(np.int64), targets.astype(np.int64), state)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            steps += 1
            if clock.part == 1:
                break
    model.eval()
    drop.eval()
    state, total = None, 0.0
    with torch.no_grad():
        for begin in range(0, len(validation) - 1, 512):
            window = validation[begin : begin + 513].astype(np.int64)[:, None]
            loss, state = loss_of(window[:-1], window[1:], state)
            total += loss.item() * (len(window) - 1)
    return steps, total / (len(validation) - 1)


def main():
    """Train, and print a line for each."""
    text = nprnn.read_text(options.file)
    vocabulary = nprnn.Vocabulary(text)
    tokens = vocabulary.encode(text)
    end = int(0.9 * len(tokens))
    for name, train in [("nprnn", ours), *([("torch", torchs)] if options.torch else [])]:
        steps, loss = train(len(vocabulary), tokens[:end], tokens[end:])
        characters = steps * options.batch_size * options.num_steps
        print(
            f"{name}: {options.cell} {options.num_layers} x {options.hidden_size}, "
            f"{options.optimizer} {options.lr:g}, batch {options.batch_size}, "
            f"{options.seconds:g} s, {steps} steps, {characters / options.seconds:,.0f} char/s, "
            f"validation {loss:.4f} nats, {loss / math.log(2):.3f} bits a character",
            flush=True,
        )


if __name__ == "__main__":
    main()
