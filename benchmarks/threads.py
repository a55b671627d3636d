"""Time a training step with one thread, with more of BLAS, and with parts of the batch in threads.

    python benchmarks/threads.py [--cell CELL] [--threads N] [--seconds S] [--json FILE]

All take turns in one process. A turn begins when the threads of the one before have stopped waiting
for more work; a ratio is the median of those within a round, to one thread.
"""

import common

parser = common.arguments(__doc__, peers=[], seconds=6.0)
parser.set_defaults(threads=2)
options = parser.parse_args()
common.start(options)

import statistics
import time

import peers

from nprnn.blas import openblas

PATIENCE = 0.15  # seconds that OpenBLAS' threads look out for the next product
WAYS = {"one": (1, 1), "BLAS": (options.threads, 1), "parts": (1, options.threads)}


def rounds(point):
    """Return the median times of each way, one a round."""
    steps = {
        name: peers.train_nprnn(options.cell, point, threads) for name, (_, threads) in WAYS.items()
    }
    draw, library, times = peers.draw_batches(point), openblas(), {name: [] for name in WAYS}
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times["one"]) < 5:
        for name, (of_blas, _) in WAYS.items():
            library.set_threads(of_blas)
            time.sleep(PATIENCE)
            steps[name](*draw())
            own = [common.timed(steps[name], draw) for _ in range(5)]
            times[name].append(statistics.median(own))
    return times


def main():
    """Print the table."""
    if not openblas().core:
        raise SystemExit("NumPy's BLAS is not the OpenBLAS of its wheel: its threads are not known")
    grid = common.GRID if options.cell == "rnn" else common.MIDDLE
    print(f"{options.cell}, {options.threads} threads")
    print(f"{'V, H, T, B':>18}  {'one ms':>9}  {'BLAS ms':>9} ratio  {'parts ms':>9} ratio")
    rows = []
    for point in common.chosen(grid, options):
        times = rounds(point)
        row = {"V,H,T,B": point}
        row |= {f"{name}_ms": 1e3 * statistics.median(own) for name, own in times.items()}
        for name in ("BLAS", "parts"):
            row[f"ratio_{name}"] = common.ratio(times[name], times["one"])
        print(
            f"{', '.join(map(str, point)):>18}  {row['one_ms']:9.3f}"
            f"  {row['BLAS_ms']:9.3f} {row['ratio_BLAS']:5.2f}"
            f"  {row['parts_ms']:9.3f} {row['ratio_parts']:5.2f}",
            flush=True,
        )
        rows.append(row)
    common.finish(options, common.facts(options, []), rows, cell=options.cell)


if __name__ == "__main__":
    main()
