"""Time `import nprnn` against `import numpy`, in fresh processes that take turns.

    python benchmarks/import_time.py

Run it where the package is installed: without compiled bytecode, compiling is what it measures.
"""

import os
import statistics
import subprocess
import sys
import time

RUNS = 40


def seconds(code, environment):
    """Return how long a fresh interpreter takes for the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return time.perf_counter() - start


def main():
    """Print medians and their ratio."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    seconds("import nprnn", environment)
    pairs = [
        (seconds("import numpy", environment), seconds("import nprnn", environment))
        for _ in range(RUNS)
    ]
    numpy, nprnn = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"import numpy {1e3 * numpy:.1f} ms, import nprnn {1e3 * nprnn:.1f} ms: {ratio:.2f}")


if __name__ == "__main__":
    main()
