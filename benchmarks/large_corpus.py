"""Train on a text that is larger than the memory it is given, and tell how much that took.

    python benchmarks/large_corpus.py [--gigabytes 2] [--steps 300]

Writes such a text into a temporary folder, encodes it block by block, trains for some steps in each
order of the batches, and prints times and the resident memory at its highest. Needs twice the space
on the disk.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import nprnn

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--gigabytes", type=float, default=2.0, help="size (default: %(default)s)")
parser.add_argument("--steps", type=int, default=300, help="of training (default: %(default)s)")
options = parser.parse_args()


def report(what, start):
    """Print how long something took, and the memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:34} {time.perf_counter() - start:6.1f} s, at most {peak:4.0f} MiB", flush=True)


def main():
    """Write, encode, train."""
    begin = time.perf_counter()
    report("imported", begin)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book.txt"
        page = nprnn.read_text().encode()
        with path.open("wb") as file:
            for _ in range(round(options.gigabytes * 2**30 / len(page))):
                file.write(page)
        report(f"wrote {path.stat().st_size / 2**30:.2f} GiB", begin)
        start = time.perf_counter()
        tokens, vocabulary = nprnn.encode_file(path)
        report(f"encoded {len(tokens):,} characters", start)
        for order in ("sequential", "random"):
            start = time.perf_counter()
            model = nprnn.LanguageModel(len(vocabulary), 128, rng=0)
            for record in nprnn.train(  # noqa: B007
                model, tokens, max_steps=options.steps, order=order, per="step", rng=0
            ):
                pass
            report(f"{record.step} steps in {order} order", start)


if __name__ == "__main__":
    main()
