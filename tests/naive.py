"""The definitions, written out with loops: one sequence, one step, one product at a time.

Nothing here is shared with the package. It is slow, and so plain that it can be checked by eye
against the equations; the package must agree with it.
"""

import numpy as np


def names(k, direction):
    suffix = "_reverse" if direction else ""
    return [f"{kind}_l{k}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def activate(a, nonlinearity):
    return np.tanh(a) if nonlinearity == "tanh" else np.where(a > 0, a, 0)


def derivative(a, nonlinearity):
    return 1 / np.cosh(a) ** 2 if nonlinearity == "tanh" else np.where(a > 0, 1.0, 0.0)


def one_direction(params, k, direction, x, h_0, nonlinearity):
    """h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh) over the steps of x in reading order."""
    w_ih, w_hh, b_ih, b_hh = (params.get(name) for name in names(k, direction))
    H = len(h_0)
    hs, pre = [h_0], []
    for t in reversed(range(len(x))) if direction else range(len(x)):
        a = np.zeros(H, np.result_type(x, w_ih))
        for i in range(H):
            a[i] = sum(w_ih[i, j] * x[t][j] for j in range(len(x[t])))
            a[i] += sum(w_hh[i, j] * hs[-1][j] for j in range(H))
            if b_ih is not None:
                a[i] += b_ih[i] + b_hh[i]
        pre.append(a)
        hs.append(activate(a, nonlinearity))
    return hs, pre


def one_direction_backward(params, k, direction, x, hs, pre, d_out, d_last, nonlinearity):
    """Chain rule, one step after the other, last step first; d_out is in time order."""
    w_ih, w_hh, b_ih, _ = (params.get(name) for name in names(k, direction))
    times = list(reversed(range(len(x)))) if direction else list(range(len(x)))
    d_w_ih, d_w_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
    d_b = np.zeros(len(w_hh))
    d_x = np.zeros_like(x)
    d_h = d_last.copy()
    for step in reversed(range(len(times))):
        t = times[step]
        d_a = (d_h + d_out[t]) * derivative(pre[step], nonlinearity)
        d_w_ih += np.outer(d_a, x[t])
        d_w_hh += np.outer(d_a, hs[step])
        d_b += d_a
        d_x[t] = w_ih.T @ d_a
        d_h = w_hh.T @ d_a
    grads = dict(zip(names(k, direction), [d_w_ih, d_w_hh, d_b, d_b], strict=True))
    if b_ih is None:
        grads = {name: g for name, g in grads.items() if not name.startswith("bias")}
    return d_x, d_h, grads


def rnn(params, x, h_0, *, num_layers, num_directions, nonlinearity, lengths):
    """Return padded output (T, B, D*H) and final state (L*D, B, H), sequence by sequence."""
    T, B, _ = x.shape
    H = h_0.shape[-1]
    output = np.zeros((T, B, num_directions * H))
    state = h_0.copy()
    for b in range(B):
        below = x[: lengths[b], b]
        for k in range(num_layers):
            sides = []
            for d in range(num_directions):
                place = k * num_directions + d
                hs, _ = one_direction(params, k, d, below, h_0[place, b], nonlinearity)
                state[place, b] = hs[-1]
                sides.append(np.array(hs[1:][::-1] if d else hs[1:]).reshape(-1, H))
            below = np.concatenate(sides, axis=1)
        output[: lengths[b], b] = below
    return output, state


def rnn_backward(
    params, x, h_0, d_output, d_state, *, num_layers, num_directions, nonlinearity, lengths
):
    """Return d_x, d_h_0 and the gradients of the parameters, summed sequence by sequence."""
    H = h_0.shape[-1]
    d_x, d_h_0 = np.zeros_like(x), d_state.copy()
    total = {name: np.zeros_like(value) for name, value in params.items()}
    for b in range(x.shape[1]):
        n = lengths[b]
        below, tape = x[:n, b], []
        for k in range(num_layers):
            runs = [
                one_direction(params, k, d, below, h_0[k * num_directions + d, b], nonlinearity)
                for d in range(num_directions)
            ]
            tape.append((below, runs))
            sides = [
                np.array(hs[1:][::-1] if d else hs[1:]).reshape(-1, H)
                for d, (hs, _) in enumerate(runs)
            ]
            below = np.concatenate(sides, axis=1)
        d_above = d_output[:n, b]
        for k in reversed(range(num_layers)):
            below, runs = tape[k]
            d_below = np.zeros_like(below)
            for d, (hs, pre) in enumerate(runs):
                place = k * num_directions + d
                d_in, d_h, grads = one_direction_backward(
                    params,
                    k,
                    d,
                    below,
                    hs,
                    pre,
                    d_above[:, d * H : (d + 1) * H],
                    d_state[place, b],
                    nonlinearity,
                )
                d_below += d_in
                d_h_0[place, b] = d_h
                for name, gradient in grads.items():
                    total[name] += gradient
            d_above = d_below
        d_x[:n, b] = d_above
    return d_x, d_h_0, total


def softmax_cross_entropy(logits, targets):
    """Mean of -ln softmax(o)[target], position by position."""
    losses = []
    for place in np.ndindex(targets.shape):
        o = logits[place]
        losses.append(np.log(sum(np.exp(v) for v in o)) - o[targets[place]])
    return np.mean(losses)


def language_model_loss(params, inputs, targets, h_0, nonlinearity):
    """One-hot, recurrent layers, read-out, mean loss; also returns the final state."""
    V = params["readout.weight"].shape[0]
    x = np.zeros((*inputs.shape, V))
    for place in np.ndindex(inputs.shape):
        x[place][inputs[place]] = 1
    inner = {k.removeprefix("rnn."): v for k, v in params.items() if k.startswith("rnn.")}
    hidden, state = rnn(
        inner,
        x,
        h_0,
        num_layers=len(h_0),
        num_directions=1,
        nonlinearity=nonlinearity,
        lengths=[len(x)] * x.shape[1],
    )
    logits = np.zeros((*inputs.shape, V))
    for place in np.ndindex(inputs.shape):
        logits[place] = params["readout.weight"] @ hidden[place] + params["readout.bias"]
    return softmax_cross_entropy(logits, targets), state
