"""One step of a recurrent network, forward and backward.

The next state comes from the input and from the state before. For one sequence

    a  = W_ih x + W_hh h_prev + b
    h' = tanh(a)

and for a batch each sequence is a row, so that W x becomes x Wᵀ. Backward,
the gradient of the loss by h' is given, and those by everything that went in
are wanted. First through tanh, whose derivative is 1 - tanh²; then through
the sum, in which each matrix product has two sides.

Hint: a gradient has the shape of what it belongs to. There is mostly one
product that has it.

Check it with: nprnn exercise check rnn_step.py
"""

import numpy as np


def rnn_step_forward(x, h_prev, W_ih, W_hh, b):
    """Compute the next state.

    Parameters
    ----------
    x : ndarray of shape (B, I)
        Input.
    h_prev : ndarray of shape (B, H)
        The state before.
    W_ih : ndarray of shape (H, I)
    W_hh : ndarray of shape (H, H)
    b : ndarray of shape (H,)

    Returns
    -------
    h_next : ndarray of shape (B, H)
    cache : anything
        What `rnn_step_backward` needs.
    """
    h_next = np.tanh(x @ W_ih.T + h_prev @ W_hh.T + b)  # (B, H)
    return h_next, (x, h_prev, W_ih, W_hh, h_next)


def rnn_step_backward(d_h_next, cache):
    """Compute the gradients of everything that went into the step.

    Parameters
    ----------
    d_h_next : ndarray of shape (B, H)
        Gradient of the loss by `h_next`.
    cache : anything
        From `rnn_step_forward`.

    Returns
    -------
    d_x : ndarray of shape (B, I)
    d_h_prev : ndarray of shape (B, H)
    d_W_ih : ndarray of shape (H, I)
    d_W_hh : ndarray of shape (H, H)
    d_b : ndarray of shape (H,)
    """
    x, h_prev, W_ih, W_hh, h_next = cache
    d_a = d_h_next * (1 - h_next**2)  # (B, H)
    d_x = d_a @ W_ih
    d_h_prev = d_a @ W_hh
    d_W_ih = d_a.T @ x
    d_W_hh = d_a.T @ h_prev
    d_b = d_a.sum(axis=0)
    return d_x, d_h_prev, d_W_ih, d_W_hh, d_b
