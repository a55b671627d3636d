"""One-hot vectors.

A network reads numbers, and a text is made of symbols. Number the symbols 0 …
V-1, and let symbol k be the vector that holds 1 at place k and 0 at all
others:

    vectors[t, b, k] = 1 if indices[t, b] = k, else 0

Hint: compare the indices with all V numbers at once, or take rows of the
identity matrix.

Check it with: nprnn exercise check one_hot.py
"""

import numpy as np


def one_hot(indices, num_classes):
    """Turn class numbers into one-hot vectors.

    Parameters
    ----------
    indices : ndarray of int, shape (T, B)
        Numbers from 0 to V-1.
    num_classes : int
        V.

    Returns
    -------
    vectors : ndarray of shape (T, B, V)
    """
    return (indices[..., None] == np.arange(num_classes)).astype(np.float64)
