"""What the benchmarks share: the grid, threads, taking turns, and the limit of the machine.

Nothing here loads NumPy before `start` has set the number of threads: it is read once, on loading.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time

GRID = [  # V, H, T, B
    (28, 64, 35, 1),
    (65, 100, 25, 1),
    (28, 256, 35, 1),
    (28, 128, 50, 16),
    (28, 256, 35, 32),
    (28, 512, 35, 32),
    (65, 512, 50, 50),
    (1027, 256, 35, 32),
    (65, 256, 100, 128),
    (28, 1024, 35, 32),
    (28, 256, 1000, 8),
]
MIDDLE = GRID[3:8]
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def arguments(description, peers, seconds, cells=True):
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    if cells:
        add("--cell", choices=list(GATES), default="rnn", help="kind of layer")
    add("--threads", type=int, default=1, help="of all that take part")
    add("--seconds", type=float, default=seconds, help="a point, for all that take part")
    add("--points", metavar="I,J,...", help="which points of the grid, counted from 0 (all)")
    add("--peers", default=",".join(peers), help="whom to measure beside; the absent are left out")
    add("--json", metavar="FILE", help="write the results there as well")
    add("--keep-coretype", action="store_true", help="leave OPENBLAS_CORETYPE as it is set")
    return parser


def start(options):
    """Bind the process to as many processors as threads were asked for, before NumPy is loaded.

    `OPENBLAS_CORETYPE` in the environment is dropped, unless it is to be kept: it makes NumPy's
    products, and no peer's, run with the instructions of an older processor.
    """
    if not options.keep_coretype and os.environ.pop("OPENBLAS_CORETYPE", None):
        print("OPENBLAS_CORETYPE is set, and ignored: see --keep-coretype", file=sys.stderr)
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    if hasattr(os, "sched_setaffinity"):  # the only thing that JAX's thread pool listens to
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < options.threads:
            sys.exit(f"{options.threads} threads asked for, {len(allowed)} processors to be had")
        os.sched_setaffinity(0, allowed[: options.threads])


def chosen(points, options):
    """Return the points of the grid that were asked for."""
    if options.points is None:
        return points
    return [points[int(index)] for index in options.points.split(",")]


def present(names):
    """Return those of the peers that are installed, and say which are not."""
    found = []
    for name in names.split(",") if names else []:
        if importlib.util.find_spec("onnxruntime" if name == "onnx" else name):
            found.append(name)
        else:
            print(f"{name} is not installed, and left out", file=sys.stderr)
    return found


def take_turns(tasks, draw, seconds):
    """Run tasks in turn until the time is over; return each one's times, a median a turn.

    A turn is a few runs, of which the first is not counted: the task before has left its data in
    the caches and its threads spinning. A machine that slows down does so for all, so it is the
    ratios within a round that count.
    """
    for task in tasks:
        task(*draw())
        task(*draw())  # the first may have compiled
    spans = [timed(task, draw) for task in tasks]
    size = max(1, min(50, round(0.02 / max(spans))))
    turns = [[] for _ in tasks]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(turns[0]) < 5:
        for task, own in zip(tasks, turns, strict=True):
            task(*draw())
            own.append(statistics.median(timed(task, draw) for _ in range(size)))
    return turns


def timed(task, draw):
    """Return how long a run takes, in seconds; what it is given is drawn before."""
    given = draw()
    start = time.perf_counter()
    task(*given)
    return time.perf_counter() - start


def quartiles(times):
    """Return the quartiles of times in seconds, in milliseconds."""
    return [1e3 * quarter for quarter in statistics.quantiles(times, n=4)]


def ratio(times, others):
    """Return the median over the rounds of our time by the other's."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def geometric_mean(numbers):
    """Return the geometric mean."""
    return statistics.geometric_mean(numbers)


def step_flops(cell, point):
    """Return the floating-point operations of a training step's matrix products.

    Forward, gradient of what went in, gradient of the weights: of W_hh, and of the read-out. With
    one-hot input W_ih takes none: rows are gathered.
    """
    V, H, T, B = point
    return 3 * 2 * T * B * (GATES[cell] * H * H + H * V)


def flops_per_second(seconds=2.0):
    """Return the rate of a float32 product of 2048 x 2048 matrices on this machine."""
    import numpy as np

    a, b = np.random.default_rng(0).standard_normal((2, 2048, 2048), np.float32)
    out = np.empty_like(a)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        np.matmul(a, b, out=out)
        times.append(time.perf_counter() - begin)
    return 2 * 2048**3 / statistics.median(times)


def facts(options, peers):
    """Return what a reader must know about the machine and the versions."""
    import numpy as np

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = {
        name: importlib.metadata.version("onnxruntime" if name == "onnx" else name)
        for name in peers
    }
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas.get('name')} {blas.get('version')}",
        **versions,
        "threads": options.threads,
        "processor": processor(),
    }


def processor():
    """Return the processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line for line in file if line.startswith("model name")).split(": ")[1][:-1]
    except (OSError, StopIteration):
        return platform.machine()


def finish(options, known, rows, **more):
    """Print the facts, and write everything as JSON if asked to."""
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**known, **more, "rows": rows}, file, indent=1)
