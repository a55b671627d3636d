"""How time grows with the length of the sequence, the batch, the units and the corpus.

    python benchmarks/scaling.py [--threads N] [--json FILE]

Each table ends with the exponent of a power law fitted to it: 1 is linear. The longest sequences
run with states computed again (`recompute_every="auto"`); beside their time stands the resident
memory at its highest. Ratios of computing again to keeping everything are at the end.
"""

import resource

import common

parser = common.arguments(__doc__, peers=[], seconds=3.0)
options = parser.parse_args()
common.start(options)

import numpy as np
import peers

import nprnn

LENGTHS = (1000, 3000, 10_000, 30_000, 100_000)


def step(point, **more):
    """Return a function that computes a loss and its gradients."""
    network = peers.model(options.cell, point)
    return lambda inputs, targets: network.loss_and_grads(inputs, targets, **more)


def seconds_of(task, draw, budget):
    """Return the median time of a run."""
    task(*draw())
    times = [common.timed(task, draw) for _ in range(3)]
    while sum(times) < budget and len(times) < 100:
        times.append(common.timed(task, draw))
    return sorted(times)[len(times) // 2]


def exponent(sizes, times):
    """Return the slope of log time against log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def table(name, sizes, measure):
    """Print a table of time against size, and return it."""
    times = []
    for size in sizes:
        times.append(measure(size))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name:>9} {size:9,}  {1e3 * times[-1]:11.3f} ms  {peak:6.0f} MiB", flush=True)
    power = exponent(sizes, times)
    print(f"{name:>9}  exponent {power:.3f}\n")
    return {"sizes": list(sizes), "seconds": times, "exponent": power}


def over(make_point, **more):
    """Return a function from size to time, of steps at the points of a family."""

    def measure(size):
        point = make_point(size)
        return seconds_of(step(point, **more), peers.draw_batches(point), options.seconds)

    return measure


def corpus(size):
    """Return the time of an epoch over a corpus of so many tokens."""
    tokens = np.random.default_rng(0).integers(0, 28, size).astype(np.uint8)
    network = nprnn.LanguageModel(28, 64, cell=options.cell, rng=0)
    (record,) = nprnn.train(network, tokens, batch_size=32, num_steps=35, rng=0)
    return record.seconds


def main():
    """Print the tables."""
    print(f"{options.cell}, {options.threads} threads")
    rows = {
        "T": table("T", LENGTHS, over(lambda T: (28, 256, T, 8), recompute_every="auto")),
        "B": table("B", (8, 16, 32, 64, 128, 256), over(lambda B: (28, 256, 35, B))),
        "H": table("H", (128, 256, 512, 1024), over(lambda H: (28, H, 35, 32))),
        "corpus": table("corpus", (10**5, 10**6, 10**7), corpus),
    }
    point = (28, 256, 10_000, 8)
    again, kept = common.take_turns(
        [step(point, recompute_every="auto"), step(point)],
        peers.draw_batches(point),
        4 * options.seconds,
    )
    rows["recompute"] = common.ratio(again, kept)
    print(f"T = 10,000: computing again takes {rows['recompute']:.2f} of the time")
    common.finish(options, common.facts(options, []), rows, cell=options.cell)


if __name__ == "__main__":
    main()
