"""Train many small networks on a text, over all ranks of MPI, and list them, the best first.

    python examples/grid.py [FILE] [options]                                one after the other
    mpiexec -n 3 python -m mpi4py.futures examples/grid.py [FILE] [options]  on two at once

Every combination of the values is a training by itself, with one thread; the first of the ranks
only hands them out. Without a file it is English that comes with Python, of which the first
--characters are read.
"""

import argparse
import concurrent.futures
import itertools
import os
import sys

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import nprnn

NAMES = ("cell", "hidden_size", "lr", "seed")


def main(arguments=None):
    """Run the grid; return the exit status."""
    options = parse(arguments)
    axes = (options.cells, options.hidden_sizes, options.lrs, options.seeds)
    grid = [dict(zip(NAMES, values, strict=True)) for values in itertools.product(*axes)]
    job = (options.file, options.characters, options.steps)
    try:
        text(options.file, options.characters)  # what cannot be read is told once
        rows = list(run(grid, job))
    except (OSError, ValueError) as error:
        print(f"grid.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(f"{'cell':6}{'H':>6}{'lr':>9}{'seed':>6}{'held out':>10}{'seconds':>9}")
    for row in sorted(rows, key=lambda row: row["loss"]):
        print(
            f"{row['cell']:6}{row['hidden_size']:6}{row['lr']:9g}{row['seed']:6}"
            f"{row['loss']:10.4f}{row['seconds']:9.1f}{row['note']}"
        )
    return 0


def parse(arguments):
    """Return the options."""
    parser = argparse.ArgumentParser(
        description="Train many small networks on a text; list them, the best first.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="a text in UTF-8")
    add("--cells", nargs="+", default=["rnn", "gru"], choices=["rnn", "gru", "lstm"], help="kinds")
    add("--hidden-sizes", nargs="+", type=int, default=[32, 64], metavar="H", help="units")
    add("--lrs", nargs="+", type=float, default=[0.003, 0.01], metavar="RATE", help="of Adam")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds")
    add("--steps", type=int, default=300, metavar="N", help="of each training")
    add("--characters", type=int, default=50_000, metavar="N", help="of the text to read")
    return parser.parse_args(arguments)


def run(grid, job):
    """Yield what each training came to, as soon as it is known."""
    with workers() as executor:
        futures = [executor.submit(train, settings, *job) for settings in grid]
        try:
            for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                row = future.result()
                known = ", ".join(f"{name} {row[name]}" for name in NAMES)
                print(f"{done} of {len(grid)}: {known}: {row['loss']:.4f}", file=sys.stderr)
                yield row
        except BaseException:
            for future in futures:  # those that have not begun
                future.cancel()
            raise


def workers():
    """Return what runs the trainings: the other ranks, or else this process."""
    if "mpi4py.futures" in sys.modules:  # as started by python -m mpi4py.futures
        from mpi4py.futures import MPIPoolExecutor

        return MPIPoolExecutor()
    return concurrent.futures.ThreadPoolExecutor(max_workers=1)


def train(settings, file, characters, steps):
    """Train one network; return its settings, and its loss on the last tenth of the text."""
    given = text(file, characters)
    vocabulary = nprnn.Vocabulary(given)
    tokens, cut = vocabulary.encode(given), len(given) * 9 // 10
    model = nprnn.LanguageModel(
        len(vocabulary), settings["hidden_size"], cell=settings["cell"], rng=settings["seed"]
    )
    seconds, note = 0.0, ""
    try:
        records = nprnn.train(
            model,
            tokens[:cut],
            batch_size=16,
            num_steps=32,
            epochs=steps,
            max_steps=steps,
            optimizer=nprnn.Adam(model.params),
            lr=nprnn.schedules.cosine(settings["lr"], steps),
            rng=settings["seed"],
        )
        seconds = sum(record.seconds for record in records)
        loss = nprnn.evaluate(model, tokens[cut:])
    except nprnn.NonFiniteError as error:  # one that diverges does not end the others
        loss, note = float("inf"), f"  {error}"
    return {**settings, "loss": loss, "seconds": seconds, "note": note}


def text(file, characters):
    """Return the beginning of the text."""
    return nprnn.read_text(file)[:characters]


if __name__ == "__main__":
    sys.exit(main())
