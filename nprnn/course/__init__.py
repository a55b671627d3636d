"""Exercises in backpropagation through time: write it yourself, and have it checked.

``nprnn exercise`` is the same on the command line.
"""

from .catalogue import case, exercises, solution, start
from .checking import check

__all__ = ["case", "check", "exercises", "solution", "start"]
