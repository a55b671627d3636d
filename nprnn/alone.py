"""One process where there could be several: what training asks of `nprnn.distributed`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ._validation import Array, Params
    from .stack import State

_SIGNS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")  # what mpiexec leaves in the environment
READ = 0.3  # seconds in which mpiexec reads what was written; it drops what is left at the end
PATIENCE = 2.0  # seconds that a rank in trouble waits for the others to be in it too


def launched_as() -> int | None:
    """Return which rank mpiexec, or what stands in its place, started this process as, if any."""
    for name in _SIGNS:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return None


class Alone:
    """One process, which has the whole batch: what `Ranks` is without the others."""

    rank, size = 0, 1

    def columns(self, batch_size: int) -> slice:
        """Return which sequences of a batch are this rank's.

        Parameters
        ----------
        batch_size : int
            Of the whole batch, B.

        Raises
        ------
        ValueError
            If the ranks cannot have equally many.
        """
        each, rest = divmod(batch_size, self.size)
        if rest:
            raise ValueError(
                f"batch_size must be a multiple of the number of ranks, {self.size}; got "
                f"{batch_size}: take {max(1, each) * self.size} or {(each + 1) * self.size}"
            )
        return slice(self.rank * each, (self.rank + 1) * each)

    def part(self, sequence: Array) -> Array:
        """Return a part of a sequence, such that those of all ranks make up the whole."""
        start, end = (len(sequence) * rank // self.size for rank in (self.rank, self.rank + 1))
        return sequence[start:end]

    def generator(self, rng: np.random.Generator) -> np.random.Generator:
        """Return a Generator over the same bits that draws dropout masks for the own columns."""
        return rng

    def seed(self) -> int | None:
        """Return a seed that is the same on every rank, if there is need of one."""
        return None

    def mean(self, loss: Any, grads: Params, weight: float | None = None) -> tuple[Any, Params]:
        """Return loss and gradients of the whole batch.

        Parameters
        ----------
        loss : float
            Mean over the own part of the batch.
        grads : dict
            Its gradients.
        weight : float, optional
            How much the own part counts: the number of its predictions, where lengths or a mask
            make them different. Without it all ranks count alike.

        Returns
        -------
        loss : float
        grads : dict
            Views of one new vector.
        """
        return loss, grads

    def highest(self, *numbers: float) -> tuple[float, ...]:
        """Return the highest that any rank has of each number: what all are to act upon."""
        return numbers

    def whole_state(self, state: State) -> State:
        """Return the states of all sequences, (L, B, H), from those of each rank's own."""
        return state

    def own_state(self, state: State) -> State:
        """Return the states of the own sequences, from those of all."""
        return state

    def first_told(self, sentence: str | None) -> str | None:
        """Return the sentence of the first rank that has one."""
        return sentence

    def check_same(self, what: str, content: bytes | str) -> None:
        """Raise an error that names a rank whose content is not that of rank 0."""

    def check_equal(self, params: Mapping[str, Array], step: int) -> None:
        """Raise an error that names a rank whose parameters are not those of rank 0."""

    def share(self, content: bytes) -> bytes:
        """Return what rank 0 gives."""
        return content

    def wait(self) -> None:
        """Return when all ranks have come this far."""
