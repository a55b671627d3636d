"""How training on several ranks scales, measured on those there are and predicted for more.

    mpiexec -n 2 python benchmarks/scaling_mpi.py [--cell CELL] [--hidden-size H] [--batch-size B]

One thread and one processor a rank. A step is: a new batch; loss and gradients; one Allreduce;
clipping; SGD. One rank, two, and so on take turns within a round, while the others sleep; what is
told is the median over the rounds. The model: a step takes what it takes one rank to compute B
sequences, and an Allreduce of n ranks 2 log2(n) latencies and 2 (n-1)/n times the bytes at the
bandwidth (Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005).
"""

import argparse
import math
import os
import statistics
import sys
import time
from functools import partial

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)  # it would make BLAS take an older processor's kernels

import common
import numpy as np
from mpi4py import MPI

import nprnn
from nprnn.alone import Alone
from nprnn.distributed import Ranks

WORLD = MPI.COMM_WORLD
NETWORKS = {"10 Gbit/s": (25e-6, 1.25e9), "100 Gbit/s": (2e-6, 12.5e9)}  # seconds, bytes a second
SIZES = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]


def rest():
    """Wait for the others without using the processor."""
    request = WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.0005)


def bind():
    """Give each rank a processor of its own, if there are enough."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) >= WORLD.size:
            os.sched_setaffinity(0, [allowed[WORLD.rank]])


def trainer(options, ranks, batch_size):
    """Return a function that takes a step with so many sequences on this rank."""
    V, T = options.vocab_size, options.num_steps
    model = nprnn.LanguageModel(V, options.hidden_size, cell=options.cell, rng=0)
    optimizer = nprnn.SGD(model.params, lr=0.1)
    rng = np.random.default_rng(ranks.rank)

    def step():
        inputs, targets = rng.integers(0, V, (2, T, batch_size))
        loss, grads, _ = model.loss_and_grads(inputs, targets)
        loss, grads = ranks.mean(loss, grads)
        nprnn.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)

    return step


def timed(task, count):
    """Return the median time of some runs."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def take_turns(tasks, options):
    """Run each rank's tasks in turn; return the times of each, one a round, of rank 0."""
    times = {name: [] for name in tasks}
    for _ in range(options.rounds + 1):  # the first does not count
        for name, task in tasks.items():
            rest()
            if task is not None:
                times[name].append(timed(task, options.count))
    return {name: own[1:] for name, own in times.items()}


def scaling(options):
    """Measure weak and strong scaling; return the times of one rank and of n, by kind."""
    sizes = sorted({1, *(2**k for k in range(1, 13) if 2**k <= WORLD.size), WORLD.size})
    tasks = {}
    for n in sizes:
        member = WORLD.rank < n
        comm = WORLD.Split(0 if member else MPI.UNDEFINED)
        ranks = (Alone() if n == 1 else Ranks(comm)) if member else None
        for kind, batch in (
            ("weak", options.batch_size),
            ("strong", options.batch_size * WORLD.size // n),
        ):
            tasks[kind, n] = trainer(options, ranks, batch) if member else None
    return sizes, take_turns(tasks, options)


def allreduce_times(options):
    """Return [bytes, seconds] of Allreduces of all ranks."""
    rows = []
    for power in range(2, 25, 2):
        data = np.ones(2**power // 4, np.float32)
        rest()
        WORLD.Barrier()
        count = max(5, min(200, 2**22 // data.nbytes))
        rows.append((data.nbytes, timed(lambda: WORLD.Allreduce(MPI.IN_PLACE, data), count)))  # noqa: B023
    return rows


def fitted(columns, times):
    """Return the coefficients that fit the times best, in relative terms."""
    weights = 1 / np.asarray(times)
    found, *_ = np.linalg.lstsq(np.stack(columns, 1) * weights[:, None], np.ones(len(weights)))
    return found


def compute_times(options):
    """Return [B, seconds] of a step of one rank without the others."""
    rows = []
    for batch_size in (1, 2, 4, 8, 16, 32, 64, 128):
        step = trainer(options, Alone(), batch_size)
        step()
        rows.append((batch_size, timed(step, options.count)))
    return rows


def reduction(n, num_bytes, latency, bandwidth):
    """Return how long the model says that an Allreduce takes."""
    return 2 * math.log2(n) * latency + 2 * (n - 1) / n * num_bytes / bandwidth


def overlap(options, num_bytes):
    """Return the times of a product, of reducing the read-out's gradient, and of both at once."""
    gradient = np.ones(options.vocab_size * options.hidden_size, np.float32)
    a = np.ones((options.hidden_size, options.hidden_size), np.float32)

    def product():
        for _ in range(4):
            a @ a

    def reduce():
        WORLD.Iallreduce(MPI.IN_PLACE, gradient).Wait()

    def both():
        request = WORLD.Iallreduce(MPI.IN_PLACE, gradient)
        product()
        request.Wait()

    times = []
    for task in (product, reduce, both):
        WORLD.Barrier()
        times.append(timed(task, 50))
    return *times, gradient.nbytes / num_bytes


def flat_parameters(params):
    """Return the times of copying gradients into one vector, and of a step over many or one."""
    grads = {name: np.full_like(value, 1e-4) for name, value in params.items()}
    one = {"all": np.concatenate([value.ravel() for value in params.values()])}
    flat = {"all": np.concatenate([gradient.ravel() for gradient in grads.values()])}

    def step(optimizer, own):
        nprnn.clip_grad_norm(own, 1e9)
        optimizer.step(own)

    def copy():
        np.concatenate([gradient.ravel() for gradient in grads.values()])

    tasks = [copy]
    for kind in (nprnn.SGD, nprnn.Adam):
        many, single = kind(params, lr=1e-9), kind(one, lr=1e-9)
        tasks += [partial(step, many, grads), partial(step, single, flat)]
    return [timed(task, 300) for task in tasks]


def main():
    """Measure on all ranks; rank 0 tells."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--cell", choices=["rnn", "gru", "lstm"], default="rnn", help="kind of layer")
    add("--vocab-size", type=int, default=65, help="classes")
    add("--hidden-size", type=int, default=512, help="units")
    add("--batch-size", type=int, default=32, help="sequences a rank")
    add("--num-steps", type=int, default=35, help="steps of a window")
    add("--rounds", type=int, default=15, help="rounds, of which the medians are told")
    add("--count", type=int, default=7, help="steps of which a round takes the median")
    add("--json", metavar="FILE", help="write the results there as well")
    options = parser.parse_args()
    bind()
    if WORLD.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    params = nprnn.LanguageModel(options.vocab_size, options.hidden_size, cell=options.cell).params
    num_bytes = 4 * sum(value.size for value in params.values())
    print(f"{options.cell}, V={options.vocab_size}, H={options.hidden_size}, "
          f"T={options.num_steps}; {num_bytes:,} bytes of gradients; {WORLD.size} ranks of one "
          "thread")  # fmt: skip

    sizes, times = scaling(options)
    rows = []
    if WORLD.rank == 0:
        print(f"{'':8}ranks  B a rank       ms  speed-up, median of the rounds (range)")
        for kind in ("weak", "strong"):
            for n in sizes:
                work = n if kind == "weak" else 1
                each = [work * a / b for a, b in zip(times[kind, 1], times[kind, n], strict=True)]
                batch = options.batch_size * (1 if kind == "weak" else WORLD.size // n)
                middle = statistics.median(each)
                print(f"{kind:8}{n:5}{batch:10}{1e3 * statistics.median(times[kind, n]):9.2f}"
                      f"  {middle:.2f} ({min(each):.2f}..{max(each):.2f}), "
                      f"{middle / n:.0%} of {n}")  # fmt: skip
                rows.append({"kind": kind, "ranks": n, "batch": batch, "speed_up": middle})

    reductions = allreduce_times(options)
    latency, inverse = fitted(
        [np.full(len(reductions), 2 * math.log2(max(2, WORLD.size))),
         np.array([2 * (WORLD.size - 1) / WORLD.size * size for size, _ in reductions])],
        [seconds for _, seconds in reductions],
    )  # fmt: skip
    shares = overlap(options, num_bytes) if WORLD.size > 1 else None
    rest()
    if WORLD.rank == 0:
        predict(options, params, reductions, latency, 1 / inverse, times, shares, rows)
    rest()


def predict(options, params, reductions, latency, bandwidth, times, shares, rows):
    """Fit the model, hold it against the measurement, and print what it says of more ranks."""
    num_bytes = 4 * sum(value.size for value in params.values())
    print("Allreduce here:", ", ".join(f"{size:,} B {1e6 * seconds:.0f} us"
                                       for size, seconds in reductions))  # fmt: skip
    print(f"  fitted: latency {1e6 * latency:.1f} us, bandwidth {bandwidth / 1e9:.2f} GB/s")
    computed = compute_times(options)
    print("a step alone:", ", ".join(f"B={B} {1e3 * seconds:.2f} ms" for B, seconds in computed))
    batches, steps = (np.array(column, float) for column in zip(*computed, strict=True))

    def compute(B):
        """Return how long a rank computes: between what was measured, and beyond in proportion."""
        return float(np.interp(B, batches, steps)) if batches[-1] >= B else steps[-1] * B / 128

    if WORLD.size > 1:
        alone = statistics.median(times["weak", 1])
        expected = alone + reduction(WORLD.size, num_bytes, latency, bandwidth)
        found = statistics.median(times["weak", WORLD.size])
        print(f"  a step of {WORLD.size} ranks: the model says {1e3 * expected:.2f} ms, "
              f"measured {1e3 * found:.2f} ms")  # fmt: skip
        product, reduce, both, share = shares
        print(f"overlap: products {1e6 * product:.0f} us, the read-out's Iallreduce "
              f"{1e6 * reduce:.0f} us, both at once {1e6 * both:.0f} us; the read-out is "
              f"{share:.0%} of the gradients")  # fmt: skip
    copy, *steps_of = flat_parameters(params)
    sgd, one_sgd, adam, one_adam = (1e6 * seconds for seconds in steps_of)
    print(f"one vector: a copy takes {1e6 * copy:.0f} us; clipping and SGD over {len(params)} "
          f"arrays {sgd:.0f} us, over one {one_sgd:.0f}; "
          f"and with Adam {adam:.0f} and {one_adam:.0f}")  # fmt: skip
    B = options.batch_size
    for network, (seconds, rate) in NETWORKS.items():
        print(f"\n{network}, {1e6 * seconds:.0f} us: weak scaling with B={B} a rank, strong "
              f"scaling of B={B * 64} in all")  # fmt: skip
        print("  ranks  comm. ms  weak, % of linear  half the time at B =  strong, speed-up")
        for n in SIZES:
            communication = reduction(n, num_bytes, seconds, rate)
            weak = compute(B) / (compute(B) + communication)
            half = np.interp(communication, steps, batches, left=0)
            halfway = f"{half:.1f}" if half else "below 1"
            whole = B * 64
            quicker = compute(whole) / (compute(whole / n) + communication)
            strong = "" if n > whole else f"{quicker:.0f}"
            print(f"{n:7}{1e3 * communication:10.2f}{weak:19.0%}{halfway:>22}{strong:>19}")
            rows.append({"network": network, "ranks": n, "communication": communication,
                         "weak": weak, "half_at_batch": float(half)})  # fmt: skip
    options.threads = 1
    common.finish(options, common.facts(options, []), rows, ranks=WORLD.size)


if __name__ == "__main__":
    main()
