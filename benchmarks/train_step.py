"""Time a whole training step, beside PyTorch's and JAX's where they are installed.

    python benchmarks/train_step.py [--cell CELL] [--threads N] [--seconds S] [--json FILE]

One step is: a new batch of token ids in; loss, gradients, clipping by norm, one step of SGD; the
loss out. The peers do the same: PyTorch with `nn.RNN` (or GRU, LSTM), `nn.Linear`, `cross_entropy`,
`clip_grad_norm_` and `SGD`, JAX with a `lax.scan` and `value_and_grad`, everything compiled to one
function. All take turns in one process with the same number of threads; a ratio is the median of
those within a round, below 1 where nprnn is faster. The limit is the time that the step's matrix
products would take at the rate of a 2048 x 2048 product on the same machine.
"""

import functools

import common

parser = common.arguments(__doc__, peers=["torch", "jax"], seconds=6.0)
options = parser.parse_args()
common.start(options)

import peers

PEERS = {
    "torch": peers.train_torch,
    "jax": peers.train_jax,
    "flax": peers.train_flax,
    "keras": peers.train_keras,
    "numpy_ml": peers.train_numpy_ml,
}


def main():
    """Print the table."""
    names = common.present(options.peers)
    if "torch" in names:
        import torch

        torch.set_num_threads(options.threads)
    rate = common.flops_per_second()
    grid = common.GRID if options.cell == "rnn" else common.MIDDLE
    print(f"{options.cell}, {options.threads} threads; 2048 x 2048 products: {rate / 1e9:.0f} GF/s")
    head = f"{'V, H, T, B':>18}  {'nprnn ms':>9} {'quartiles':>17}"
    print(head + "".join(f"  {name + ' ms':>9} ratio" for name in names) + "  of limit")
    rows = []
    for point in common.chosen(grid, options):
        own = functools.partial(peers.train_nprnn, threads=options.threads)
        makers = [own, *(PEERS[name] for name in names)]
        tasks = [make(options.cell, point) for make in makers]
        times = common.take_turns(tasks, peers.draw_batches(point), options.seconds)
        quartiles = [common.quartiles(own) for own in times]
        ratios = [common.ratio(times[0], others) for others in times[1:]]
        limit = 1e3 * common.step_flops(options.cell, point) / rate
        low, middle, high = quartiles[0]
        line = f"{', '.join(map(str, point)):>18}  {middle:9.3f} {f'{low:.3f}..{high:.3f}':>17}"
        for (_, other, _), value in zip(quartiles[1:], ratios, strict=True):
            line += f"  {other:9.3f} {value:5.2f}"
        print(line + f"  {limit / middle:8.0%}", flush=True)
        rows.append(
            {
                "V,H,T,B": point,
                "nprnn_ms": quartiles[0],
                **{f"{name}_ms": own for name, own in zip(names, quartiles[1:], strict=True)},
                **{f"ratio_{name}": own for name, own in zip(names, ratios, strict=True)},
                "limit_ms": limit,
            }
        )
    for name in names:
        mean = common.geometric_mean(row[f"ratio_{name}"] for row in rows)
        print(f"geometric mean of the ratios to {name}: {mean:.2f}")
    known = common.facts(options, names)
    common.finish(options, known, rows, cell=options.cell, flops_per_second=rate)


if __name__ == "__main__":
    main()
