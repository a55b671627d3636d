"""Real values: go on with the carbon dioxide in the air, one month and up to a year ahead.

    python examples/forecast_series.py

The series is that of statsmodels, Mauna Loa from 1958 to 2001, which comes with the package. The
network learns from the years before 1985. What it is compared with costs nothing: the last value
again, and the value of the same month a year before.
"""

import argparse
import math
import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # products as small as these want one thread

import numpy as np

import nprnn

SPLIT, CYCLE = "1985", 12  # months
AHEAD, WINDOW, BATCH = 12, 60, 16  # months, months, windows


def load():
    """Return the mean of each month in parts per million, and the place of the first test month."""
    from statsmodels.datasets import co2

    months = co2.load_pandas().data["co2"].resample("MS").mean()
    # The few months without a measurement lie in the first years, all of them before the split.
    return months.interpolate().to_numpy(), int(months.index.searchsorted(SPLIT))


def examples(values, starts):
    """Return windows (T, B, 1), and for each of their months the values that follow, (T, B, K)."""
    ahead = [values[start + 1 :][: WINDOW + AHEAD - 1] for start in starts]
    targets = [np.lib.stride_tricks.sliding_window_view(row, AHEAD) for row in ahead]
    inputs = [values[start : start + WINDOW] for start in starts]
    return np.stack(inputs, axis=1)[..., None], np.stack(targets, axis=1)


def train(model, values, epochs, lr, rng):
    """Train on windows from all over the months before the split."""
    optimizer = nprnn.SGD(model.params, lr, momentum=0.9, weight_decay=1e-3)
    starts = np.arange(len(values) - WINDOW - AHEAD + 1)
    counts = np.broadcast_to(np.arange(WINDOW)[:, None] >= CYCLE, (WINDOW, BATCH))  # after a cycle
    for epoch in range(epochs):
        optimizer.lr = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = rng.permutation(starts)
        for first in range(0, len(order) - BATCH + 1, BATCH):
            inputs, targets = examples(values, order[first : first + BATCH])
            loss, grads, _ = model.loss_and_grads(inputs, targets, mask=counts)
            nprnn.clip_grad_norm(grads, 1.0)
            optimizer.step(grads)
        if (epoch + 1) % 20 == 0 or epoch + 1 == epochs:
            print(f"epoch {epoch + 1}: loss {loss:.3f}", file=sys.stderr)


def error(series, split, forecast, ahead):
    """Return the root mean square error over the test months; `forecast` gives a month's value."""
    months = np.arange(split, len(series))
    guesses = np.array([forecast(month, ahead) for month in months])
    return float(np.sqrt(np.mean((guesses - series[months]) ** 2)))


def main(arguments=None):
    """Train and compare; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--hidden-size", type=int, default=32, help="units")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the windows")
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate to begin with")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    options = parser.parse_args(arguments)
    try:
        series, split = load()
        rng = np.random.default_rng(options.seed)
        model = nprnn.SequenceRegressor(1, options.hidden_size, AHEAD, rng=rng)
        # The network sees the change from month to month, in units that training alone gives.
        changes = np.diff(series)
        mean, spread = changes[: split - 1].mean(), changes[: split - 1].std()
        values = ((changes - mean) / spread).astype(np.float32)
        train(model, values[: split - 1], options.epochs, options.lr, rng)
    except ModuleNotFoundError:
        print("this needs statsmodels: pip install 'nprnn[examples]'", file=sys.stderr)
        return 2
    except ValueError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    # Row t, column k: having read the changes up to t, what comes on top of series[t + 1] until
    # k + 1 months later.
    rise = np.cumsum(model(values[:, None])[0] * spread + mean, axis=1)
    methods = {
        "network": lambda month, ahead: series[month - ahead] + rise[month - ahead - 1, ahead - 1],
        "last value": lambda month, ahead: series[month - ahead],
        "year before": lambda month, ahead: series[month - CYCLE],
    }
    print(f"root mean square error in parts per million, {SPLIT} to 2001")
    print(f"{'months ahead':>12}" + "".join(f"{name:>13}" for name in methods))
    for ahead in (1, 3, 6, 12):
        row = (f"{error(series, split, forecast, ahead):13.2f}" for forecast in methods.values())
        print(f"{ahead:>12}" + "".join(row))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
