"""The training loop, as a generator that reports and never prints."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
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
        Passes over the tokens.
    max_steps, max_seconds : int and float, optional
        Stop after so many steps or so much time, even within an epoch.
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
    rng : Generator or int, optional
        Draws offsets, the order, and dropout masks.

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
    rng = check.generator(rng)
    steps = _steps(
        model,
        lambda: make_batches(sequence, batch_size, num_steps, rng=rng),
        held_out,
        optimizer,
        schedule=lr if callable(lr) else None,
        max_norm=max_norm,
        recompute_every=recompute_every,
        carry_state=order == "sequential",
        epochs=check.integer("epochs", epochs),
        max_steps=math.inf if max_steps is None else max_steps,
        max_seconds=math.inf if max_seconds is None else max_seconds,
        rng=rng,
    )
    return steps if per == "step" else _by_epoch(steps)


def _steps(
    model: LanguageModel,
    batches: Callable[[], Iterator[tuple[Array, Array]]],
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
    rng: np.random.Generator,
) -> Iterator[Record]:
    """Train, and yield a record a step."""
    step, start = 0, time.perf_counter()
    for epoch in range(1, epochs + 1):
        state = None
        begin = time.perf_counter()
        for (inputs, targets), is_last in _marking_last(batches()):
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
            stop = step >= max_steps or end - start >= max_seconds
            held_out = None
            if validation is not None and (is_last or stop):
                held_out = evaluate(model, validation)
            yield Record(epoch, step, float(loss), norm, inputs.size, end - begin, held_out)
            if stop:
                return
            begin = time.perf_counter()


def _by_epoch(steps: Iterator[Record]) -> Iterator[Record]:
    """Join the records of each epoch to one: means of loss and norm, sums of tokens and time."""
    for _, records in itertools.groupby(steps, key=lambda record: record.epoch):
        epoch = list(records)
        yield epoch[-1]._replace(
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
