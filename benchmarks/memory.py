"""Measure the peak memory of a training step, each measurement in a process of its own.

    python benchmarks/memory.py [--cell CELL] [--json FILE]

What is shown is how far the process' resident memory rises in its first step above what it was
before, with model, optimizer and batch there and everything compiled: so it is what the step needs
beside the parameters. Linux only. Beside it is what the formula of `nprnn.LanguageModel` says.
"""

import json
import subprocess
import sys
from pathlib import Path

import common

parser = common.arguments(__doc__, peers=["torch", "jax"], seconds=0.0)
parser.add_argument("--one", nargs=2, metavar=("NAME", "POINT"), help="(used inside)")
options = parser.parse_args()


def peak(name, point):
    """Return the bytes by which a step raises the resident memory of this process."""
    common.start(options)
    import peers

    if name == "jax":
        run = compiled_jax(peers, point)
    else:
        make = {"nprnn": peers.train_nprnn, "torch": peers.train_torch}[name]
        small = (*point[:1], 8, 2, 2)
        make(options.cell, small)(*peers.draw_batches(small)())  # loads what is loaded once
        run = make(options.cell, point)
    batch = peers.draw_batches(point)()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
    before = resident("VmRSS")
    run(*batch)
    return resident("VmHWM") - before


def compiled_jax(peers, point):
    """Return JAX's step, compiled but never run."""
    import jax
    import numpy as np

    _, _, T, B = point
    step, params = peers.jax_step(options.cell, point)
    ids = jax.ShapeDtypeStruct((T, B), np.int32)
    compiled = jax.jit(step, donate_argnums=0).lower(params, ids, ids).compile()

    def run(inputs, targets):
        _, loss = compiled(params, inputs.astype(np.int32), targets.astype(np.int32))
        return float(loss)

    return run


def resident(key):
    """Return an entry of this process' status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(key))
    return 1024 * int(line.split()[1])


def main():
    """Print the table."""
    names = common.present(options.peers)
    grid = common.GRID if options.cell == "rnn" else common.MIDDLE
    print(
        f"{'V, H, T, B':>18}  {'nprnn MB':>9}" + "".join(f"  {n + ' MB':>9} ratio" for n in names)
    )
    rows = []
    for point in common.chosen(grid, options):
        row = {"V,H,T,B": point}
        for name in ["nprnn", *names]:
            command = [sys.executable, __file__, "--cell", options.cell]
            command += ["--one", name, json.dumps(point)]
            peaks = [int(subprocess.check_output(command, text=True)) for _ in range(3)]
            row[f"{name}_bytes"] = sorted(peaks)[1]
        line = f"{', '.join(map(str, point)):>18}  {row['nprnn_bytes'] / 1e6:9.1f}"
        for name in names:
            row[f"ratio_{name}"] = row["nprnn_bytes"] / row[f"{name}_bytes"]
            line += f"  {row[f'{name}_bytes'] / 1e6:9.1f} {row[f'ratio_{name}']:5.2f}"
        print(line, flush=True)
        rows.append(row)
    common.finish(options, common.facts(options, names), rows, cell=options.cell)


if __name__ == "__main__":
    if options.one:
        print(peak(options.one[0], tuple(json.loads(options.one[1]))))
    else:
        main()
