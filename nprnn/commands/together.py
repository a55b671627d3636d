"""A command that mpiexec has started several times: one of the ranks speaks for all."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from ..alone import PATIENCE, READ, Alone, launched_as
from .console import harmless, note

if TYPE_CHECKING:
    from ..distributed import Ranks

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
    ranks = _met()
    try:
        yield ranks
    except Exception as error:
        _tell_if_alone(ranks, sentence(error))
        raise
    except KeyboardInterrupt:
        ranks.end_all(130)


class Parser(argparse.ArgumentParser):
    """A parser of arguments that all ranks are given: one that is given others ends them all."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and end."""
        if launched_as() is not None and importlib.util.find_spec("mpi4py"):
            _tell_if_alone(_met(), message)
        super().error(message)


def _met() -> Ranks:
    """Return the ranks, once all are there; where that cannot be, no other waits for this one."""
    from ..distributed import Ranks

    try:
        return Ranks()
    except ImportError as error:
        if launched_as():
            time.sleep(PATIENCE)  # the first one speaks, if it lacks the same
        _tell(f"on rank {launched_as()}: {error}")
        # Without MPI there is only this: mpiexec ends all when one has died, not when one exits.
        time.sleep(READ)
        signal.raise_signal(signal.SIGTERM)
        raise


def _tell_if_alone(ranks: Ranks, trouble: str) -> None:
    """End all ranks with a sentence if this one has a trouble that others have not."""
    if not ranks.all_in_trouble():
        _tell(f"on rank {ranks.rank} of {ranks.size}: {trouble}")
        ranks.end_all(2)


def _tell(trouble: str) -> None:
    with contextlib.redirect_stderr(sys.__stderr__):  # this rank speaks, whichever it is
        note(f"nprnn: error: {harmless(trouble)}")


def ends(file: str) -> bytes:
    """Return what tells a file from others, without reading all of it."""
    with open(file, "rb") as source:
        size = source.seek(0, os.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(0, size - _EDGE)):
            source.seek(start)
            digest.update(source.read(_EDGE))
    return digest.digest()
