"""A recurrent network, and backpropagation through time.

The same weights at every step, t = 1 … T:

    a_t = W_ih x_t + W_hh h_(t-1) + b
    h_t = tanh(a_t)

Backward, from the last step to the first. The state h_t acts on the loss in
two ways: by itself, which is `d_h[t]`, and through h_(t+1). Its whole gradient
is the sum of both. And as every step uses the same weights, their gradients
are sums over all steps.

Hint: in the backward loop, carry along what each step hands to the one before
it. What the first step hands back is the gradient of h_0.

Check it with: nprnn exercise check rnn.py
"""

import numpy as np


def rnn_forward(x, h_0, W_ih, W_hh, b):
    """Compute the states of all steps.

    Parameters
    ----------
    x : ndarray of shape (T, B, I)
        Input.
    h_0 : ndarray of shape (B, H)
        The state before the first step.
    W_ih : ndarray of shape (H, I)
    W_hh : ndarray of shape (H, H)
    b : ndarray of shape (H,)

    Returns
    -------
    h : ndarray of shape (T, B, H)
        The states after each step; h_0 is not among them.
    cache : anything
        What `rnn_backward` needs.
    """
    states = [h_0]
    for x_t in x:
        states.append(np.tanh(x_t @ W_ih.T + states[-1] @ W_hh.T + b))  # (B, H)
    h = np.stack(states[1:])  # (T, B, H)
    return h, (x, h_0, W_ih, W_hh, h)


def rnn_backward(d_h, cache):
    """Compute the gradients of everything that went into the loop.

    Parameters
    ----------
    d_h : ndarray of shape (T, B, H)
        Gradient of the loss by each state, without what comes by later ones.
    cache : anything
        From `rnn_forward`.

    Returns
    -------
    d_x : ndarray of shape (T, B, I)
    d_h_0 : ndarray of shape (B, H)
    d_W_ih : ndarray of shape (H, I)
    d_W_hh : ndarray of shape (H, H)
    d_b : ndarray of shape (H,)
    """
    x, h_0, W_ih, W_hh, h = cache
    d_a = np.empty_like(h)  # (T, B, H)
    carried = np.zeros_like(h_0)  # (B, H)
    for t in reversed(range(len(x))):
        d_a[t] = (d_h[t] + carried) * (1 - h[t] ** 2)
        carried = d_a[t] @ W_hh
    h_before = np.concatenate([h_0[None], h[:-1]])  # (T, B, H)
    d_x = d_a @ W_ih
    d_W_ih = np.einsum("tbh,tbi->hi", d_a, x)
    d_W_hh = np.einsum("tbh,tbk->hk", d_a, h_before)
    d_b = d_a.sum(axis=(0, 1))
    return d_x, carried, d_W_ih, d_W_hh, d_b
