"""Rows of a matrix looked up by number: what a product with one-hot vectors comes to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from . import _validation as check
from .initializers import drawn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array, Params, RandomSource

# Up to about this many classes a product with one-hot rows takes less time than sorting.
_ONE_HOT_LIMIT = 100
# Classes with more rows than this are summed one by one, those with fewer all together.
_MOST_ROUNDS = 64


class Embedding:
    """A vector for each of V classes, with the parameter of `torch.nn.Embedding`.

    Parameters
    ----------
    num_embeddings : int
        Number of classes, V.
    embedding_dim : int
        Size of a vector, E.
    dtype : {float32, float64}, default float32
        Type of the vectors.
    rng : Generator or int, optional
        Draws the vectors from N(0, 1), as PyTorch does.

    Attributes
    ----------
    params : dict
        ``weight`` of shape (V, E).

    Examples
    --------
    >>> layer = Embedding(5, 3, rng=0)
    >>> vectors, cache = layer.forward([[4, 1], [1, 1]])
    >>> grads = layer.backward(np.ones_like(vectors), cache)
    >>> vectors.shape, grads["weight"][:, 0]
    ((2, 2, 3), array([0., 3., 0., 0., 1.], dtype=float32))
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: DTypeLike = np.float32,
        rng: RandomSource = None,
    ) -> None:
        self.num_embeddings = check.integer("num_embeddings", num_embeddings)
        self.embedding_dim = check.integer("embedding_dim", embedding_dim)
        kind, rng = check.float_dtype("dtype", dtype), check.generator(rng)
        shape = (self.num_embeddings, self.embedding_dim)
        self.params: Params = {"weight": drawn(rng.standard_normal, shape, kind)}

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim})"

    def __call__(self, ids: ArrayLike) -> Array:
        """Return the vectors of shape (..., E)."""
        return self.forward(ids)[0]

    def forward(self, ids: ArrayLike) -> tuple[Array, Array]:
        """Return the vectors, (..., E), of integers in 0 .. V-1, (...), and a cache."""
        given = check.index_array("ids", ids, self.num_embeddings, "num_embeddings")
        vectors: Array = self.params["weight"].take(given, axis=0)
        return vectors, given

    def backward(self, d_vectors: ArrayLike, cache: Array) -> Params:
        """Return the gradient of the vectors, given that of those looked up, (..., E)."""
        given = check.float_array("d_vectors", d_vectors)
        expected = (*cache.shape, self.embedding_dim)
        check.shape("d_vectors", given, f"of the vectors, {expected}", given.shape == expected)
        check.same_precision("d_vectors", given, self.params["weight"].dtype)
        rows = np.ascontiguousarray(given.reshape(-1, self.embedding_dim))
        sums = sum_by_class(rows, cache.ravel(), self.num_embeddings)
        return {"weight": np.ascontiguousarray(sums.T)}

    def with_params(self, params: Mapping[str, ArrayLike]) -> Embedding:
        """Return the same layer over another array, which is used as it is, not copied."""
        layer = copy.copy(self)
        shapes = {"weight": (self.num_embeddings, self.embedding_dim)}
        layer.params = check.params("params", params, shapes)
        return layer


def sum_by_class(rows: Array, ids: Array, num_classes: int) -> Array:
    """Return, for each class, the sum of the rows (N, M) that have its number in `ids`, (N,).

    As (M, V), C-contiguous.
    """
    if num_classes <= _ONE_HOT_LIMIT:
        one_hot = np.zeros((len(ids), num_classes), rows.dtype)
        one_hot[np.arange(len(ids)), ids] = 1
        return rows.T @ one_hot
    rows = np.ascontiguousarray(rows)
    # Sorted by class, the rows of each are a group of neighbours.
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    counts = np.diff(starts, append=len(ids))
    # The largest groups first, so that those with a further row are always the first ones. All
    # first rows are taken at once, then all second ones are added, and so on: `add.reduceat`, which
    # goes from group to group, takes many times as long.
    largest_first = np.argsort(-counts, kind="stable")
    starts, counts = starts[largest_first], counts[largest_first]
    sums = rows[order[starts]]  # (number of groups, M)
    large = int((counts > _MOST_ROUNDS).sum())
    for group, start, count in zip(range(large), starts, counts, strict=False):
        sums[group] = rows[order[start : start + count]].sum(axis=0)
    for place in range(1, int(counts[large:].max(initial=1))):
        more = int((counts > place).sum())
        sums[large:more] += rows[order[starts[large:more] + place]]
    result = np.zeros((rows.shape[1], num_classes), rows.dtype)
    result[:, ids[order[starts]]] = sums.T
    return result
