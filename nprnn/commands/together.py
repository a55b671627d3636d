"""A command that mpiexec has started several times: one of the ranks speaks for all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator

from ..alone import Alone, launched_as
from .console import note

_EDGE = 1 << 16  # bytes of a file's ends, by which two are told apart


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let the first rank write, and no other: all would write the same."""
    with contextlib.ExitStack() as stack:
        if launched_as():
            silent = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silent))
            stack.enter_context(contextlib.redirect_stderr(silent))
        yield


@contextlib.contextmanager
def together(sentence: Callable[[Exception], str]) -> Iterator[Alone]:
    """Yield the ranks that mpiexec has started, or a single one.

    An error that all ranks meet is raised by all. One that a single rank meets is told by that
    rank, which then ends the others: they may be waiting for it.

    Parameters
    ----------
    sentence : callable
        Says in words what an error is.
    """
    if launched_as() is None:
        yield Alone()
        return
    from ..distributed import Ranks

    ranks = Ranks()
    try:
        yield ranks
    except Exception as error:
        if ranks.all_in_trouble():
            raise
        with contextlib.redirect_stderr(sys.__stderr__):  # this rank speaks, whichever it is
            note(f"nprnn: error: on rank {ranks.rank} of {ranks.size}: {sentence(error)}")
        ranks.end_all(2)
    except KeyboardInterrupt:
        ranks.end_all(130)


def ends(file: str) -> bytes:
    """Return what tells a file from others, without reading all of it."""
    with open(file, "rb") as source:
        size = source.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(0, size - _EDGE)):
            source.seek(start)
            digest.update(source.read(_EDGE))
    return digest.digest()
