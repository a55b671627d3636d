"""Softmax and cross-entropy over time.

At each step the network scores V classes, and the softmax makes probabilities
of the scores o:

    p_k = exp(o_k) / Σ_j exp(o_j)

The loss of a step is -ln p of the right class, in nats. The loss of all is the
mean over the T steps of the B sequences, T B in all. Its gradient by o is
simple: derive it before you write it.

Hint: exp(1000) overflows, and the logarithm of a probability that has become 0
is -∞. Adding the same number to all scores changes no probability: which
number makes every exp at most 1? And take the logarithm on paper, before you
compute it.

Check it with: nprnn exercise check softmax_cross_entropy.py
"""

import numpy as np


def softmax_cross_entropy(logits, targets):
    """Compute the mean loss and its gradient.

    Parameters
    ----------
    logits : ndarray of shape (T, B, V)
        Scores; of any size, ±1000 too.
    targets : ndarray of int, shape (T, B)
        The right classes, from 0 to V-1.

    Returns
    -------
    loss : float
        Mean over T and B, in nats.
    d_logits : ndarray of shape (T, B, V)
    """
    T, B, V = logits.shape
    shifted = logits - logits.max(axis=-1, keepdims=True)  # (T, B, V)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)  # (T, B, 1)
    log_p = shifted - np.log(total)  # (T, B, V)
    y = np.eye(V)[targets]  # (T, B, V)
    loss = -(y * log_p).sum() / (T * B)
    d_logits = (np.exp(log_p) - y) / (T * B)
    return loss, d_logits
