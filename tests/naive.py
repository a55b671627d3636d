"""The definitions, written out with loops: one sequence, one step, one product at a time.

Nothing here is shared with the package. It is slow, and so plain that it can be checked by eye
against the equations; the package must agree with it.
"""

import numpy as np


def names(k, direction):
    suffix = "_reverse" if direction else ""
    return [f"{kind}_l{k}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def d_sigmoid(a):
    return np.exp(-a) / (1 + np.exp(-a)) ** 2


def d_tanh(a):
    return 1 / np.cosh(a) ** 2


# One unit at one step. `a` and `b` are its gates' pre-activations, from the input and from the
# state before, biases included; states are (h,), or (h, c). A backward function returns the
# gradients of a, of b, and those of the states before that do not come through b.


def tanh_unit(a, b, before):
    return (np.tanh(a[0] + b[0]),)


def tanh_unit_backward(a, b, before, d_after):
    d = d_after[0] * d_tanh(a[0] + b[0])
    return [d], [d], [0]


def relu_unit(a, b, before):
    return (a[0] + b[0] if a[0] + b[0] > 0 else 0,)


def relu_unit_backward(a, b, before, d_after):
    d = d_after[0] if a[0] + b[0] > 0 else 0
    return [d], [d], [0]


def gru_unit(a, b, before):
    r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
    n = np.tanh(a[2] + r * b[2])
    return ((1 - z) * n + z * before[0],)


def gru_unit_backward(a, b, before, d_after):
    r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
    n = np.tanh(a[2] + r * b[2])
    d_n = d_after[0] * (1 - z) * d_tanh(a[2] + r * b[2])
    d_z = d_after[0] * (before[0] - n) * d_sigmoid(a[1] + b[1])
    d_r = d_n * b[2] * d_sigmoid(a[0] + b[0])
    return [d_r, d_z, d_n], [d_r, d_z, d_n * r], [d_after[0] * z]


def lstm_unit(a, b, before):
    i, f, o = (sigmoid(a[k] + b[k]) for k in (0, 1, 3))
    c = f * before[1] + i * np.tanh(a[2] + b[2])
    return (o * np.tanh(c), c)


def lstm_unit_backward(a, b, before, d_after):
    i, f, o = (sigmoid(a[k] + b[k]) for k in (0, 1, 3))
    g = np.tanh(a[2] + b[2])
    c = f * before[1] + i * g
    d_c = d_after[1] + d_after[0] * o * d_tanh(c)
    d_o = d_after[0] * np.tanh(c) * d_sigmoid(a[3] + b[3])
    d_i = d_c * g * d_sigmoid(a[0] + b[0])
    d_f = d_c * before[1] * d_sigmoid(a[1] + b[1])
    d_g = d_c * i * d_tanh(a[2] + b[2])
    return [d_i, d_f, d_g, d_o], [d_i, d_f, d_g, d_o], [0, d_c * f]


UNITS = {
    "tanh": (1, tanh_unit, tanh_unit_backward),
    "relu": (1, relu_unit, relu_unit_backward),
    "gru": (3, gru_unit, gru_unit_backward),
    "lstm": (4, lstm_unit, lstm_unit_backward),
}


def pre_activations(w, v, bias):
    """W v + b, a row at a time."""
    a = np.zeros(len(w), np.result_type(w, v))
    for row in range(len(w)):
        a[row] = sum(w[row, j] * v[j] for j in range(len(v)))
        if bias is not None:
            a[row] += bias[row]
    return a


def one_direction(params, k, direction, x, initial, cell):
    """Step over x in reading order from states (S, H); return all states, and pre-activations."""
    w_ih, w_hh, b_ih, b_hh = (params.get(name) for name in names(k, direction))
    G, unit, _ = UNITS[cell]
    H = initial.shape[1]
    states, tape = [initial], []
    for t in reversed(range(len(x))) if direction else range(len(x)):
        a = pre_activations(w_ih, x[t], b_ih).reshape(G, H)
        b = pre_activations(w_hh, states[-1][0], b_hh).reshape(G, H)
        after = np.zeros_like(initial)
        for u in range(H):
            after[:, u] = unit(a[:, u], b[:, u], states[-1][:, u])
        tape.append((a, b))
        states.append(after)
    return states, tape


def one_direction_backward(params, k, direction, x, states, tape, d_out, d_last, cell):
    """Chain rule, one step after the other, last step first; d_out is in time order."""
    w_ih, w_hh, b_ih, _ = (params.get(name) for name in names(k, direction))
    G, _, unit_backward = UNITS[cell]
    H = d_last.shape[1]
    times = list(reversed(range(len(x)))) if direction else list(range(len(x)))
    d_w_ih, d_w_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
    d_b_ih, d_b_hh = np.zeros(len(w_hh)), np.zeros(len(w_hh))
    d_x = np.zeros_like(x)
    d_states = d_last.copy()
    for step in reversed(range(len(times))):
        t, (a, b) = times[step], tape[step]
        d_states[0] += d_out[t]
        d_a, d_b, d_before = np.zeros((G, H)), np.zeros((G, H)), np.zeros_like(d_states)
        for u in range(H):
            d_a[:, u], d_b[:, u], d_before[:, u] = unit_backward(
                a[:, u], b[:, u], states[step][:, u], d_states[:, u]
            )
        d_a, d_b = d_a.ravel(), d_b.ravel()
        d_w_ih += np.outer(d_a, x[t])
        d_w_hh += np.outer(d_b, states[step][0])
        d_b_ih += d_a
        d_b_hh += d_b
        d_x[t] = w_ih.T @ d_a
        d_before[0] += w_hh.T @ d_b
        d_states = d_before
    grads = dict(zip(names(k, direction), [d_w_ih, d_w_hh, d_b_ih, d_b_hh], strict=True))
    if b_ih is None:
        grads = {name: g for name, g in grads.items() if not name.startswith("bias")}
    return d_x, d_states, grads


def outputs(states, direction):
    """Return h at each step, in time order."""
    h = [after[0] for after in states[1:]]
    return np.array(h[::-1] if direction else h).reshape(-1, states[0].shape[1])


def stacked(state):
    """Return h, or the pair (h, c), as one array (S, L*D, B, H)."""
    return np.array(state) if isinstance(state, tuple) else np.array([state])


def unstacked(states):
    return tuple(states) if len(states) > 1 else states[0]


def rnn(params, x, initial, *, num_layers, num_directions, cell, lengths):
    """Return padded output (T, B, D*H) and final state (L*D, B, H), sequence by sequence."""
    T, B, _ = x.shape
    states = stacked(initial)
    H = states.shape[-1]
    output = np.zeros((T, B, num_directions * H))
    for b in range(B):
        below = x[: lengths[b], b]
        for k in range(num_layers):
            sides = []
            for d in range(num_directions):
                place = k * num_directions + d
                path, _ = one_direction(params, k, d, below, states[:, place, b], cell)
                states[:, place, b] = path[-1]
                sides.append(outputs(path, d))
            below = np.concatenate(sides, axis=1)
        output[: lengths[b], b] = below
    return output, unstacked(states)


def rnn_backward(
    params, x, initial, d_output, d_state, *, num_layers, num_directions, cell, lengths
):
    """Return d_x, d_state_0 and the gradients of the parameters, summed sequence by sequence."""
    states, d_states = stacked(initial), stacked(d_state)
    H = states.shape[-1]
    d_x = np.zeros_like(x)
    total = {name: np.zeros_like(value) for name, value in params.items()}
    for b in range(x.shape[1]):
        n = lengths[b]
        below, layers = x[:n, b], []
        for k in range(num_layers):
            runs = [
                one_direction(params, k, d, below, states[:, k * num_directions + d, b], cell)
                for d in range(num_directions)
            ]
            layers.append((below, runs))
            below = np.concatenate([outputs(path, d) for d, (path, _) in enumerate(runs)], axis=1)
        d_above = d_output[:n, b]
        for k in reversed(range(num_layers)):
            below, runs = layers[k]
            d_below = np.zeros_like(below)
            for d, (path, tape) in enumerate(runs):
                place = k * num_directions + d
                d_in, d_states[:, place, b], grads = one_direction_backward(
                    params,
                    k,
                    d,
                    below,
                    path,
                    tape,
                    d_above[:, d * H : (d + 1) * H],
                    d_states[:, place, b],
                    cell,
                )
                d_below += d_in
                for name, gradient in grads.items():
                    total[name] += gradient
            d_above = d_below
        d_x[:n, b] = d_above
    return d_x, unstacked(d_states), total


def softmax_cross_entropy(logits, targets):
    """Mean of -ln softmax(o)[target], position by position."""
    losses = []
    for place in np.ndindex(targets.shape):
        o = logits[place]
        losses.append(np.log(sum(np.exp(v) for v in o)) - o[targets[place]])
    return np.mean(losses)


def language_model_loss(params, inputs, targets, initial, cell):
    """One-hot or embedded input, recurrent layers, read-out, mean loss; and the final state."""
    V = len(params["readout.bias"])
    table = params.get("embedding.weight", np.eye(V))
    x = np.zeros((*inputs.shape, table.shape[1]))
    for place in np.ndindex(inputs.shape):
        x[place] = table[inputs[place]]
    inner = {k.removeprefix("rnn."): v for k, v in params.items() if k.startswith("rnn.")}
    hidden, state = rnn(
        inner,
        x,
        initial,
        num_layers=stacked(initial).shape[1],
        num_directions=1,
        cell=cell,
        lengths=[len(x)] * x.shape[1],
    )
    weight = params.get("readout.weight", table)  # tied
    logits = np.zeros((*inputs.shape, V))
    for place in np.ndindex(inputs.shape):
        logits[place] = weight @ hidden[place] + params["readout.bias"]
    return softmax_cross_entropy(logits, targets), state
