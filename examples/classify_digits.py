"""Many to one: read the image of a digit row by row, and say which digit it is.

    python examples/classify_digits.py

The images are those of scikit-learn (1,797 of 8 by 8 pixels), which come with the package.
"""

import argparse
import math
import os
import sys
from collections import Counter

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products as small as these want one thread

import numpy as np

import nprnn

BATCH, TEST = 32, 360


def load(rng):
    """Return training and test images as (T=8 rows, B, I=8 pixels), and their digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = rng.permutation(len(digits.target))
    rows = (digits.images[order] / 16).astype(np.float32).transpose(1, 0, 2)
    labels = digits.target[order]
    return rows[:, TEST:], labels[TEST:], rows[:, :TEST], labels[:TEST]


def train(model, rows, labels, epochs, lr, rng):
    """Train with momentum, along a cosine; say how it goes."""
    optimizer = nprnn.SGD(model.params, lr, momentum=0.9)
    for epoch in range(epochs):
        optimizer.lr = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = rng.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            _, grads, _ = model.loss_and_grads(rows[:, chosen], labels[chosen])
            nprnn.clip_grad_norm(grads, 1.0)
            optimizer.step(grads)
        if (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
            right = accuracy(model, rows, labels)
            print(f"epoch {epoch + 1}: training accuracy {right:.1%}", file=sys.stderr)


def accuracy(model, rows, labels):
    """Return the share of images whose digit is the likeliest."""
    logits, _ = model(rows)
    return float((logits.argmax(axis=-1) == labels).mean())


def main(arguments=None):
    """Train and test; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--hidden-size", type=int, default=64, help="units in each direction")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the images")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate to begin with")
    parser.add_argument("--seed", type=int, default=0, help="of the split, weights and batches")
    options = parser.parse_args(arguments)
    try:
        rng = np.random.default_rng(options.seed)
        rows, labels, test_rows, test_labels = load(rng)
        model = nprnn.SequenceClassifier(8, options.hidden_size, 10, bidirectional=True, rng=rng)
        train(model, rows, labels, options.epochs, options.lr, rng)
    except ModuleNotFoundError:
        print("this needs scikit-learn: pip install 'nprnn[examples]'", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"test accuracy {accuracy(model, test_rows, test_labels):.1%} of {TEST} images")
    logits, _ = model(test_rows)
    pairs = zip(test_labels.tolist(), logits.argmax(axis=-1).tolist(), strict=True)
    mistakes = Counter(f"{truth} read as {guess}" for truth, guess in pairs if truth != guess)
    common = [f"{mistake} ({times})" for mistake, times in mistakes.most_common(8)]
    print("most frequent mistakes: " + (", ".join(common) or "none"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
