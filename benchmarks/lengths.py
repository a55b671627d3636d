"""Time a training pass over padded batches: the cost should follow the valid steps.

    python benchmarks/lengths.py

A batch in which half of all steps are padding, beside the same batch without lengths, in turn;
forward and backward, float32, one thread. The ratio is the median of those of neighbouring runs.
"""

import os
import statistics
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

import nprnn

POINTS = [(64, 64, 50, 16), (64, 128, 50, 32), (64, 256, 35, 32), (64, 512, 35, 32)]  # I, H, T, B


def main():
    """Print the table."""
    rng = np.random.default_rng(0)
    print("    I, H, T, B  directions  half padding / full")
    for I, H, T, B in POINTS:  # noqa: E741
        for bidirectional in (False, True):
            layer = nprnn.RNN(I, H, bidirectional=bidirectional, rng=0)
            x = rng.standard_normal((T, B, I), np.float32)
            half = rng.permutation(np.linspace(0, T, B).round().astype(int))
            ratios = []
            for _ in range(40):
                times = []
                for lengths in (half, None):
                    start = time.perf_counter()
                    output, state, cache = layer.forward(x, lengths=lengths)
                    layer.backward(output, state, cache)
                    times.append(time.perf_counter() - start)
                ratios.append(times[0] / times[1])
            point = ", ".join(map(str, (I, H, T, B)))
            print(f"{point:>14}  {layer.num_directions:10}  {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
