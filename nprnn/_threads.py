"""One thread for the command, which has to be said before NumPy is loaded.

Products as small as those of a text model gain from a second thread on an idle machine, and wait
for it on a busy one; with one they take the same time on both. Who sets the variable is obeyed, and
a program that imports the package is left alone.
"""

import os
import sys
from collections.abc import Sequence


def is_command(arguments: Sequence[str]) -> bool:
    """Whether a process with these arguments is ``nprnn`` or ``python -m nprnn``."""
    for option, following in zip(arguments[1:], [*arguments[2:], ""], strict=True):
        if option == "-m":
            return following == "nprnn"
        if not option.startswith("-"):
            return os.path.splitext(os.path.basename(option))[0] in ("nprnn", "nprnn-script")
    return False


if is_command(sys.orig_argv):
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
