"""Time inference: whole sequences, and one token after the other as in generation.

    python benchmarks/inference.py [--cell CELL] [--threads N] [--seconds S] [--json FILE]

Whole sequences: a batch of token ids in, the logits of all steps out. Generation: B = 1, a token
drawn from the logits at temperature 1 and fed back, for H = 64 to 1024 and V = 65. Beside PyTorch
and onnxruntime where they are installed; all take turns, see `train_step.py`.
"""

import functools

import common

parser = common.arguments(__doc__, peers=["torch", "onnx"], seconds=4.0)
parser.add_argument("--only", choices=["sequences", "generation"], help="one of the two tables")
options = parser.parse_args()
common.start(options)

import peers

TOKENS = 50  # a run
INFER = {
    "torch": peers.infer_torch,
    "onnx": functools.partial(peers.infer_onnx, threads=options.threads),
}
GENERATE = {
    "torch": peers.generate_torch,
    "onnx": functools.partial(peers.generate_onnx, threads=options.threads),
}


def sequences(names):
    """Print and return the table of whole sequences."""
    grid = common.GRID if options.cell == "rnn" else common.MIDDLE
    head = f"{'V, H, T, B':>18}  {'nprnn ms':>9}"
    print(head + "".join(f"  {name + ' ms':>9} ratio" for name in names))
    rows = []
    for point in common.chosen(grid, options):
        own = functools.partial(peers.infer_nprnn, threads=options.threads)
        makers = [own, *(INFER[name] for name in names)]
        tasks = [make(options.cell, point) for make in makers]
        times = common.take_turns(tasks, peers.draw_batches(point), options.seconds)
        rows.append(row(point, names, times))
        line = f"{', '.join(map(str, point)):>18}  {rows[-1]['nprnn_ms'][1]:9.3f}"
        for name in names:
            line += f"  {rows[-1][f'{name}_ms'][1]:9.3f} {rows[-1][f'ratio_{name}']:5.2f}"
        print(line, flush=True)
    return rows


def generation(names):
    """Print and return the table of generation."""
    head = f"{'H':>18}  {'nprnn tok/s':>11}"
    print(head + "".join(f"  {name + ' tok/s':>11} times" for name in names))
    rows = []
    for H in (64, 128, 256, 512, 1024):
        point = (65, H, 1, 1)
        makers = [peers.generate_nprnn, *(GENERATE[name] for name in names)]
        tasks = [make(options.cell, point, TOKENS) for make in makers]
        times = common.take_turns(tasks, lambda: (), options.seconds)
        rows.append(row(point, names, times, runs=TOKENS))
        line = f"{H:18}  {1e3 / rows[-1]['nprnn_ms'][1]:11,.0f}"
        for name in names:
            rate = 1e3 / rows[-1][f"{name}_ms"][1]
            line += f"  {rate:11,.0f} {1 / rows[-1][f'ratio_{name}']:5.1f}"
        print(line, flush=True)
    return rows


def row(point, names, times, runs=1):
    """Return one point's results."""
    quartiles = [[quarter / runs for quarter in common.quartiles(own)] for own in times]
    return {
        "V,H,T,B": point,
        "nprnn_ms": quartiles[0],
        **{f"{name}_ms": own for name, own in zip(names, quartiles[1:], strict=True)},
        **{
            f"ratio_{name}": common.ratio(times[0], own)
            for name, own in zip(names, times[1:], strict=True)
        },
    }


def main():
    """Print the tables."""
    names = common.present(options.peers)
    if "torch" in names:
        import torch

        torch.set_num_threads(options.threads)
    print(f"{options.cell}, {options.threads} threads")
    results = {}
    if options.only != "generation":
        results["sequences"] = sequences(names)
    if options.only != "sequences":
        results["generation"] = generation(names)
    common.finish(options, common.facts(options, names), results, cell=options.cell)


if __name__ == "__main__":
    main()
