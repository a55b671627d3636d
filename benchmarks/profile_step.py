"""Where the time of a training step goes, call by call, and how far each is from the limit.

    python benchmarks/profile_step.py [--cell CELL] [--points I,J] [--json FILE]

Each kind of call is timed by itself on arrays of the same shape and layout as in the step, and
multiplied by how often a step makes it; beside that stands the whole step, measured. For products
there is the rate, as a part of that of a 2048 x 2048 product.
"""

import common

parser = common.arguments(__doc__, peers=[], seconds=0.3)
options = parser.parse_args()
common.start(options)

import statistics

import numpy as np
import peers

import nprnn
from nprnn.layout import as_rows, empty, rows_product, turned
from nprnn.losses import softmax_cross_entropy
from nprnn.scan import project

POINTS = [(28, 512, 35, 32), (28, 128, 50, 16)]


def seconds_of(call):
    """Return the median time of a call."""
    times = common.take_turns([call], lambda: (), options.seconds)[0]
    return statistics.median(times)


def filled(T, B, K):
    """Return steps of random numbers in the loop's layout."""
    array = empty((T, K, B), np.float32)
    array[...] = np.random.default_rng(0).uniform(-1, 1, array.shape)
    return array


def calls(cell_name, point):
    """Return (what, times a step, operations of a product or None, call)."""
    V, H, T, B = point
    model = peers.model(cell_name, point)
    cell, params = model.rnn.cell, model.params
    G, N, S = cell.num_gates, T * B, cell.num_states
    W, W_ih = params["rnn.weight_hh_l0"], params["rnn.weight_ih_l0"]
    packing = nprnn.packing.packing(T, B, None, reverse=False)
    inputs, targets = peers.draw_batches(point)()
    states = [filled(T + 1, B, H) for _ in range(S)]
    before, after = [every[:-1] for every in states], [every[1:] for every in states]
    inside = after[0] if cell.in_place else filled(T, B, (G + cell.num_kept) * H)
    gates, kept = inside[:, : G * H], inside[:, G * H :]
    hidden = filled(1, B, G * H)[0]
    spent = empty(inside.shape, np.float32)  # what derivatives may overwrite
    spent[...] = inside
    d_gates, *factors = cell.local_derivatives(spent, spent[:, G * H :], before, after)
    d_gates = d_gates.copy()
    spent[...] = 1
    d_hidden, d_states = cell.hidden_side(d_gates), filled(S, B, H)
    ones, ones_after = filled(1, B, d_gates.shape[1])[0], filled(S, B, H)
    ones[...], ones_after[...] = 1, 1
    rows, h_rows = as_rows(turned(d_hidden)), as_rows(turned(before[0]))
    ahead, back = packing.product(W, hidden), packing.product(W.T, d_states[0])
    readout, output = model.readout, turned(after[0])
    logits, cache = readout.forward(output)
    d_logits = softmax_cross_entropy(logits, targets)[1]
    grads = {name: value.copy() for name, value in params.items()}
    optimizer = nprnn.SGD(params, lr=0.0)

    def forward():
        cell.forward(gates[0], hidden, kept[0], [s[0] for s in states], [s[1] for s in states])

    def backward():  # of ones: numbers below 1 multiplied again and again vanish, and take longer
        with np.errstate(all="ignore"):
            cell.backward(list(ones_after), ones, [ones[:H] for _ in factors])

    def times(product, columns):
        product.multiply(product.W, columns, product.out)

    order, product = packing.product, 2 * B * H * G * H
    return [
        ("W_hh h, a step", T, product, lambda: times(ahead, before[0][0])),
        ("cell forward, a step", T, None, forward),
        ("W_hhT d, a step", T, product, lambda: times(back, d_hidden[0])),
        ("cell backward, a step", T, None, backward),
        ("gradient of W_hh", 1, N * product // B, lambda: rows_product(rows, h_rows)),
        (
            "gather W_ih x + b",
            1,
            None,
            lambda: project(packing, inputs, W_ih, W[:, 0], turned(gates)),
        ),
        (
            "local derivatives",
            1,
            None,
            lambda: cell.local_derivatives(spent, spent[:, G * H :], before, after),
        ),
        ("d to rows", 1, None, lambda: as_rows(turned(d_gates))),
        ("h to rows", 1, None, lambda: as_rows(turned(before[0]))),
        (
            "gradient of W_ih",
            1,
            None,
            lambda: nprnn.embedding.sum_by_class(rows, inputs.ravel(), V),
        ),
        ("W_hh in order", 1, None, lambda: (order(W, hidden), order(W.T, d_states[0]))),
        ("read-out forward", 1, 2 * N * H * V, lambda: readout.forward(output)),
        ("read-out backward", 1, 4 * N * H * V, lambda: readout.backward(d_logits, cache)),
        ("softmax, loss", 1, None, lambda: softmax_cross_entropy(logits, targets)),
        ("clipping", 1, None, lambda: nprnn.clip_grad_norm(grads, 1e9)),
        ("SGD", 1, None, lambda: optimizer.step(grads)),
    ]


def main():
    """Print a table a point."""
    rate, rows = common.flops_per_second(), []
    print(f"{options.cell}, {options.threads} threads; 2048 x 2048 products: {rate / 1e9:.0f} GF/s")
    for point in common.chosen(POINTS, options):
        whole = statistics.median(
            common.take_turns(
                [peers.train_nprnn(options.cell, point)], peers.draw_batches(point), 3.0
            )[0]
        )
        print(f"V, H, T, B = {point}: a step takes {1e3 * whole:.2f} ms")
        total = 0.0
        for what, times, operations, call in calls(options.cell, point):
            spent = seconds_of(call)
            total += times * spent
            line = f"  {what:24} {1e6 * spent:9.1f} us x {times:3} {times * spent / whole:6.1%}"
            if operations:
                line += f"  {operations / spent / 1e9:5.0f} GF/s {operations / spent / rate:4.0%}"
            print(line, flush=True)
            rows.append({"point": point, "what": what, "seconds": spent, "times": times})
        print(f"  {'all of these':24} {'':18} {total / whole:6.1%}")
    common.finish(options, common.facts(options, []), rows, cell=options.cell)


if __name__ == "__main__":
    main()
