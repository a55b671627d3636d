"""Drawing a token from logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array


# e to this power, times any number of tokens, is far from the largest and the smallest float64.
_LARGE = 600


class Sampler(NamedTuple):
    """How to draw a token; make one with `sampler`, which checks the settings."""

    temperature: float
    top_k: int | None
    top_p: float

    def __call__(self, logits: ArrayLike, rng: np.random.Generator) -> int:
        """Draw the index of a token.

        Parameters
        ----------
        logits : array_like of float, shape (V,)
        rng : Generator
            One number is drawn from it, none at temperature 0.
        """
        scores = np.asarray(logits).astype(np.float64)
        likeliest = int(scores.argmax())
        if self.temperature == 0:
            return likeliest
        peak = scores.item(likeliest)
        # A score common to all cancels, and is taken off where exp might leave its range.
        if self.temperature != 1 or not abs(peak) < _LARGE:
            with np.errstate(over="ignore"):  # -inf is what a tiny temperature means
                scores = (scores - peak) / self.temperature
        if self.top_k is None and self.top_p == 1:
            return _draw(np.exp(scores), rng)
        # Likeliest first, ties by index: then both cuts keep a head of the list.
        ranked = np.argsort(-scores, kind="stable")[: self.top_k]
        weights = np.exp(scores[ranked])
        cumulative = np.cumsum(weights)
        keep = int(np.searchsorted(cumulative, self.top_p * cumulative[-1])) + 1
        return int(ranked[_draw(weights[:keep], rng)])


def sampler(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Sampler:
    """Return a function that draws a token from logits.

    Parameters
    ----------
    temperature : float, default 1
        Divides the logits: below 1 the likely tokens become likelier, above 1 less so. At 0 the
        likeliest token is always taken.
    top_k : int, optional
        Draw among the k likeliest tokens only (Fan et al. 2018).
    top_p : float, optional
        Draw among the fewest likeliest tokens whose probabilities add up to at least p, in (0, 1]
        (Holtzman et al. 2020, nucleus sampling); after `top_k`.

    Examples
    --------
    >>> draw = sampler(temperature=0.5, top_k=2)
    >>> rng = np.random.default_rng(0)
    >>> [draw([0.0, 1.0, 2.0], rng) for _ in range(6)]
    [2, 2, 2, 2, 2, 1]
    """
    return Sampler(
        check.real("temperature", temperature, "[0, inf)"),
        None if top_k is None else check.integer("top_k", top_k),
        1.0 if top_p is None else check.real("top_p", top_p, "(0, 1]"),
    )


def _draw(weights: Array, rng: np.random.Generator) -> int:
    """Draw an index with probability proportional to its weight."""
    cumulative = np.add.accumulate(weights)
    # `random()` is below 1, but its product with the total may round up to the total.
    place = int(cumulative.searchsorted(rng.random() * cumulative.item(-1), "right"))
    return place if place < len(weights) else len(weights) - 1
