"""Dropout masks of a part of a batch.

A module of its own, because it needs `numpy.random`, which is loaded when something is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .parts import columns


class Columns(np.random.Generator):
    """Draws what the whole batch is given, and returns one part of it.

    So the dropout masks do not depend on how many share the batch, and after a step the Generator
    is where it would be if nobody did.

    Parameters
    ----------
    whole : Generator
        Draws for the whole batch. Each part needs its own, in the same state.
    part, parts : int
        Which of how many equal parts, from 0.
    """

    def __init__(self, whole: np.random.Generator, part: int, parts: int) -> None:
        super().__init__(whole.bit_generator)
        self._whole, self._place = whole, (part, parts)

    def __reduce__(self) -> Any:
        return Columns, (self._whole, *self._place)

    def random(self, size: Any, dtype: Any = float) -> Any:  # type: ignore[override]
        """Draw (..., B) numbers in [0, 1), of (..., B times the parts)."""
        part, parts = self._place
        *others, B = size
        drawn = self._whole.random((*others, B * parts), dtype)
        return drawn[..., columns(part, parts, B * parts)]
