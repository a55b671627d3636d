"""Clipping the gradient by its norm.

Through many steps a gradient can grow beyond all bounds, and one such step
ruins the weights. So its length is limited, and its direction kept. All
gradients count as one long vector g:

    norm = √(Σ g²)                       over all entries of all arrays
    g    ← g · min(1, max_norm / norm)

The norm is returned too, as it was before clipping: it is worth watching.

Hint: a gradient that is short enough stays as it is. Some add 1e-6 to the norm
that they divide by; do as you like. To change the arrays in place, and to
return no more than the norm, is right as well.

Check it with: nprnn exercise check clip_grad_norm.py
"""

import numpy as np


def clip_grad_norm(grads, max_norm):
    """Scale gradients down to a largest norm.

    Parameters
    ----------
    grads : dict of ndarray
        Gradients of any shapes, by the names of their parameters.
    max_norm : float
        The largest norm that all of them together may have.

    Returns
    -------
    grads : dict of ndarray
        With the keys and shapes of `grads`.
    norm : float
        Before clipping.
    """
    norm = np.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
    factor = min(1.0, max_norm / (norm + 1e-6))
    return {name: gradient * factor for name, gradient in grads.items()}, norm
