"""Learning rates as functions of the step.

Each function here returns a `Schedule`: call it with the number of steps taken so far, from 0, and
it answers with the learning rate of the next. It holds no other state, so a run that is continued
at step n asks for `schedule(n)`. `train` takes one as its `lr`; a loop of one's own writes
``optimizer.lr = schedule(step)`` before each step. Any function of the step does as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from . import _validation as check


class Schedule:
    """A function from the step to the learning rate that says what it is.

    Parameters
    ----------
    description : str
        The call that made it, which `repr` shows.
    rate : function of an int
        The function itself.
    """

    def __init__(self, description: str, rate: Callable[[int], float]) -> None:
        self._description = description
        self._rate = rate

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self._rate(check.integer("step", step, minimum=0))

    def __repr__(self) -> str:
        """Show the call that made it."""
        return self._description


def constant(lr: float) -> Schedule:
    """Return a schedule that never changes: η_t = lr.

    Parameters
    ----------
    lr : float
        At least 0.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    lr = _rate("lr", lr)
    return Schedule(f"constant({lr!r})", lambda step: lr)


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """Return a schedule that falls in steps: η_t = lr · factor^⌊t / every⌋.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    every : int
        Steps between two changes.
    factor : float, default 0.1
        What the rate is multiplied with, at least 0.

    Examples
    --------
    >>> [step_decay(0.8, every=2, factor=0.5)(t) for t in range(6)]
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    """
    lr, every, factor = _rate("lr", lr), check.integer("every", every), _rate("factor", factor)
    return Schedule(
        f"step_decay({lr!r}, every={every}, factor={factor!r})",
        lambda step: lr * factor ** (step // every),
    )


def exponential(lr: float, factor: float) -> Schedule:
    """Return a schedule that falls by the same factor with every step: η_t = lr · factor^t.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    factor : float
        In [0, 1]. To reach a hundredth after n steps, 0.01 ** (1 / n).

    Examples
    --------
    >>> [exponential(0.8, 0.5)(t) for t in range(4)]
    [0.8, 0.4, 0.2, 0.1]
    """
    lr, factor = _rate("lr", lr), check.real("factor", factor, "[0, 1]")
    return Schedule(f"exponential({lr!r}, factor={factor!r})", lambda step: lr * factor**step)


def cosine(lr: float, total_steps: int, final: float = 0.0) -> Schedule:
    """Return a schedule that falls along half a wave, slowly at both ends.

    η_t = final + (lr - final) (1 + cos(π t / total_steps)) / 2, and `final` after that: Loshchilov
    and Hutter (2017), "SGDR: stochastic gradient descent with warm restarts", without the restarts.

    Parameters
    ----------
    lr : float
        The first rate, at least 0.
    total_steps : int
        Step at which `final` is reached.
    final : float, default 0
        The last rate, at least 0.

    Examples
    --------
    >>> schedule = cosine(0.4, total_steps=100)
    >>> [round(schedule(t), 6) for t in (0, 25, 50, 75, 100, 500)]
    [0.4, 0.341421, 0.2, 0.058579, 0.0, 0.0]
    """
    lr, final = _rate("lr", lr), _rate("final", final)
    total_steps = check.integer("total_steps", total_steps)

    def rate(step: int) -> float:
        angle = math.pi * min(step / total_steps, 1)
        return final + (lr - final) * (1 + math.cos(angle)) / 2

    return Schedule(f"cosine({lr!r}, total_steps={total_steps}, final={final!r})", rate)


def warm_up(schedule: Callable[[int], float], steps: int) -> Schedule:
    """Return a schedule with a linear rise in front: η_t = schedule(t) · min(1, (t + 1) / steps).

    Large steps harm most while the weights are still random: Goyal et al. (2017), "Accurate, large
    minibatch SGD", section 2.2. The wrapped schedule counts from the first step on, so that a
    cosine ends where it would have ended without the rise. The first rate is above 0.

    Parameters
    ----------
    schedule : function of the step
        One of the schedules here, or any other.
    steps : int
        Steps of the rise; the last of them has the full rate. 0 and 1 change nothing.

    Examples
    --------
    >>> schedule = warm_up(constant(0.4), steps=4)
    >>> [round(schedule(t), 6) for t in range(6)]
    [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    >>> warm_up(cosine(0.3, total_steps=2000), steps=100)
    warm_up(cosine(0.3, total_steps=2000, final=0.0), steps=100)
    """
    if not callable(schedule):
        raise TypeError(
            f"schedule must be a function of the step, got {schedule!r}: constant(lr) makes one"
        )
    steps = check.integer("steps", steps, minimum=0)

    def rate(step: int) -> float:
        full = schedule(step)
        return full * (step + 1) / steps if step + 1 < steps else full

    return Schedule(f"warm_up({schedule!r}, steps={steps})", rate)


def _rate(name: str, value: float) -> float:
    return check.real(name, value, "[0, inf)")
