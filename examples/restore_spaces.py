"""Many to many: put the spaces back into a text that has lost them.

    python examples/restore_spaces.py [FILE]

Every letter of the text is tagged: does a word begin here or not? What has been read so far leaves
that open (does "the" end here, or go on to "there"?); what comes next settles it. So a network that
also reads backwards has the advantage, and both are trained to see how much. Without FILE the text
is Python's own manual.
"""

import argparse
import math
import os
import re
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products as small as these want one thread

import numpy as np

import nprnn

BATCH, STEPS, HELD_OUT = 32, 100, 0.1


def load(path):
    """Return the letters of the text as ids, the tags, and the vocabulary."""
    words = re.findall(r"[^\W\d_]+", nprnn.read_text(path).lower())
    tags = [place == 0 for word in words for place in range(len(word))]
    letters = "".join(words)
    vocabulary = nprnn.Vocabulary(letters)
    return vocabulary.encode(letters), np.array(tags, np.int64), vocabulary


def windows(array, starts):
    """Return windows of T steps as (T, B)."""
    return array[starts + np.arange(STEPS)[:, None]]


def train(model, ids, tags, steps, lr, rng):
    """Train on windows drawn at random."""
    optimizer = nprnn.SGD(model.params, lr, momentum=0.9)
    for step in range(steps):
        optimizer.lr = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        starts = rng.integers(len(ids) - STEPS + 1, size=BATCH)
        loss, grads, _ = model.loss_and_grads(windows(ids, starts), windows(tags, starts))
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            print(f"step {step + 1}: loss {loss:.4f}", file=sys.stderr)


def scores(predicted, tags):
    """Return the accuracy, and the F1 score of the beginnings of words."""
    hits = int((predicted & tags).sum())
    f1 = 2 * hits / max(1, int(predicted.sum() + tags.sum()))
    return float((predicted == tags).mean()), f1


def main(arguments=None):
    """Train both networks and compare; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="a text in UTF-8")
    parser.add_argument("--hidden-size", type=int, default=64, help="units in each direction")
    parser.add_argument("--steps", type=int, default=4000, help="training steps of each network")
    parser.add_argument("--lr", type=float, default=0.3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    options = parser.parse_args(arguments)
    try:
        ids, tags, vocabulary = load(options.file)
        cut = int(len(ids) * (1 - HELD_OUT))
        if cut < STEPS or len(ids) == cut:
            raise ValueError(
                f"the text is too short: {len(ids)} characters, {STEPS * 2} are needed"
            )
        rows = []
        for bidirectional in (False, True):
            rng = np.random.default_rng(options.seed)
            model = nprnn.SequenceTagger(
                len(vocabulary), options.hidden_size, 2, bidirectional=bidirectional, rng=rng
            )
            train(model, ids[:cut], tags[:cut], options.steps, options.lr, rng)
            predicted = model(ids[cut:])[0].argmax(axis=-1)  # the held-out text as one sequence
            rows.append(("both directions" if bidirectional else "one direction", predicted))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"held-out text, {len(ids) - cut} letters{'':12} accuracy  F1 of beginnings")
    for name, predicted in [("one long word", np.zeros_like(tags[cut:])), *rows]:
        accuracy, f1 = scores(predicted, tags[cut:])
        print(f"{name:>38} {accuracy:8.2%} {f1:15.3f}")
    letters = vocabulary.decode(ids[cut : cut + 300])
    for name, predicted in rows:
        text = (
            "".join(f" {a}" if b else a for a, b in zip(letters, predicted, strict=False))
        ).strip()
        print(f"\n{name}:\n{text}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
