"""What a checkpoint costs to save and to load, beside writing the same bytes and nothing more.

    python benchmarks/save.py

Writing is an fsync of the file, a rename and an fsync of the folder in both. A save also checks,
hashes and describes what it writes. The marginal cost is the slope between two sizes: what each
further 2 MB take.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time

SIZES = [0.1, 0.5, 2, 6, 20, 60]  # megabytes
LIMIT = 5.0  # milliseconds for each 2 MB, beyond a fixed cost


def trained(megabytes):
    """Return a checkpoint of about that size: an LSTM's weights, and two moments of Adam."""
    import numpy as np

    import nprnn
    from nprnn.checkpoint import Checkpoint
    from nprnn.training import Position

    vocabulary = nprnn.Vocabulary([chr(i) for i in range(32, 97)])
    V, count = len(vocabulary), megabytes * 1e6 / 12  # parameters: 8 H² + (9 + 2 V) H + V
    hidden = round((math.hypot(9 + 2 * V, (32 * count) ** 0.5) - 9 - 2 * V) / 16)
    model = nprnn.LanguageModel(len(vocabulary), hidden, cell="lstm", embedding_size=hidden, rng=0)
    optimizer = nprnn.Adam(model.params)
    rng = np.random.default_rng(0)
    optimizer.step({name: rng.random(v.shape, np.float32) for name, v in model.params.items()})
    text = {"name": "a.txt", "characters": 1, "sha256": "0" * 64}
    return Checkpoint(model, vocabulary, optimizer, Position(), text)


def write(path, content):
    """Replace a file by these bytes, so that a power cut leaves the one or the other."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def milliseconds(task):
    """Return how long a task takes."""
    start = time.perf_counter()
    task()
    return 1e3 * (time.perf_counter() - start)


def measure(megabytes, folder, rounds):
    """Return the size in bytes, and medians in ms of saving, plainly writing and loading.

    The three take turns, and the ratio is the median of those within a round.
    """
    from nprnn import checkpoint

    one, path, plain = trained(megabytes), os.path.join(folder, "a"), os.path.join(folder, "b")
    checkpoint.save(path, one)
    with open(path, "rb") as file:
        content = file.read()
    tasks = (
        lambda: checkpoint.save(path, one),
        lambda: write(plain, content),
        lambda: checkpoint.load(path),
    )
    times = [[milliseconds(task) for task in tasks] for _ in range(rounds)]
    ratio = statistics.median(saved / written for saved, written, _ in times)
    return len(content), *map(statistics.median, zip(*times, strict=True)), ratio


def main():
    """Print a row for each size, and the marginal cost; fail if it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=41, help="for each size (default: 41)")
    parser.add_argument("--folder", default=".", help="where to write (default: here)")
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("    file    save   plain  ratio    load  (ms)")
        rows = []
        for megabytes in SIZES:
            row = size, saved, plain, loaded, ratio = measure(megabytes, folder, options.rounds)
            print(f"{size / 1e6:5.1f} MB {saved:7.2f} {plain:7.2f} {ratio:6.2f} {loaded:7.2f}")
            rows.append(row)
    slope, fixed = statistics.linear_regression(
        [size / 2e6 for size, *_ in rows], [saved for _, saved, *_ in rows]
    )
    print(f"a save: {fixed:.1f} ms, and {slope:.2f} ms for each 2 MB (the limit is {LIMIT:g})")
    return int(slope > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
