"""Processes that train one model together: data parallelism over MPI.

Each rank holds the whole model, takes its own columns of every batch, and carries their state. The
gradients are averaged by one Allreduce over one vector, after which every rank takes the same step
and holds the same bits. Everything here goes through mpi4py, the extra ``nprnn[mpi]``, which is
imported when a `Ranks` is made and not before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .alone import PATIENCE, READ, Alone
from .columns import Columns
from .stack import as_parts, from_parts

if TYPE_CHECKING:
    from ._validation import Array, Params
    from .stack import State

_SENTENCE = 1000  # bytes of a message between ranks


class RanksError(ValueError):
    """The ranks do not hold what they should; the message names the rank."""


class Ranks(Alone):
    """The ranks of an MPI communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        All that mpiexec started, without it.

    Attributes
    ----------
    rank, size : int
        Which of how many this process is, from 0.

    Raises
    ------
    ImportError
        Without mpi4py.
    RanksError
        If the ranks run different versions of nprnn.

    Examples
    --------
    Started by ``mpiexec -n 4 python program.py``::

        ranks = nprnn.distributed.Ranks()
        for record in nprnn.train(model, tokens, batch_size=32, num_steps=64, epochs=5,
                                  rng=0, ranks=ranks):
            if ranks.rank == 0:
                print(record.loss)

    In a loop of one's own::

        own = ranks.columns(batch_size)
        loss, grads, state = model.loss_and_grads(inputs[:, own], targets[:, own], state)
        loss, grads = ranks.mean(loss, grads)  # of the whole batch
        nprnn.clip_grad_norm(grads, max_norm=1.0)
        optimizer.step(grads)
    """

    def __init__(self, comm: Any = None) -> None:
        try:
            from mpi4py import MPI
        except ImportError:
            raise ImportError(
                "training on several ranks needs mpi4py: pip install 'nprnn[mpi]'"
            ) from None
        from . import __version__

        self._mpi = MPI
        self._comm = MPI.COMM_WORLD if comm is None else comm
        # What a rank says in trouble must not meet what the others say meanwhile.
        self._trouble = self._comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self.check_same("version of nprnn", __version__)

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """Return a Generator over the same bits that draws dropout masks for the own columns."""
        return Columns(rng, self.rank, self.size)

    def seed(self) -> int | None:
        """Return a seed that is the same on every rank: rank 0 draws it."""
        drawn = np.array([np.random.SeedSequence().entropy % 2**63], np.int64)  # type: ignore[operator]
        self._comm.Bcast(drawn)
        return int(drawn[0])

    def mean(self, loss: Any, grads: Params, weight: float | None = None) -> tuple[Any, Params]:
        """Return loss and gradients of the whole batch: one Allreduce of one vector."""
        share = 1 / self.size
        if weight is not None:
            total = np.array([weight], float)
            self._comm.Allreduce(self._mpi.IN_PLACE, total)
            share = weight / float(total[0])
        dtype = np.result_type(*grads.values())
        # Not one that is kept: who takes a step back may still need the gradients before.
        flat = np.empty(1 + sum(gradient.size for gradient in grads.values()), dtype)
        views, end = {}, 1
        for name, gradient in grads.items():
            start, end = end, end + gradient.size
            views[name] = flat[start:end].reshape(gradient.shape)
            np.multiply(gradient, dtype.type(share), out=views[name])
        flat[0] = loss * share
        self._comm.Allreduce(self._mpi.IN_PLACE, flat)
        return flat[0], views

    def highest(self, *numbers: float) -> tuple[float, ...]:
        """Return the highest that any rank has of each number: what all are to act upon."""
        both = np.array(numbers, float)
        self._comm.Allreduce(self._mpi.IN_PLACE, both, op=self._mpi.MAX)
        return tuple(both.tolist())

    def whole_state(self, state: State) -> State:
        """Return the states of all sequences, (L, B, H), from those of each rank's own."""
        if state is None:
            return None
        return from_parts([self._gathered(part) for part in as_parts(state)])

    def _gathered(self, part: Array) -> Array:
        L, B, H = part.shape
        every = np.empty((self.size, L, B, H), part.dtype)
        self._comm.Allgather(np.ascontiguousarray(part), every)
        return every.transpose(1, 0, 2, 3).reshape(L, self.size * B, H)

    def own_state(self, state: State) -> State:
        """Return the states of the own sequences, from those of all."""
        if state is None:
            return None
        parts = as_parts(state)
        own = self.columns(parts[0].shape[1])
        return from_parts([np.ascontiguousarray(part[:, own]) for part in parts])

    def first_told(self, sentence: str | None) -> str | None:
        """Return the sentence of the first rank that has one, with the number of that rank."""
        own = np.zeros(_SENTENCE, np.uint8)
        if sentence is not None:
            text = f"on rank {self.rank} {sentence}".encode()[:_SENTENCE]
            own[: len(text)] = np.frombuffer(text, np.uint8)
        for told in self._every(own):
            if told.any():
                return bytes(told).rstrip(b"\0").decode("utf-8", "ignore")
        return None

    def check_same(self, what: str, content: bytes | str) -> None:
        """Raise an error that names a rank whose content is not that of rank 0."""
        import hashlib

        data = content.encode() if isinstance(content, str) else content
        digests = self._every(np.frombuffer(hashlib.sha256(data).digest(), np.uint8))
        others = [rank for rank, own in enumerate(digests) if (own != digests[0]).any()]
        if others:
            raise RanksError(
                f"all ranks must have the same {what}; rank {others[0]} has another than rank 0"
            )

    def check_equal(self, params: Mapping[str, Array], step: int) -> None:
        """Raise an error that names a rank whose parameters are not those of rank 0."""
        import zlib

        own = 0
        for value in params.values():
            own = zlib.crc32(np.ascontiguousarray(value).data, own)
        sums = self._every(np.array([own], np.int64))[:, 0]
        others = np.flatnonzero(sums != sums[0])
        if len(others):
            raise RanksError(
                f"after step {step} the parameters of rank {others[0]} are not those of rank 0: "
                "were all given the same model, the same seed and the same gradients?"
            )

    def share(self, content: bytes) -> bytes:
        """Return what rank 0 gives."""
        length = np.array([len(content)], np.int64)
        self._comm.Bcast(length)
        data = np.zeros(int(length[0]), np.uint8)
        if self.rank == 0:
            data[:] = np.frombuffer(content, np.uint8)
        self._comm.Bcast(data)
        return data.tobytes()

    def wait(self) -> None:
        """Return when all ranks have come this far."""
        self._comm.Barrier()

    def all_in_trouble(self) -> bool:
        """Whether all ranks ask this within two seconds: an error of one that all have met."""
        request, end = self._trouble.Ibarrier(), time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def end_all(self, status: int) -> NoReturn:
        """End all ranks at once, whatever they wait for."""
        time.sleep(READ)
        self._comm.Abort(status)
        time.sleep(PATIENCE)  # MPICH may come back from there, to be ended a little later
        os._exit(status)

    def _every(self, own: Array) -> Array:
        """Return the arrays of all ranks, one below the other."""
        every = np.empty((self.size, *own.shape), own.dtype)
        self._comm.Allgather(own, every)
        return every
