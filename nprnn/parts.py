"""A batch shared out: parts of it, computed side by side.

NumPy lets other threads run while it computes, so that two threads fill two processors; of what
Python does in between, only one of them does some at a time. So it pays where the products of a
step are long beside that.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import numpy as np

from .blas import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from typing import TypeVar

    T = TypeVar("T")

# What a thread multiplies in the time that another spends in Python for one step: for each of them
# the others' steps must leave so much room.
_MEANWHILE = 1.25e6


def number_of_parts(threads: int, B: int, weights: int) -> int:
    """Return in how many equal parts B sequences are computed, at most one a thread.

    Parameters
    ----------
    threads, B : int
    weights : int
        Numbers in W_hh, each of which a step multiplies by those of every sequence.
    """
    for parts in range(min(threads, B), 1, -1):
        if B % parts == 0 and weights * (B // parts) >= parts * _MEANWHILE:
            return parts
    return 1


def columns(part: int, parts: int, B: int) -> slice:
    """Return the sequences of one of the equal parts, counted from 0."""
    return slice(part * B // parts, (part + 1) * B // parts)


def side_by_side(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what each call returns, the first made here and the others in threads of their own.

    Meanwhile BLAS gives each of them one thread, and everything else in the process too.
    """
    from concurrent.futures import wait

    settings = np.geterr()  # which threads do not inherit

    def make(call: Callable[[], T]) -> T:
        with np.errstate(**settings):
            return call()

    workers = _workers(len(calls) - 1, os.getpid())
    with one_thread():
        others = [workers.submit(make, call) for call in calls[1:]]
        try:
            first = calls[0]()
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]


@functools.cache
def _workers(number: int, process: int) -> ThreadPoolExecutor:
    """Return threads that stay: a new one might allocate elsewhere, and find nothing in the cache.

    A process that was forked has none of those of its parent, and is given its own.
    """
    from concurrent.futures import ThreadPoolExecutor  # two milliseconds of the package's import

    return ThreadPoolExecutor(number, "nprnn")
