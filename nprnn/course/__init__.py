"""Exercises in backpropagation through time: write it yourself, and have it checked.

``nprnn exercise`` is the same on the command line.
"""

from .checking import check
from .exercises import case, exercises, solution, start

__all__ = ["case", "check", "exercises", "solution", "start"]
