"""One step of a gated recurrent unit, for the brave.

Three gates in the order r, z, n, each with H rows of the weights and biases
(Cho et al. 2014, as PyTorch computes it, r applied after the product):

    r  = σ(W_ir x + b_ir + W_hr h + b_hr)            reset
    z  = σ(W_iz x + b_iz + W_hz h + b_hz)            update
    n  = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn))   candidate
    h' = (1 - z) ∘ n + z ∘ h

Hint: backward, go from the last equation up, and find the gradient of each
bracket. The derivative of σ is σ (1 - σ). The state h acts on h' in two
ways, through the gates and directly.

Check it with: nprnn exercise check gru_step.py
"""

import numpy as np


def gru_step_forward(x, h_prev, W_ih, W_hh, b_ih, b_hh):
    """Compute the next state.

    Parameters
    ----------
    x : ndarray of shape (B, I)
        Input.
    h_prev : ndarray of shape (B, H)
        The state before.
    W_ih : ndarray of shape (3*H, I)
    W_hh : ndarray of shape (3*H, H)
    b_ih, b_hh : ndarray of shape (3*H,)

    Returns
    -------
    h_next : ndarray of shape (B, H)
    cache : anything
        What `gru_step_backward` needs.
    """
    x_r, x_z, x_n = np.split(x @ W_ih.T + b_ih, 3, axis=1)  # (B, H) each
    h_r, h_z, h_n = np.split(h_prev @ W_hh.T + b_hh, 3, axis=1)  # (B, H) each
    r = _sigmoid(x_r + h_r)
    z = _sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    h_next = (1 - z) * n + z * h_prev
    return h_next, (x, h_prev, W_ih, W_hh, r, z, n, h_n)


def gru_step_backward(d_h_next, cache):
    """Compute the gradients of everything that went into the step.

    Parameters
    ----------
    d_h_next : ndarray of shape (B, H)
        Gradient of the loss by `h_next`.
    cache : anything
        From `gru_step_forward`.

    Returns
    -------
    d_x : ndarray of shape (B, I)
    d_h_prev : ndarray of shape (B, H)
    d_W_ih : ndarray of shape (3*H, I)
    d_W_hh : ndarray of shape (3*H, H)
    d_b_ih, d_b_hh : ndarray of shape (3*H,)
    """
    x, h_prev, W_ih, W_hh, r, z, n, h_n = cache
    d_n = d_h_next * (1 - z) * (1 - n**2)
    d_z = d_h_next * (h_prev - n) * z * (1 - z)
    d_r = d_n * h_n * r * (1 - r)
    d_from_x = np.concatenate([d_r, d_z, d_n], axis=1)  # (B, 3*H)
    d_from_h = np.concatenate([d_r, d_z, d_n * r], axis=1)  # (B, 3*H)
    d_x = d_from_x @ W_ih
    d_h_prev = d_from_h @ W_hh + d_h_next * z
    d_W_ih = d_from_x.T @ x
    d_W_hh = d_from_h.T @ h_prev
    d_b_ih, d_b_hh = d_from_x.sum(axis=0), d_from_h.sum(axis=0)
    return d_x, d_h_prev, d_W_ih, d_W_hh, d_b_ih, d_b_hh


def _sigmoid(a):
    """1 / (1 + e^-a), which overflows for no a."""
    return 0.5 * (1 + np.tanh(0.5 * a))
