"""Time a whole training step, beside PyTorch's where it is installed.

    python benchmarks/train_step.py [--cell CELL] [--threads N] [--seconds S] [--json FILE]

One step is: a new batch of token ids in; loss, gradients, clipping by norm, one step of SGD. The
peer does the same with `nn.RNN`, or another cell's layer, on one-hot vectors, `nn.Linear`,
`cross_entropy`, `clip_grad_norm_` and `SGD`. Both take turns, step by step, in one process with the
same number of threads, so that a machine that speeds up or slows down does so for both; the ratio
is the median of the ratios of neighbouring steps.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

GRID = [
    (28, 64, 35, 1),
    (28, 256, 35, 1),
    (28, 256, 35, 32),
    (28, 512, 35, 32),
    (1027, 256, 35, 32),
]


def ours(V, H):
    """Return a function that takes a step with nprnn."""
    model = nprnn.LanguageModel(V, H, cell=options.cell, rng=0)
    optimizer = nprnn.SGD(model.params, lr=0.1)

    def step(inputs, targets):
        loss, grads, _ = model.loss_and_grads(inputs, targets)
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        return float(loss)

    return step


def torchs(V, H):
    """Return a function that takes the same step with PyTorch."""
    rnn, readout = getattr(torch.nn, options.cell.upper())(V, H), torch.nn.Linear(H, V)
    params = [*rnn.parameters(), *readout.parameters()]
    optimizer = torch.optim.SGD(params, lr=0.1)

    def step(inputs, targets):
        optimizer.zero_grad()
        hidden, _ = rnn(torch.nn.functional.one_hot(torch.from_numpy(inputs), V).float())
        logits = readout(hidden).reshape(-1, V)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        return loss.item()

    return step


def measure(point, makers, seconds):
    """Return each maker's times of a step at (V, H, T, B), taken in turn."""
    V, H, T, B = point
    rng = np.random.default_rng(0)
    steps = [make(V, H) for make in makers]
    times = [[] for _ in makers]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 13:
        inputs, targets = rng.integers(0, V, (2, T, B))
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step(inputs, targets)
            taken.append(time.perf_counter() - start)
    return [taken[3:] for taken in times]  # the first steps allocate


def summary(point, times):
    """Return the medians, quartiles and the ratio at one point."""
    quarters = [statistics.quantiles(taken, n=4) for taken in times]
    row = {"V,H,T,B": point, "nprnn_ms": [1e3 * quarter for quarter in quarters[0]]}
    if len(times) == 2:
        row["torch_ms"] = [1e3 * quarter for quarter in quarters[1]]
        row["ratio"] = statistics.median(a / b for a, b in zip(*times, strict=True))
    return row


def main():
    """Print the table."""
    print(f"{'V, H, T, B':>18}  {'nprnn ms':>9} {'quartiles':>15}  {'torch ms':>9}  ratio")
    rows = []
    for point in GRID:
        row = summary(point, measure(point, [ours, *([torchs] if torch else [])], options.seconds))
        rows.append(row)
        low, middle, high = row["nprnn_ms"]
        line = f"{', '.join(map(str, point)):>18}  {middle:9.3f} {f'{low:.3f}..{high:.3f}':>15}"
        if torch:
            line += f"  {row['torch_ms'][1]:9.3f}  {row['ratio']:5.2f}"
        print(line, flush=True)
    facts = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__ if torch else None,
        "cell": options.cell,
        "threads": options.threads,
        "machine": platform.machine(),
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**facts, "rows": rows}, file, indent=1)


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--cell", choices=["rnn", "gru", "lstm"], default="rnn")
parser.add_argument("--threads", type=int, default=1, help="of both (default: %(default)s)")
parser.add_argument("--seconds", type=float, default=5.0, help="a point (default: %(default)s)")
parser.add_argument("--json", metavar="FILE", help="write the results there as well")
options = parser.parse_args()

# The number of threads is read when the libraries are loaded.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np

import nprnn

try:
    import torch

    torch.set_num_threads(options.threads)
except ModuleNotFoundError:
    torch = None
    print("PyTorch is not installed: timing nprnn alone", file=sys.stderr)

if __name__ == "__main__":
    main()
