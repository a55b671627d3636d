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
    rest = list(arguments[1:])
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        del rest[: 2 if rest[0] in ("-W", "-X") else 1]  # these are followed by a value
    if rest[:1] == ["-m"]:
        return rest[1:2] == ["nprnn"]
    return bool(rest) and os.path.splitext(os.path.basename(rest[0]))[0] in (
        "nprnn",
        "nprnn-script",
    )


if is_command(sys.orig_argv):
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
