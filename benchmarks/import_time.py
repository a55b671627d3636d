"""Time `import nprnn`, or of other modules, beside `import numpy`, in fresh processes by turns.

    python benchmarks/import_time.py [MODULE ...]

Run it where they are installed: without compiled bytecode, compiling is what it measures.
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
    for module in sys.argv[1:] or ["nprnn"]:
        seconds(f"import {module}", environment)
        pairs = [
            (seconds("import numpy", environment), seconds(f"import {module}", environment))
            for _ in range(RUNS)
        ]
        numpy, other = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"import numpy {numpy:.1f} ms, import {module} {other:.1f} ms: {ratio:.2f}")


if __name__ == "__main__":
    main()
