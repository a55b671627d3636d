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
from .alone import Alone
from .batching import check_ids, let_go, random_batches, sequential_batches
from .clipping import clip_grad_norm
from .nonfinite import first_non_finite
from .optim import SGD
from .stack import as_parts

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


_CHECKED_EVERY = 100  # steps between two comparisons of the ranks' parameters
_ONLY_IN_THE_MEAN = "it appears only in the mean over the ranks"
_KEPT = ("state_dict", "load_state_dict")  # what an optimizer needs, to take a step back


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
    rollbacks : int
        How often the step, or one of the epoch, was taken back and taken again with half the
        learning rate; see `on_nonfinite` of `train`.
    """

    epoch: int
    step: int
    loss: float
    grad_norm: float
    tokens: int
    seconds: float
    validation_loss: float | None = None
    rollbacks: int = 0

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
    rollbacks : int
        How often a step was taken back so far, and the learning rate halved.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    state: State = None
    epoch_rng: Mapping[str, Any] | None = None
    rng: Mapping[str, Any] | None = None
    rollbacks: int = 0


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
    threads: int = 1,
    per: str = "epoch",
    on_nonfinite: str = "raise",
    max_rollbacks: int = 10,
    position: Position | None = None,
    ranks: Alone | None = None,
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
    threads : int, default 1
        For a batch in large models, in how many threads at most; see there.
    per : {"epoch", "step"}
        How often to report.
    on_nonfinite : {"raise", "rollback"}
        What to do where a loss, a gradient or a carried state is NaN or infinite: stop with an
        error; or take the step before back, halve the learning rate from there on, and take the
        step again. For the latter the gradient that follows is always computed before a step is
        done, and the weights and the optimizer's state are copied once a step.
    max_rollbacks : int, default 10
        How often that may be in all, those before `position` included; then it is an error.
    position : Position, optional
        Where to begin: at the very beginning without it. It is kept up to date, so that with each
        record it says where training stands. A position in the middle goes with the model and the
        optimizer as they were then, and with the same arguments.
    ranks : nprnn.distributed.Ranks, optional
        The processes that train together. Each is given the same arguments, the whole batch's size
        among them, takes its own columns of every batch, and yields the same records; the state in
        `position` is that of its own columns.
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
        If a loss, a gradient or a carried state is NaN or infinite. The parameters are those of the
        step before, and the message says in which step, layer, parameter and at which of the
        window's times, counted from 0, the first such number appeared.

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
    ranks = Alone() if ranks is None else ranks
    columns = ranks.columns(batch_size)
    check_ids("tokens", ranks.part(sequence), model.vocab_size, "vocab_size")
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
    position = Position() if position is None else position
    if lr is not None and not callable(lr):
        optimizer.lr = check.real("lr", lr, "[0, inf)") / 2**position.rollbacks
    max_rollbacks = check.integer("max_rollbacks", max_rollbacks)
    if check.choice("on_nonfinite", on_nonfinite, ("raise", "rollback")) == "raise":
        max_rollbacks = 0
    elif not all(callable(getattr(optimizer, name, None)) for name in _KEPT):
        raise TypeError(f"on_nonfinite='rollback' needs an optimizer with {' and '.join(_KEPT)}")
    rng = check.generator(ranks.seed() if rng is None else rng)
    if position.rng is not None:
        rng.bit_generator.state = position.rng
    trainer = _Trainer(
        model,
        lambda start: make_batches(
            sequence, batch_size, num_steps, rng=rng, start=start, columns=columns
        ),
        optimizer,
        schedule=lr if callable(lr) else None,
        max_norm=max_norm,
        recompute_every=recompute_every,
        threads=check.integer("threads", threads),
        carry_state=order == "sequential",
        max_rollbacks=max_rollbacks,
        position=position,
        ranks=ranks,
        rng=rng,
    )
    steps = trainer.records(
        held_out,
        check.integer("epochs", epochs),
        math.inf if max_steps is None else max_steps,
        math.inf if max_seconds is None else max_seconds,
    )
    return steps if per == "step" else _by_epoch(steps, position)


class _Batch(NamedTuple):
    """Windows to train on, and where they stand."""

    epoch: int
    inputs: Array
    targets: Array
    is_last: bool  # of its epoch
    epoch_rng: Mapping[str, Any]  # the Generator's state when the epoch began, ...
    rng: Mapping[str, Any]  # ... and when the batch was drawn


class _Gradient(NamedTuple):
    """What a batch gave: all of it is finite."""

    batch: _Batch
    step: int  # steps taken before
    loss: float
    grads: Params  # clipped
    norm: float
    state: State  # for the batch that follows
    rng: Mapping[str, Any]  # the Generator's state after it


@dataclass
class _Trainer:
    """What takes one step after the other, and takes a bad one back."""

    model: LanguageModel
    make_batches: Callable[[int], Iterator[tuple[Array, Array]]]
    optimizer: Optimizer
    schedule: Callable[[int], float] | None
    max_norm: float
    recompute_every: int | str | None
    threads: int
    carry_state: bool
    max_rollbacks: int
    position: Position
    ranks: Alone
    rng: np.random.Generator

    def records(
        self, validation: Array | None, epochs: int, max_steps: float, max_seconds: float
    ) -> Iterator[Record]:
        """Train, and yield a record a step."""
        position, ranks, start = self.position, self.ranks, time.perf_counter()
        batches, following = self._batches(), None
        ranks.check_equal(self.model.params, position.step)
        while position.epoch <= epochs and position.step < max_steps:
            begin, rollbacks = time.perf_counter(), position.rollbacks
            current = following or self._first(next(batches))
            if self.max_rollbacks:
                following = self._step_and_look_ahead(current, batches)
            else:
                self._update(current)
            self._move(current)
            if position.step % _CHECKED_EVERY == 0:
                ranks.check_equal(self.model.params, position.step)
            end, batch = time.perf_counter(), current.batch
            stop = position.step >= max_steps
            if not stop and max_seconds < math.inf:
                stop = bool(ranks.highest(end - start >= max_seconds)[0])
            held_out = None
            if validation is not None and (batch.is_last or stop):
                held_out = evaluate(self.model, validation)
            yield Record(
                batch.epoch,
                position.step,
                current.loss,
                current.norm,
                batch.inputs.size * ranks.size,
                end - begin,
                held_out,
                position.rollbacks - rollbacks,
            )
            if stop:
                return

    def _batches(self) -> Iterator[_Batch]:
        """Yield what is still to come, epoch after epoch, without end."""
        rng = self.rng
        epoch_rng, remaining = self._remaining()
        for epoch in itertools.count(self.position.epoch):
            for (inputs, targets), is_last in _marking_last(remaining):
                now = rng.bit_generator.state
                yield _Batch(epoch, inputs, targets, is_last, epoch_rng, now)
            epoch_rng, remaining = rng.bit_generator.state, self.make_batches(0)

    def _remaining(self) -> tuple[Mapping[str, Any], Iterator[tuple[Array, Array]]]:
        """Return the Generator's state when the epoch began, and what is to come of the epoch."""
        position, rng = self.position, self.rng
        if position.epoch_rng is None or position.rng is None:
            return rng.bit_generator.state, self.make_batches(0)
        rng.bit_generator.state = position.epoch_rng
        remaining = self.make_batches(position.batch)
        first = next(remaining)  # draws once more what was drawn then
        rng.bit_generator.state = position.rng
        return position.epoch_rng, itertools.chain([first], remaining)

    def _first(self, batch: _Batch) -> _Gradient:
        """Return what a batch gives without a step before it, at which to look ahead."""
        try:
            return self._gradient(batch, self.position.step, self.position.state)
        except NonFiniteError as error:
            if not self.max_rollbacks:
                raise
            raise NonFiniteError(
                f"{error}; there is no step before it in this run that could be taken back"
            ) from None

    # What overflows is found in what comes out.
    @np.errstate(over="ignore", invalid="ignore")
    def _gradient(self, batch: _Batch, step: int, state: State) -> _Gradient:
        """Return what a batch gives, or say where a number of it stops being finite."""
        model, ranks, rng = self.model, self.ranks, self.rng
        rng.bit_generator.state = batch.rng
        masks = ranks.generator(rng)
        own_loss, own_grads, final = model.loss_and_grads(
            batch.inputs,
            batch.targets,
            state,
            rng=masks,
            recompute_every=self.recompute_every,
            threads=self.threads,
        )
        is_finite = all(np.isfinite(part).all() for part in as_parts(final))
        # What goes wrong on one rank is known to all, and none waits for it.
        loss, grads = ranks.mean(own_loss if is_finite else np.nan, own_grads)
        try:
            norm = clip_grad_norm(grads, self.max_norm)
        except NonFiniteError:
            norm = math.inf
        if not (np.isfinite(loss) and np.isfinite(norm)):
            results = own_grads | {"the carried state": np.array(as_parts(final))}
            origin = first_non_finite(
                model, batch.inputs, batch.targets, state, results, batch.rng, masks
            )
            raise NonFiniteError(
                f"step {step + 1}, loss {own_loss}: {ranks.first_told(origin) or _ONLY_IN_THE_MEAN}"
            )
        following = final if self.carry_state and not batch.is_last else None
        now = rng.bit_generator.state
        return _Gradient(batch, step, float(loss), grads, norm, following, now)

    def _step_and_look_ahead(self, current: _Gradient, batches: Iterator[_Batch]) -> _Gradient:
        """Take a step that the next batch finds good, with as small a rate as that needs.

        Return what the next batch gives: it is not computed again. As a step that is done is never
        doubted afterwards, there is nothing to be kept for it when training is interrupted.
        """
        batch, position = next(batches), self.position
        params, kept = self.model.params, self.optimizer.state_dict()  # type: ignore[attr-defined]
        good = {name: value.copy() for name, value in params.items()}
        while True:
            try:
                self._update(current)
                return self._gradient(batch, current.step + 1, current.state)
            except NonFiniteError as error:
                for name, value in good.items():
                    np.copyto(params[name], value)
                self.optimizer.load_state_dict(kept)  # type: ignore[attr-defined]
                if position.rollbacks == self.max_rollbacks:
                    raise NonFiniteError(
                        f"{error}; all {position.rollbacks} rollbacks are used up, the learning "
                        f"rate is {self.optimizer.lr:.3g} and the weights are the last good ones"
                    ) from None
                position.rollbacks += 1
                self.optimizer.lr /= 2

    def _update(self, current: _Gradient) -> None:
        """Change the weights; an update that overflows is an error, before the next batch is."""
        optimizer = self.optimizer
        if self.schedule is not None:
            optimizer.lr = self.schedule(current.step) / 2**self.position.rollbacks
        try:
            with np.errstate(over="raise", invalid="raise"):
                optimizer.step(current.grads)
        except FloatingPointError as error:
            raise NonFiniteError(
                f"step {current.step + 1}, loss {current.loss}: the update of the weights is not "
                f"finite with a learning rate of {optimizer.lr:.3g} ({error})"
            ) from None

    def _move(self, done: _Gradient) -> None:
        """Take note of a step: within its epoch, or on to the next."""
        position, batch = self.position, done.batch
        position.step, position.state, position.rng = done.step + 1, done.state, done.rng
        if batch.is_last:
            position.epoch, position.batch, position.epoch_rng = batch.epoch + 1, 0, None
        else:
            position.batch, position.epoch_rng = position.batch + 1, batch.epoch_rng


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
        rollbacks=sum(record.rollbacks for record in epoch),
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
