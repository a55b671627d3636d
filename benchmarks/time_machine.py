"""Run the textbook chapter's setting, and print perplexity and tokens per second.

    python benchmarks/time_machine.py FILE

FILE is The Time Machine. Setting: first 10,000 characters, vocabulary 28, batch 32, 35 steps,
learning rate 1, gradients clipped to norm 1, 500 epochs. Published: perplexity 1.0 with 512 units
and windows that follow each other, 1.5 with random windows, at 67,212.6 tokens per second on a GPU;
1.3 with the ready-made layer and 256 units.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import nprnn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from rnn_from_scratch import load_corpus

RUNS = [(512, "sequential", 1.0), (512, "random", 1.5), (256, "sequential", 1.3)]


def small_normal(model, seed):
    """Draw the weights as the chapter does: 0.01 times standard normal, biases 0."""
    rng = np.random.default_rng(seed)
    for name, value in model.params.items():
        value[...] = 0 if "bias" in name else 0.01 * rng.standard_normal(value.shape)


def main():
    """Train the three networks of the chapter."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus, vocab = load_corpus(nprnn.read_text(options.file), max_tokens=10_000)
    print("units  windows     perplexity  published  tokens/s  seconds")
    for hidden_size, order, published in RUNS:
        model = nprnn.LanguageModel(len(vocab), hidden_size, rng=options.seed)
        if hidden_size == 512:  # the ready-made layer keeps its own initialisation
            small_normal(model, options.seed)
        records = list(
            nprnn.train(
                model,
                corpus,
                batch_size=32,
                num_steps=35,
                epochs=options.epochs,
                lr=1.0,
                max_norm=1.0,
                order=order,
                rng=options.seed,
            )
        )
        seconds = sum(record.seconds for record in records)
        speed = sum(record.tokens for record in records) / seconds
        print(
            f"{hidden_size:5}  {order:10}  {records[-1].perplexity:10.2f}  {published:9.1f}  "
            f"{speed:8,.0f}  {seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
