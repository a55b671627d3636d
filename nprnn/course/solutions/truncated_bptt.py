"""Truncated backpropagation through time.

A sequence too long for one backward pass is cut into windows of `num_steps`
steps; the last one may be shorter. The state goes on from each window to the
next. The gradient does not: within a window, the state that came in counts as
a constant. The gradients of all windows are added up.

    windows   1 … K,  K+1 … 2K,  …            K = num_steps
    forward   h_K of a window is h_0 of the next
    backward  each window by itself

Hint: with `rnn_forward` and `rnn_backward` of the exercise `rnn` (import your
own), or with `nprnn.RNN`, it is one loop.

Check it with: nprnn exercise check truncated_bptt.py
"""

import numpy as np

from nprnn.course.solutions.rnn import rnn_backward, rnn_forward


def truncated_bptt(x, h_0, d_h, num_steps, W_ih, W_hh, b):
    """Compute the gradients of the weights, window by window.

    Parameters
    ----------
    x : ndarray of shape (T, B, I)
        Input.
    h_0 : ndarray of shape (B, H)
        The state before the first step.
    d_h : ndarray of shape (T, B, H)
        Gradient of the loss by each state, without what comes by later ones.
    num_steps : int
        Steps in a window.
    W_ih : ndarray of shape (H, I)
    W_hh : ndarray of shape (H, H)
    b : ndarray of shape (H,)

    Returns
    -------
    d_W_ih : ndarray of shape (H, I)
    d_W_hh : ndarray of shape (H, H)
    d_b : ndarray of shape (H,)
    h_T : ndarray of shape (B, H)
        The state after the last step.
    """
    state = h_0
    totals = [np.zeros_like(parameter) for parameter in (W_ih, W_hh, b)]
    for start in range(0, len(x), num_steps):
        window = slice(start, start + num_steps)
        h, cache = rnn_forward(x[window], state, W_ih, W_hh, b)
        _, _, *gradients = rnn_backward(d_h[window], cache)
        totals = [sum(pair) for pair in zip(totals, gradients, strict=True)]
        state = h[-1]
    return *totals, state
