"""The training loop, as a generator that reports and never prints."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from . import _validation as check
from ._validation import NonFiniteError
from .batching import check_ids, let_go, random_batches, sequential_batches
from .clipping import clip_grad_norm
from .optim import SGD

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array, Params, RandomSource
    from .models import LanguageModel
    from .stack import State

    class Optimizer(Protocol):
        """What `train` asks of an optimizer."""

        lr: float

        def step(self, grads: Params) -> None:
            """Update the parameters in place."""


class Record(NamedTuple):
    """What happened in one step, or in one epoch.

    Attributes
    ----------
    epoch : int
        The epoch that it belongs to, from 1.
    step : int
        Steps taken since training began.
    loss : float
        Mean training loss, in nats a token.
    grad_norm : float
        Norm of the gradients before clipping; over an epoch the mean.
    tokens : int
        Tokens trained on in this step or epoch.
    seconds : float
        Time that took, validation not included.
    validation_loss : float or None
        At the end of an epoch, and at the end of training: mean loss on the validation tokens, in
        nats a token.
    """

    epoch: int
    step: int
    loss: float
    grad_norm: float
    tokens: int
    seconds: float
    validation_loss: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of tokens among which the model in effect still wavers."""
        return perplexity(self.loss)

    @property
    def validation_perplexity(self) -> float | None:
        """exp(validation_loss)."""
        return None if self.validation_loss is None else perplexity(self.validation_loss)

    @property
    def tokens_per_second(self) -> float:
        """Speed of training."""
        return self.tokens / self.seconds if self.seconds else math.inf


@dataclass
class Position:
    """Where training stands between two steps.

    With the model, the optimizer and the tokens it is all that is needed to go on as if never
    interrupted, to the last bit; `nprnn.checkpoint` writes it to a file.

    Attributes
    ----------
    epoch : int
        The epoch that the next step belongs to, from 1.
    batch : int
        Batches of it that are done.
    step : int
        Steps taken since training began.
    state : ndarray of shape (L, B, H), the pair (h, c) of such, or None
        What the next batch begins with, where the state is carried.
    epoch_rng, rng : dict or None
        State of the Generator when the epoch began, which drew its batches, and now. None stands
        for an epoch, or a training, that is still to begin.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    state: State = None
    epoch_rng: Mapping[str, Any] | None = None
    rng: Mapping[str, Any] | None = None


def perplexity(loss: float) -> float:
    """Return exp(loss), infinity where that is too large for a float."""
    return math.exp(loss) if loss < 709 else math.inf


def train(
    model: LanguageModel,
    tokens: ArrayLike,
    *,
    batch_size: int = 32,
    num_steps: int = 35,
    epochs: int = 1,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    optimizer: Optimizer | None = None,
    lr: float | Callable[[int], float] | None = None,
    max_norm: float = 1.0,
    order: str = "sequential",
    validation: ArrayLike | None = None,
    recompute_every: int | str | None = None,
    per: str = "epoch",
    position: Position | None = None,
    rng: RandomSource = None,
) -> Iterator[Record]:
    """Train a model on a sequence of tokens, in place, and report as it goes.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
    batch_size, num_steps : int
        Sequences in a batch, B, and steps in a window, T.
    epochs : int, default 1
        Passes over the tokens, those before `position` included.
    max_steps, max_seconds : int and float, optional
        Stop at this step, those before `position` included, or after so much time, even within an
        epoch.
    optimizer : optional
        Anything with a method `step(grads)` and an attribute `lr`; by default `SGD`.
    lr : float or function of the step, from 0, optional
        Learning rate. By default the optimizer's own, and 1 for the default optimizer.
    max_norm : float, default 1
        The gradients' common norm is clipped to this; infinity clips nothing.
    order : {"sequential", "random"}
        Whether windows follow each other, and the state is carried from one to the next; or are
        drawn at random, and each starts from zero.
    validation : array_like of int, shape (any,), optional
        Tokens to score at the end of each epoch; see `evaluate`.
    recompute_every : int or "auto", optional
        For windows of very many steps; see `LanguageModel.loss_and_grads`.
    per : {"epoch", "step"}
        How often to report.
    position : Position, optional
        Where to begin: at the very beginning without it. It is kept up to date, so that with each
        record it says where training stands. A position in the middle goes with the model and the
        optimizer as they were then, and with the same arguments.
    rng : Generator or int, optional
        Draws offsets, the order, and dropout masks. A position in the middle has its own state,
        which the Generator takes over.

    Returns
    -------
    iterator of Record
        Training goes on as the next record is asked for.

    Raises
    ------
    NonFiniteError
        If a gradient is NaN or infinite; the parameters are those of the step before.

    Examples
    --------
    >>> import nprnn
    >>> text = "the quick brown fox jumps over the lazy dog " * 50
    >>> vocabulary = nprnn.Vocabulary(text)
    >>> model = nprnn.LanguageModel(len(vocabulary), 32, rng=0)
    >>> ids = vocabulary.encode(text)
    >>> for record in nprnn.train(model, ids, batch_size=4, num_steps=20, epochs=20, rng=0):
    ...     pass
    >>> record.step, record.perplexity < 1.1
    (540, True)
    """
    sequence = tokens if isinstance(tokens, np.ndarray) else check.array("tokens", tokens)
    if not hasattr(model, "vocab_size"):
        raise TypeError(f"model must be a LanguageModel, got {model!r}")
    batches_of = {"sequential": sequential_batches, "random": random_batches}
    make_batches = batches_of[check.choice("order", order, tuple(batches_of))]
    make_batches(sequence, batch_size, num_steps, rng=0)  # refuses what does not fit, before a step
    check_ids("tokens", sequence, model.vocab_size, "vocab_size")
    held_out = None if validation is None else _checked_sequence("validation", validation, model)
    if max_steps is not None:
        max_steps = check.integer("max_steps", max_steps)
    if max_seconds is not None:
        max_seconds = check.real("max_seconds", max_seconds, "(0, inf]")
    max_norm = check.real("max_norm", max_norm, "(0, inf]")
    check.choice("per", per, ("epoch", "step"))
    if optimizer is None:
        optimizer = SGD(model.params, lr=1.0)
    elif not callable(getattr(optimizer, "step", None)) or not hasattr(optimizer, "lr"):
        raise TypeError(f"optimizer must have a method step and an attribute lr, got {optimizer!r}")
    if lr is not None and not callable(lr):
        optimizer.lr = check.real("lr", lr, "[0, inf)")
    position = Position() if position is None else position
    rng = check.generator(rng)
    if position.rng is not None:
        rng.bit_generator.state = position.rng
    steps = _steps(
        model,
        lambda start: make_batches(sequence, batch_size, num_steps, rng=rng, start=start),
        held_out,
        optimizer,
        schedule=lr if callable(lr) else None,
        max_norm=max_norm,
        recompute_every=recompute_every,
        carry_state=order == "sequential",
        epochs=check.integer("epochs", epochs),
        max_steps=math.inf if max_steps is None else max_steps,
        max_seconds=math.inf if max_seconds is None else max_seconds,
        position=position,
        rng=rng,
    )
    return steps if per == "step" else _by_epoch(steps, position)


def _steps(
    model: LanguageModel,
    batches: Callable[[int], Iterator[tuple[Array, Array]]],
    validation: Array | None,
    optimizer: Optimizer,
    *,
    schedule: Callable[[int], float] | None,
    max_norm: float,
    recompute_every: int | str | None,
    carry_state: bool,
    epochs: int,
    max_steps: float,
    max_seconds: float,
    position: Position,
    rng: np.random.Generator,
) -> Iterator[Record]:
    """Train, and yield a record a step."""
    step, start = position.step, time.perf_counter()
    for epoch in range(position.epoch, epochs + 1):
        state = position.state
        begin = time.perf_counter()
        for (inputs, targets), is_last in _marking_last(_go_on(batches, position, rng)):
            if step >= max_steps:
                return
            if schedule is not None:
                optimizer.lr = schedule(step)
            loss, grads, state = model.loss_and_grads(
                inputs, targets, state, rng=rng, recompute_every=recompute_every
            )
            try:
                norm = clip_grad_norm(grads, max_norm)
            except NonFiniteError as error:
                raise NonFiniteError(f"step {step + 1}, loss {loss}: {error}") from None
            optimizer.step(grads)
            if not carry_state:
                state = None
            step += 1
            end = time.perf_counter()
            _move(position, state, rng, is_last=is_last)
            stop = step >= max_steps or end - start >= max_seconds
            held_out = None
            if validation is not None and (is_last or stop):
                held_out = evaluate(model, validation)
            yield Record(epoch, step, float(loss), norm, inputs.size, end - begin, held_out)
            if stop:
                return
            begin = time.perf_counter()


def _go_on(
    batches: Callable[[int], Iterator[tuple[Array, Array]]],
    position: Position,
    rng: np.random.Generator,
) -> Iterator[tuple[Array, Array]]:
    """Return the epoch's batches that are still to come."""
    if position.epoch_rng is None or position.rng is None:
        position.epoch_rng = rng.bit_generator.state
        return batches(0)
    rng.bit_generator.state = position.epoch_rng
    remaining = batches(position.batch)
    first = next(remaining)  # draws once more what was drawn then
    rng.bit_generator.state = position.rng
    return itertools.chain([first], remaining)


def _move(position: Position, state: State, rng: np.random.Generator, *, is_last: bool) -> None:
    """Take note of a step: within its epoch, or on to the next."""
    position.step += 1
    position.rng = rng.bit_generator.state
    if is_last:
        position.epoch, position.batch = position.epoch + 1, 0
        position.state = position.epoch_rng = None
    else:
        position.batch, position.state = position.batch + 1, state


def _by_epoch(steps: Iterator[Record], position: Position) -> Iterator[Record]:
    """Join the records of each epoch to one: means of loss and norm, sums of tokens and time."""
    epoch: list[Record] = []
    for record in steps:
        epoch.append(record)
        if position.batch == 0:
            yield _joined(epoch)
            epoch = []
    if epoch:
        yield _joined(epoch)


def _joined(epoch: list[Record]) -> Record:
    return epoch[-1]._replace(
        loss=math.fsum(record.loss for record in epoch) / len(epoch),
        grad_norm=math.fsum(record.grad_norm for record in epoch) / len(epoch),
        tokens=sum(record.tokens for record in epoch),
        seconds=math.fsum(record.seconds for record in epoch),
    )


def _marking_last(items: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each item, and whether it is the last."""
    for item, following in itertools.pairwise(itertools.chain(items, [None])):
        yield item, following is None


def evaluate(model: LanguageModel, tokens: ArrayLike, *, num_steps: int = 512) -> float:
    """Return the mean loss over a sequence, every token but the first scored once.

    The sequence is read as one, from a zero state that is carried to the end.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
        At least two.
    num_steps : int, default 512
        Steps computed at a time. It changes the memory needed, not the result.

    Returns
    -------
    float
        Nats a token.
    """
    sequence = _checked_sequence("tokens", tokens, model)
    num_steps = check.integer("num_steps", num_steps)
    state, total = None, 0.0
    for start in range(0, len(sequence) - 1, num_steps):
        window = sequence[start : start + num_steps + 1]
        loss, state = model.loss(window[:-1], window[1:], state)
        total += float(loss) * (len(window) - 1)
        let_go(sequence)
    return total / (len(sequence) - 1)


def _checked_sequence(name: str, tokens: ArrayLike, model: LanguageModel) -> Array:
    sequence = tokens if isinstance(tokens, np.ndarray) else check.array(name, tokens)
    check.shape(name, sequence, "(N,), N at least 2", sequence.ndim == 1 and len(sequence) > 1)
    check_ids(name, sequence, model.vocab_size, "vocab_size")
    return sequence
