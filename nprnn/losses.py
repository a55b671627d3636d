"""Losses and their gradients: each function returns both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array


def softmax_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Any, Array]:
    r"""Return the mean negative log-likelihood under a softmax, and its gradient.

    With p = softmax(o) the loss of one position is -ln p[target], and its gradient is
    p - one_hot(target). Both are divided by the number of positions that count.

    Parameters
    ----------
    logits : array_like of float, shape (..., V)
        Unnormalised log-probabilities o. They may be of any size: the largest is subtracted first.
    targets : array_like of int, shape (...)
        The right class of each position, in 0 .. V-1.
    mask : array_like of bool, shape (...), optional
        Positions that count. At the others logits and targets may hold anything, NaN included, and
        the gradient is 0.

    Returns
    -------
    loss : scalar of the logits' dtype
        In nats. `exp(loss)` is the perplexity, `loss / ln(2)` the bits per position.
    d_logits : ndarray of shape (..., V)

    Raises
    ------
    ValueError
        If shapes do not fit, a class is outside 0 .. V-1, or no position counts.

    Examples
    --------
    >>> loss, d_logits = softmax_cross_entropy(np.zeros((1, 4)), [3])
    >>> float(np.exp(loss)), d_logits
    (4.0, array([[ 0.25,  0.25,  0.25, -0.75]]))
    """
    return summed_cross_entropy(logits, targets, mask)


def summed_cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None, count: int | None = None
) -> tuple[Any, Array]:
    """Return a part of `softmax_cross_entropy`: the sum over the positions, divided by `count`.

    Without `count` the mean: then at least one position must count.
    """
    scores = check.float_array("logits", logits)
    check.shape("logits", scores, "(..., V)", scores.ndim >= 1 and scores.shape[-1] >= 1)
    labels = check.array("targets", targets)
    expected = f"logits.shape[:-1] = {scores.shape[:-1]}"
    check.shape("targets", labels, expected, labels.shape == scores.shape[:-1])
    chosen = _chosen(mask, labels.shape, allow_none=count is not None)
    V = scores.shape[-1]
    rows = scores.reshape(-1, V)[chosen]  # (N, V)
    classes = check.index_array("targets", labels.ravel()[chosen], V, "V")
    N = len(classes)

    # ln p = o - max o - ln Σ exp(o - max o). The maximum is that of the real part: it is a constant
    # that cancels, and so has no derivative to carry.
    # Infinite or unrepresentably distant logits make the loss NaN or infinite, without a warning.
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = rows - rows.real.max(axis=1, keepdims=True)  # (N, V)
        entries, places = _entries(shifted, classes)
        at_target = entries[places]  # (N,)
        probabilities = np.exp(shifted, out=shifted)
        totals = probabilities.sum(axis=1)  # (N,)
        count = N if count is None else count
        loss = _mean(np.log(totals) - at_target, count)

        # d_o = (p - one_hot(target)) / N
        scale = 1 / count
        np.multiply(probabilities, (scale / totals)[:, None], out=probabilities)
        entries[places] -= scale
    return loss, _spread(probabilities, chosen, scores.shape)


def mean_squared_error(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None
) -> tuple[Any, Array]:
    """Return the mean of (prediction - target)² over all entries that count, and its gradient.

    Parameters
    ----------
    prediction, target : array_like of float, shape (..., K)
    mask : array_like of bool, shape (...), optional
        Positions that count, all K entries of each. At the others the arrays may hold anything, NaN
        included, and the gradient is 0.

    Returns
    -------
    loss : scalar of the prediction's dtype
    d_prediction : ndarray of shape (..., K)

    Examples
    --------
    >>> mean_squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (np.float64(2.0), array([[ 0., -2.]]))
    """
    return summed_squared_error(prediction, target, mask)


def summed_squared_error(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, count: int | None = None
) -> tuple[Any, Array]:
    """Return a part of `mean_squared_error`: the sum over the entries, divided by `count` times K.

    Without `count` the mean: then at least one position must count.
    """
    guess = check.float_array("prediction", prediction)
    check.shape("prediction", guess, "(..., K)", guess.ndim >= 1)
    truth = check.float_array("target", target)
    check.shape("target", truth, f"prediction.shape = {guess.shape}", truth.shape == guess.shape)
    check.same_precision("target", truth, guess.dtype)
    chosen = _chosen(mask, guess.shape[:-1], allow_none=count is not None)
    K = guess.shape[-1]
    if K == 0:
        raise ValueError("prediction is empty: the mean over nothing is undefined")
    error = guess.reshape(-1, K)[chosen] - truth.reshape(-1, K)[chosen]  # (N, K)
    size = error.size if count is None else count * K
    with np.errstate(invalid="ignore", over="ignore"):
        loss = _mean(error * error, size)
    return loss, _spread(error * (2 / size), chosen, guess.shape)


def _mean(parts: Array, count: int) -> Any:
    """Return their sum divided by `count`, in their own type.

    Added up in double precision: the sum of what float32 can hold may be more than it can hold.
    """
    return (parts.sum(dtype=np.result_type(parts, np.float64)) / count).astype(parts.dtype)


def _entries(matrix: Array, columns: Array) -> tuple[Array, Array]:
    """Return a contiguous matrix as a vector, a view, and where in it each row's column is.

    One index takes a third of the time of two.
    """
    (N, V), columns = matrix.shape, columns.astype(np.intp, copy=False)
    if matrix.flags.c_contiguous:
        return matrix.reshape(-1), columns + np.arange(0, N * V, V)
    return matrix.T.reshape(-1), columns * N + np.arange(N)


def _chosen(mask: ArrayLike | None, positions: tuple[int, ...], allow_none: bool) -> Any:
    """Return an index of the positions that count, over the flattened array."""
    if mask is None:
        if 0 in positions and not allow_none:
            raise ValueError(f"there are no positions (shape {positions}): no mean over nothing")
        return slice(None)
    given = check.array("mask", mask)
    check.shape("mask", given, f"{positions}, one entry a position", given.shape == positions)
    if given.dtype.kind != "b" and not np.isin(given, (0, 1)).all():
        raise ValueError("mask must hold only True and False, or 1 and 0")
    chosen = np.flatnonzero(given)
    if not len(chosen) and not allow_none:
        raise ValueError("mask leaves no position: the mean over nothing is undefined")
    return chosen


def _spread(rows: Array, chosen: Any, shape: tuple[int, ...]) -> Array:
    """Put the gradients of the positions that count in their places, and 0 in the others."""
    if isinstance(chosen, slice):
        return rows.reshape(shape)
    full = np.zeros((int(np.prod(shape[:-1])), shape[-1]), rows.dtype)
    full[chosen] = rows
    return full.reshape(shape)
