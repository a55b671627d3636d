"""What a check found, for people and for programs."""

from __future__ import annotations

import json
import textwrap
from typing import Any, NamedTuple

_WIDTH = 80


class Result(NamedTuple):
    """What is to be said about one function.

    `status` is one of passed, failed, error (an exception), not_written, missing, skipped (it needs
    one that does not pass), timeout, died. `case` holds the sizes and the seed of the smallest case
    that fails, `diagnosis` the mistakes that lead to the answers given: pairs of a name and a line
    of mathematics.
    """

    exercise: str
    function: str
    status: str
    message: str = ""
    case: dict[str, int] | None = None
    diagnosis: tuple[tuple[str, str], ...] = ()

    def lines(self, width: int) -> list[str]:
        """Tell it, the name of the function in a column."""
        head = f"{self.function:{width}}  {_VERBS[self.status]}"
        if self.status == "skipped":
            return _wrap(f"{head}: {self.message}", "  ")
        lines = [head]
        for line in self.message.splitlines():
            lines += _wrap(f"  {line}", "    ")
        if self.case is not None:
            lines += self._about_case()
        if self.diagnosis:
            several = len(self.diagnosis) > 1
            lines.append(f"  {'each of these explains it' if several else 'this explains it'}:")
        for explanation, mathematics in self.diagnosis:
            lines += _wrap(f"  - {explanation}", "    ") + _wrap(f"      {mathematics}", "      ")
        return lines

    def _about_case(self) -> list[str]:
        sizes = dict(self.case or {})
        seed = sizes.pop("seed")
        told = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
        call = f'nprnn.course.case("{self.exercise}", {told}, seed={seed})'
        head = _wrap(f"  smallest failing case: {told}, seed {seed}; its arrays:", "    ")
        return head + _wrap(f"    {call}", "      ")


_VERBS = {
    "passed": "passes",
    "failed": "fails",
    "error": "fails",
    "timeout": "fails",
    "died": "fails",
    "not_written": "is not written yet",
    "missing": "is missing",
    "skipped": "was not checked",
}


class Report(NamedTuple):
    """What `check` found in a file; `str` tells it.

    `results` has an entry for each function of the exercises that the file defines. `error` is a
    sentence if none could be checked.
    """

    file: str
    results: tuple[Result, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether there is something to check, and all of it passes."""
        return bool(self.results) and all(result.status == "passed" for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        results = []
        for result in self.results:
            pairs = [{"name": name, "mathematics": line} for name, line in result.diagnosis]
            results.append({**result._asdict(), "diagnosis": pairs})
        return {"file": self.file, "passed": self.passed, "error": self.error, "results": results}

    def to_json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        if self.error is not None:
            return "\n".join(_wrap(self.error, ""))
        width = max(len(result.function) for result in self.results)
        lines = [line for result in self.results for line in result.lines(width)]
        passed = sum(result.status == "passed" for result in self.results)
        return "\n".join([*lines, f"{passed} of {len(self.results)} passed"])


def _wrap(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
